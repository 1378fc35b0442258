"""This process among its ranks: meeting the others, saying what it does, and ending with one message for all.

A process that is alone meets nobody: every function here then does nothing, and imports nothing heavy.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rmx.errors import ConfigError, RankError, RmxError, TimeUp, first_line
from rmx.launch.origin import PARENT_VARIABLE, STORE_VARIABLE, adopt

if TYPE_CHECKING:
    from rmx.launch.board import Board

__all__ = ["end_with", "meet", "named_waits", "note", "refuse_other_ranks", "stop_with_parent"]

_SECONDS_TO_REPORT = 5.0  # for reaching the board when a rank ends before it has met the others
_SECONDS_TO_CLOSE = 60.0  # for the trackers of rank 0, which a launcher stops once another rank has ended
_SECONDS_TO_HEAR = 2.0  # for another rank's reason to arrive, after its connection has broken
_PR_SET_PDEATHSIG = 1  # <sys/prctl.h>

_board: Board | None = None  # of this process, like torch.distributed's own default group


def meet(seconds: float) -> Board | None:
    """Wait for all ranks, so that who does not come is named; None for a process that is alone.

    Raises:
        ConfigError: the variables of the launcher do not fit together, or rank 0's port is in use.
        RankError: a rank has not come in that time.
    """
    global _board
    origin = adopt()
    if origin.ranks == 1:
        return None
    from rmx.launch.board import Board

    if _board is None:
        _board = Board.open(origin, seconds)
        _board.meet(seconds)
    return _board


def refuse_other_ranks(asked: int | str | None) -> None:
    """Refuse `parallel.processes` where the processes were started otherwise, and are not so many.

    Raises:
        ConfigError: the number of ranks is another.
    """
    origin = adopt()
    if asked is None or asked == "auto" or asked == origin.ranks:
        return
    if origin.launcher == "alone":
        raise ConfigError(
            f"parallel.processes: {asked}, but a run that is called from Python has the one process that calls it; "
            "leave it out, or use the command: rmx parallel.processes=..."
        )
    raise ConfigError(
        f"parallel.processes: {asked}, but {origin.launcher} has started {origin.ranks}; leave parallel.processes out, "
        "or start one process and let rmx start the others"
    )


def note(doing: str) -> None:
    """Say what this rank does from now on, in words that follow "last seen"."""
    if _board is not None:
        _board.note(doing)


@contextlib.contextmanager
def named_waits() -> Iterator[None]:
    """In this block, an error of torch.distributed becomes a message: who was waited for, and where.

    Raises:
        RankError: another rank has ended, or has not answered in time.
    """
    try:
        yield
    except RmxError:
        raise
    except RuntimeError as error:
        if _board is None or not is_of_other_rank(error):
            raise
        raise RankError(_waited_for(_board, error)) from error


def is_of_other_rank(error: RuntimeError) -> bool:
    """Whether an error says that another process has ended or did not answer.

    >>> is_of_other_rank(RuntimeError("[/pytorch/third_party/gloo] Connection closed by peer [127.0.0.1]:33"))
    True
    >>> is_of_other_rank(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    False
    """
    import torch.distributed as dist

    return isinstance(error, dist.DistError) or bool(
        re.search(r"(?i)gloo|nccl|closed by peer|reset by peer|broken pipe", str(error))
    )


def _waited_for(board: Board, error: RuntimeError) -> str:
    """Name the ranks that keep this one waiting, and where both are."""
    until = time.monotonic() + _SECONDS_TO_HEAR
    while not (gone := [f for f in board.failures() if not f.is_consequence]) and time.monotonic() < until:
        time.sleep(0.1)
    here = board.doing(board.rank or 0)
    place = f"rank {board.rank} on {board.host}, {here['doing'] if here else 'starting'}"
    if gone:
        return f"{place}: rank {gone[0].rank} on {gone[0].host} has ended: {gone[0].message}"
    others = [rank for rank in range(board.ranks) if rank != board.rank]
    if not board.answers():
        return (
            f"{place}: lost its connection while waiting for {_ranks_in_words(others)}, and to what keeps the notes of "
            f"all ranks at {board.where} as well: look at the output there first; torch says: {first_line(error)}"
        )
    late = board.behind() or others  # all at the same place: any of them may be the one
    named = "; ".join(board.described(rank) for rank in late[:8]) + ("; ..." if len(late) > 8 else "")
    waited = "got no answer in time" if re.search(r"(?i)timed? ?out", str(error)) else "lost its connection"
    return (
        f"{place}: {waited} (parallel.timeout_minutes) while waiting for {named}. The reason is in the output there; "
        f"torch says: {first_line(error)}"
    )


def _ranks_in_words(ranks: list[int]) -> str:
    """Name a few ranks.

    >>> _ranks_in_words([0]), _ranks_in_words([0, 2, 3])
    ('rank 0', 'ranks 0, 2, 3')
    """
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks[:8]))}{', ...' if len(ranks) > 8 else ''}"


# --- The end ----------------------------------------------------------------------------------------------------------


def end_with(message: str, error: BaseException, exit_code: int) -> None:
    """Print why this process ends, unless another rank or the process that started the ranks says it.

    Args:
        message: whole lines, as a user reads them.
        error: what ended it.
        exit_code: what it ends with.
    """
    board = _board or (_late_board() if _is_rank() else None)
    if board is None:
        sys.stderr.write(message)
        return
    from rmx.launch.board import Failure

    said = message.removeprefix("rmx: ").strip()
    failure = Failure(board.rank or 0, type(error).__name__, said, exit_code, board.host, time.time())
    known = isinstance(error, RankError) and any(not f.is_consequence for f in board.failures())
    elsewhere = STORE_VARIABLE in os.environ or known  # by the process that started the ranks, or the rank meant
    speaks = not elsewhere and board.is_first(message)
    board.failed(failure)  # the last that is asked of the board: its host may end once all have said how they did
    if speaks:
        sys.stderr.write(message)
    if isinstance(error, TimeUp) and board.rank:
        board.wait_for_end(0, _SECONDS_TO_CLOSE)
    board.stay(_SECONDS_TO_HEAR)


def _is_rank() -> bool:
    """Whether there are others, or a process that started this one says how it ended."""
    return STORE_VARIABLE in os.environ or os.environ.get("WORLD_SIZE", "1") not in ("", "0", "1")


def _late_board() -> Board | None:
    """The board for a rank that ends before it has met the others; None where nobody answers."""
    try:
        from rmx.launch.board import Board

        return Board.open(adopt(), _SECONDS_TO_REPORT)
    except (RmxError, RuntimeError):  # this process then speaks for itself
        return None


def stop_with_parent() -> None:
    """Have the kernel end this rank when the rmx that started it is killed (Linux): nobody else could stop it."""
    parent = os.environ.get(PARENT_VARIABLE)
    if parent is None or not sys.platform.startswith("linux"):
        return
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):  # it ended before the line above
        os._exit(1)
