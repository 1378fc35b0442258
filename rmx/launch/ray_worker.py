"""What runs on the machines of a Ray cluster: a worker of Ray Train, whose rank is a process of its own.

    Desk        an actor beside the command that started it all: what is printed and how it ends goes up, stop goes down
    run_rank    the train function: starts `python -m rmx`, hands its output on, judges its end
    NoGroup     a TorchConfig without a process group: the ranks make their own, in their processes
    Losses      tells the desk which worker Ray Train has lost before it starts them again

A rank that ended for a reason of its own (a mistake, its time is up, a signal) ends the job, and the train function
returns; one that was killed, or lost the others, is an accident, and the train function raises: Ray Train then starts
the workers again, as FailureConfig says, and rmx continues from the newest checkpoint of the run folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

import ray
import torch.distributed as dist
from ray.train import UserCallback, get_context
from ray.train.backend import Backend
from ray.train.collective import broadcast_from_rank_zero
from ray.train.torch import TorchConfig

from rmx.errors import ConfigError, Interrupted, RmxError
from rmx.launch.board import Board, Failure
from rmx.launch.local import ended
from rmx.launch.origin import PARENT_VARIABLE, RANK_VARIABLE, STORE_VARIABLE

__all__ = ["Began", "Desk", "Losses", "Lost", "NoGroup", "RankEnded", "RankLost", "RankSaid", "run_rank"]

_LOOK_EVERY_SECONDS = 0.5
_SECONDS_TO_HEAR = 3.0  # for another rank's reason to arrive
_SECONDS_FOR_LAST_LINES = 5.0  # a process of the rank's own may hold its output open after its end


class RankLost(RmxError):
    """A rank has ended by accident: the workers may start again."""


# --- What the desk is told --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Began:
    """The ranks have been started, for the first time or again."""

    ranks: int


@dataclass(frozen=True)
class RankSaid:
    """Lines that a rank has printed."""

    rank: int
    text: str
    is_error: bool = False  # on stderr


@dataclass(frozen=True)
class RankEnded:
    """A rank has ended for a reason of its own, which ends the job."""

    message: str
    exit_code: int


@dataclass(frozen=True)
class Lost:
    """The ranks were lost by accident."""

    message: str


class Desk:
    """An actor: workers tell it what happens, the command that started them listens, and says when to stop."""

    def __init__(self) -> None:
        self.news: list[Any] = []
        self.arrived = asyncio.Event()
        self.stopping = asyncio.Event()

    async def tell(self, what: Any) -> None:
        """Leave news."""
        self.news.append(what)
        self.arrived.set()

    async def told(self, seconds: float) -> list[Any]:
        """Return all news, waiting so long for the first."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.arrived.wait(), seconds)
        found, self.news = self.news, []
        self.arrived.clear()
        return found

    async def stop(self) -> None:
        """Have every rank stop after its checkpoint."""
        self.stopping.set()

    async def until_stop(self) -> None:
        """Return once they have to."""
        await self.stopping.wait()


# --- For Ray Train ----------------------------------------------------------------------------------------------------


class _NoGroupBackend(Backend):
    share_cuda_visible_devices = True  # a rank sees the GPUs of all on its machine and takes that of LOCAL_RANK

    def on_shutdown(self, worker_group: Any, backend_config: Any) -> None:
        """Let the ranks save before the workers are killed: another number of them may be about to start."""
        seconds = backend_config.grace_seconds
        stopped = worker_group.execute_async(_stop_here, seconds)
        ray.wait(stopped, num_returns=len(stopped), timeout=seconds)


@dataclass
class NoGroup(TorchConfig):
    """A TorchConfig whose workers form no process group: that, its port and its GPU memory are the ranks' own.

    Args:
        grace_seconds: time for a checkpoint before workers are killed.
    """

    grace_seconds: float = 60.0

    @property
    def backend_cls(self) -> type[Backend]:
        """Of Ray Train: what to do when workers start and end."""
        return _NoGroupBackend

    @property
    def train_func_context(self) -> type[contextlib.nullcontext[None]]:
        """Of Ray Train: nothing around the train function. TorchConfig's own would open the GPU in the worker too."""
        return contextlib.nullcontext


class Losses(UserCallback):
    """Tells the desk why Ray Train starts the workers again, or gives up."""

    def __init__(self, desk: Any) -> None:
        self.desk = desk

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Of Ray Train: workers have raised, or are gone."""
        ray.get(self.desk.tell.remote(Lost(loss_of(worker_exceptions))))


def loss_of(exceptions: Mapping[int, Exception]) -> str:
    """Say which worker was lost, and how.

    >>> loss_of({0: RankLost("rank 1 (a, process 7), last seen at step 3, was killed by SIGKILL")})
    'rank 1 (a, process 7), last seen at step 3, was killed by SIGKILL'
    >>> loss_of({1: ray.exceptions.ActorDiedError()})
    'rank 1 was lost with its machine or its Ray worker (ActorDiedError)'
    """
    for error in exceptions.values():
        if isinstance(error, RankLost):
            return str(error)
    ranks = sorted(exceptions)
    inner = getattr(exceptions[ranks[0]], "health_check_failure", exceptions[ranks[0]])
    named = f"rank {ranks[0]} was" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))} were"
    return f"{named} lost with its machine or its Ray worker ({type(inner).__name__})"


# --- The worker -------------------------------------------------------------------------------------------------------


class _Exit(NamedTuple):
    """How the process of a rank ended, as torch's elastic launcher describes it."""

    exitcode: int  # negative: by this signal
    timestamp: float  # seconds since 1970


@dataclass
class _Here:
    """What this worker is doing, for a call that comes while the train function runs."""

    stop: threading.Event = field(default_factory=threading.Event)
    idle: threading.Event = field(default_factory=threading.Event)


_here = _Here()
_here.idle.set()


def _stop_here(seconds: float) -> None:
    """Stop the rank of this worker, after its checkpoint, and return when it has ended."""
    _here.stop.set()
    _here.idle.wait(seconds)


@dataclass(frozen=True)
class RankTask:
    """What every worker is to run.

    Args:
        words: of the command line, after `python -m rmx`.
        folder: working folder, which all machines have.
        shared: a folder on the storage that all machines share.
        variables: of the environment.
        on_cpu: whether the ranks see no GPU.
        grace_seconds: time for a checkpoint after a signal.
        desk: the actor.
    """

    words: Sequence[str]
    folder: str
    shared: str
    variables: Mapping[str, str]
    on_cpu: bool
    grace_seconds: float
    desk: Any


def run_rank(config: Mapping[str, Any]) -> None:
    """Run this worker's rank to its end: the train function of Ray Train.

    Args:
        config: the RankTask, as `task`.

    Raises:
        RankLost: it has ended by accident, or another has.
    """
    task: RankTask = config["task"]
    context = get_context()
    rank, ranks = context.get_world_rank(), context.get_world_size()
    store, host, port = _meeting_point(rank)
    board = Board(dist.PrefixStore("rmx-0", store), None, ranks, where=f"{host}:{port}")
    if rank == 0:
        ray.get(task.desk.tell.remote(Began(ranks)))
    asked = task.desk.until_stop.remote()
    place = {
        "RANK": rank,
        "WORLD_SIZE": ranks,
        "LOCAL_RANK": context.get_local_rank(),
        "LOCAL_WORLD_SIZE": context.get_local_world_size(),
        "MASTER_ADDR": host,
        "MASTER_PORT": port,
    }
    variables = {STORE_VARIABLE: f"{host}:{port}", **(place if ranks > 1 else {})}  # one that is alone meets nobody
    if missing := _missing_folder(task):
        board.failed(Failure(rank, ConfigError.__name__, missing, ConfigError.exit_code, board.host, time.time()))
        exit_ = _Exit(ConfigError.exit_code, time.time())
    else:
        exit_ = _run(task, rank, board, asked, {name: str(value) for name, value in variables.items()})
    if exit_.exitcode != 0 and not _here.stop.is_set():  # Ray Train ends it, and knows why
        ray.get(task.desk.tell.remote(_judged(board, rank, exit_, asked=_is_ready(asked))))


def _meeting_point(rank: int) -> tuple[dist.TCPStore, str, int]:
    """Return a store that all ranks reach, and where it is: in the worker of rank 0, so that it survives each rank."""
    if rank == 0:
        host = str(ray.util.get_node_ip_address())
        store = dist.TCPStore(host, 0, None, True, wait_for_workers=False)
        broadcast_from_rank_zero({"host": host, "port": store.port})
        return store, host, store.port
    place = broadcast_from_rank_zero(None)
    return dist.TCPStore(place["host"], place["port"], None, False), place["host"], place["port"]


def _missing_folder(task: RankTask) -> str:
    for folder, what in ((task.folder, "the folder that rmx was started in"), (task.shared, "the run folder")):
        if not Path(folder).is_dir():
            return (
                f"launch=ray: {what} is not on {socket.gethostname()}: {folder}; all machines of the cluster need it. "
                "Give an output_dir on storage that all of them share, and start rmx in a folder that all have"
            )
    return ""


def _run(task: RankTask, rank: int, board: Board, asked: Any, variables: Mapping[str, str]) -> _Exit:
    """Run `python -m rmx WORDS`, hand on what it prints, and pass on signals."""
    own = {PARENT_VARIABLE: str(os.getpid()), RANK_VARIABLE: "1"}
    if task.on_cpu:
        own["CUDA_VISIBLE_DEVICES"] = ""
    quiet = {"TORCH_CPP_LOG_LEVEL": "ERROR"}  # else pages of stack frames when the machine with the notes is lost
    process = subprocess.Popen(
        [sys.executable, "-m", "rmx", *task.words],
        cwd=task.folder,
        env={**quiet, **os.environ, **task.variables, **variables, **own},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    _here.idle.clear()
    try:
        streams = ((process.stdout, False), (process.stderr, True))
        readers = [_handed_on(task.desk, rank, stream, is_error) for stream, is_error in streams]
        _wait(process, task, board, asked)
        exit_ = _Exit(process.returncode, time.time())
        for reader in readers:
            reader.join(_SECONDS_FOR_LAST_LINES)
        return exit_
    finally:
        _here.idle.set()


def _handed_on(desk: Any, rank: int, stream: IO[str] | None, is_error: bool) -> threading.Thread:
    """Start telling the desk each line of a stream."""

    def work() -> None:
        for line in stream or ():
            ray.get(desk.tell.remote(RankSaid(rank, line, is_error)))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def _wait(process: subprocess.Popen[str], task: RankTask, board: Board, asked: Any) -> None:
    """Wait for the rank's end; where it is to stop, tell it so, and kill it when its grace is over.

    It is told by SIGTERM, also where the user has pressed Ctrl-C: what Ray starts has SIGINT blocked.
    """
    kill_at = float("inf")
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_LOOK_EVERY_SECONDS)
            return
        if time.monotonic() > kill_at:
            process.kill()
        elif kill_at == float("inf") and _has_to_stop(asked, board):
            process.terminate()
            kill_at = time.monotonic() + task.grace_seconds


def _has_to_stop(asked: Any, board: Board) -> bool:
    """Whether the user, Ray Train, or the end of another rank wants this one to stop."""
    return _is_ready(asked) or _here.stop.is_set() or any(not failure.is_consequence for failure in board.failures())


def _is_ready(answer: Any) -> bool:
    return bool(ray.wait([answer], timeout=0)[0])


def _judged(board: Board, rank: int, exit_: _Exit, *, asked: bool) -> RankEnded:
    """Return what to tell the user of this end; where the user has asked for it, it is no accident.

    Raises:
        RankLost: it was an accident.
    """
    end = ended(board, {rank: exit_})
    said = {failure.rank for failure in board.failures()}
    until = time.monotonic() + _SECONDS_TO_HEAR
    follows = rank in said and not asked  # another rank's end is the reason, and may not be known yet
    while end.by_accident and follows and time.monotonic() < until:
        time.sleep(_LOOK_EVERY_SECONDS)
        end = ended(board, {rank: exit_})
    if end.by_accident and asked:
        stopped = Interrupted(signal.SIGTERM)
        return RankEnded(str(stopped), stopped.exit_code)
    if end.by_accident:
        raise RankLost(str(end))
    return RankEnded(str(end), end.exit_code)
