"""One rank as a cluster runs it: `python -m rmx WORDS` in a process of its own, with the variables of its place.

Slurm (through submitit) runs Python functions on its nodes; this is that function. The rank is a process, so that its
exit code is its own and what it imports meets nothing of the cluster's.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rmx.errors import Interrupted, RmxError, TimeUp
from rmx.launch.origin import PARENT_VARIABLE, RANK_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["RankCommand", "RankEnd", "RanksEnded", "raise_end_of"]

_LAST_LINES = 20  # of what a rank says at its end


class RanksEnded(RmxError):
    """The ranks have ended, and not with success; `exit_code` is that of the rank which ended first."""

    def __init__(self, message: str, exit_code: int, *, by_accident: bool = False) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.by_accident = by_accident  # starting again may help


@dataclass(frozen=True)
class RankEnd:
    """How a rank ended, and what it said of it."""

    rank: int
    exit_code: int
    said: str = ""


class RankCommand:
    """The command of all ranks, to be called once for each of them where it is to run.

    Args:
        words: of the command line, after `python -m rmx`.
        folder: working folder, which all nodes have to share.
    """

    def __init__(self, words: Sequence[str], folder: str) -> None:
        self.words, self.folder = list(words), folder
        self.process: subprocess.Popen[str] | None = None

    def __call__(self, variables: Mapping[str, str]) -> RankEnd:
        """Run one rank to its end, with RANK, WORLD_SIZE, ... as given; its output goes to this process's."""
        environment = {**os.environ, **variables, PARENT_VARIABLE: str(os.getpid()), RANK_VARIABLE: "1"}
        command = [sys.executable, "-m", "rmx", *self.words]
        said: list[str] = []
        with subprocess.Popen(command, cwd=self.folder, env=environment, stderr=subprocess.PIPE, text=True) as process:
            self.process = process
            for line in process.stderr or ():
                sys.stderr.write(line)
                sys.stderr.flush()
                said = [line] if line.startswith("rmx: ") else [*said, line] if said else []
        code = process.returncode
        return RankEnd(int(variables["RANK"]), 128 - code if code < 0 else code, "".join(said[:_LAST_LINES]).strip())

    def stop(self) -> None:
        """Ask the rank to save and end."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)


def raise_end_of(ends: Iterable[RankEnd]) -> None:
    """Return where all ranks ended well; else say what the one said that ended for a reason of its own.

    Raises:
        RanksEnded: one of them did not end with success.

    >>> raise_end_of([RankEnd(0, 1), RankEnd(1, 2, "rmx: data: no such file")])
    Traceback (most recent call last):
    rmx.launch.rank_command.RanksEnded: data: no such file
    """
    bad = [end for end in ends if end.exit_code != 0]
    if not bad:
        return
    stopped = (TimeUp.exit_code, Interrupted(signal.SIGTERM).exit_code)
    order = sorted(bad, key=lambda end: (not end.said, end.exit_code in stopped, end.exit_code == 1, end.rank))
    first = order[0]
    said = (
        first.said.removeprefix("rmx: ") or f"rank {first.rank} ended with exit code {first.exit_code}; see its output"
    )
    raise RanksEnded(said, first.exit_code)
