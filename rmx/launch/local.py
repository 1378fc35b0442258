"""launch=local: rmx starts its ranks itself, as processes of this machine, through torch's elastic launcher."""

from __future__ import annotations

import logging
import math
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rmx.errors import Interrupted, RmxError
from rmx.launch.origin import PARENT_VARIABLE, STORE_VARIABLE
from rmx.launch.rank_command import RanksEnded
from rmx.values import AtLeastZero, Whole, refuse_wrong_fields

if TYPE_CHECKING:
    from rmx.launch.board import Board

__all__ = ["LocalRanks", "ProcessEnd", "RanksEnded", "ended"]

log = logging.getLogger(__name__)

_SECONDS_TO_NOTICE = 3.0  # between the end of a process and the launcher's look at it
_SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGUSR1"  # handed on to the ranks, which save and end


class ProcessEnd(Protocol):
    """How a process ended, as torch's elastic launcher has it in ProcessFailure."""

    @property
    def exitcode(self) -> int:
        """Negative: by this signal."""

    @property
    def timestamp(self) -> float:
        """Seconds since 1970."""


@dataclass(frozen=True)
class LocalRanks:
    """Ranks as processes of this machine; `parallel.processes` says how many.

    Args:
        max_restarts: how often the ranks start again after one was killed; they go on from the last checkpoint.
        grace_seconds: time for a checkpoint when the run is stopped, before the ranks are killed.

    >>> LocalRanks(max_restarts=2)
    LocalRanks(max_restarts=2, grace_seconds=60.0)
    """

    max_restarts: Whole = 0
    grace_seconds: AtLeastZero = 60.0

    def __post_init__(self) -> None:
        refuse_wrong_fields(self, "launch")

    def processes(self, asked: int | str | None) -> int:
        """Return how many ranks `parallel.processes` means on this machine."""
        if asked != "auto":
            return 1 if asked is None else int(asked)
        import torch

        return max(1, torch.cuda.device_count())

    def starts(self, processes: int) -> bool:
        """Whether so many ranks are started as processes of their own: a single one is the process that is here."""
        return processes > 1

    def start(self, words: Sequence[str], processes: int, folder: Path) -> None:
        """Run `python -m rmx WORDS` in so many ranks and wait for their end.

        Raises:
            RanksEnded: a rank has ended without success; with its message and its exit code.
            Interrupted: a signal came while no rank was at work.
        """
        left = self.max_restarts
        while True:
            try:
                self._run_once(words, processes)
                return
            except RanksEnded as error:
                if not error.by_accident or left == 0:
                    raise
                left -= 1
                sys.stderr.write(f"rmx: {error}\nrmx: starting the ranks again ({left} restarts left)\n")

    def _run_once(self, words: Sequence[str], processes: int) -> None:
        import torch.distributed as dist
        from torch.distributed.elastic.multiprocessing import SignalException
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.launcher.api import LaunchConfig, elastic_launch

        from rmx.launch.board import Board

        logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # its reports; ours names the rank
        store = dist.TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
        board = Board(dist.PrefixStore("rmx-0", store), None, processes)
        os.environ |= {STORE_VARIABLE: f"127.0.0.1:{store.port}", PARENT_VARIABLE: str(os.getpid())}
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id=f"rmx-{os.getpid()}-{time.time_ns()}",
            rdzv_backend="c10d",
            rdzv_endpoint="127.0.0.1:0",
            local_addr="127.0.0.1",
            max_restarts=0,  # restarts are decided here, where it is known why a rank ended
            signals_to_handle=_SIGNALS,
            shutdown_timeout=int(self.grace_seconds),
        )
        handlers = {number: signal.getsignal(number) for number in map(signal.Signals.__getitem__, _SIGNALS.split(","))}
        try:
            elastic_launch(config, sys.executable)("-m", "rmx", *words)
        except ChildFailedError as error:
            raise ended(board, error.failures) from None
        except SignalException as error:
            raise _stopped(board, int(error.sigval)) from None
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            del os.environ[STORE_VARIABLE], os.environ[PARENT_VARIABLE]


def _stopped(board: Board, number: int) -> RmxError:
    """The end by a signal: what rank 0 says of its checkpoint."""
    said = [failure for failure in board.failures() if failure.kind == "Interrupted"]
    if not said:
        return Interrupted(number)
    return RanksEnded(said[0].message, 130 if number == signal.SIGINT else 143)


def ended(board: Board, killed: Mapping[int, ProcessEnd]) -> RanksEnded:
    """Find the rank that ended first and for a reason of its own, and say what happened to it.

    A rank that gave its reason comes first; then one that could not, because it was killed; then one that got a
    signal; then those that lost their connection.
    """
    said = board.failures()
    own = next((failure for failure in said if not failure.is_consequence), None)
    if own is not None:
        alone = own.rank != 0 and sum(failure.message == own.message for failure in said) < board.ranks
        message = f"rank {own.rank} on {own.host}: {own.message}" if alone else own.message
        return RanksEnded(message, own.exit_code)
    first = min((failure.time for failure in said), default=math.inf)
    silent = {rank: end for rank, end in killed.items() if rank not in {failure.rank for failure in said}}
    silent = {rank: end for rank, end in silent.items() if end.timestamp <= first + _SECONDS_TO_NOTICE}
    if silent:
        rank = min(silent, key=lambda number: silent[number].timestamp)
        return RanksEnded(f"{board.described(rank)}, {_how(silent[rank].exitcode)}", 1, by_accident=True)
    stopped = next((failure for failure in said if failure.kind != "RankError"), said[0])
    return RanksEnded(stopped.message, stopped.exit_code, by_accident=stopped.kind == "RankError")


def _how(code: int) -> str:
    """Say how a process ended that could not say it itself."""
    how = f"ended with exit code {code} and gave no reason; its output is above"
    if code < 0:
        out = " (often: out of memory)" if code == -signal.SIGKILL else ""
        how = f"was killed by {signal.Signals(-code).name}{out}"
    return f"{how}; the others were stopped, and the same command in this folder continues from the last checkpoint"
