"""What every rank is doing and how it ended, in a store that all ranks can read: so that a message can name a rank.

    torchrun, rmx       the store lives in the process that started the ranks, and survives each of them
    srun, mpirun        it lives in rank 0

Writing a note costs microseconds and waits for nobody. A board that cannot be reached any more keeps nothing from
working: notes are for people.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TypeVar

import torch.distributed as dist

from rmx.errors import ConfigError, RankError
from rmx.launch.origin import STORE_VARIABLE, Origin

__all__ = ["Board", "Failure", "wait_for_port"]

POLL_SECONDS = 0.1
_ANSWER_SECONDS = 10.0  # a store that takes longer is gone: its machine hangs, or the network to it

_T = TypeVar("_T")


@dataclass(frozen=True)
class Failure:
    """How a rank ended on its own account."""

    rank: int
    kind: str  # the class of the error
    message: str
    exit_code: int
    host: str = ""
    time: float = 0.0  # seconds since 1970

    @property
    def is_consequence(self) -> bool:
        """Whether it may come from another rank's end, or from the signal that was sent because of it."""
        return self.kind in ("RankError", "Interrupted", "KeyboardInterrupt")


class Board:
    """The notes of all ranks.

    Args:
        store: of torch.distributed.
        rank: whose notes are written; None where they are only read.
        ranks: how many ranks there are.
        is_host: whether the store ends with this process.
        where: host:port of the store, for messages.
    """

    def __init__(
        self, store: dist.Store, rank: int | None, ranks: int, *, is_host: bool = False, where: str = ""
    ) -> None:
        self.store, self.rank, self.ranks, self.is_host, self.where = store, rank, ranks, is_host, where
        self.host = socket.gethostname()
        self.own: dict[str, str | int | float] | None = None  # this rank's last note, also when the store is gone
        self.gone = False  # once the store has not answered in time, or the connection to it has broken

    def ask(self, question: Callable[[], _T], otherwise: _T) -> _T:
        """Return the store's answer, or `otherwise` where there is none: torch would wait for it without limit."""
        found: list[_T] = []

        def work() -> None:
            with self._notices_end():
                found.append(question())

        if self.gone:
            return otherwise
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(_ANSWER_SECONDS)
        self.gone = self.gone or thread.is_alive()
        return found[0] if found else otherwise

    @contextlib.contextmanager
    def _notices_end(self) -> Iterator[None]:
        """Let an error of the store be none, and remember a broken connection.

        torch does not connect again, and prints a C++ stack at each further question, above what a person should read.
        """
        try:
            yield
        except RuntimeError as error:
            self.gone = self.gone or isinstance(error, dist.DistNetworkError)

    @classmethod
    def open(cls, origin: Origin, seconds: float, environ: Mapping[str, str] = os.environ) -> Board:
        """Connect to the store of these ranks, waiting for it up to so many seconds; rank 0 may have to open it.

        Raises:
            ConfigError: the port is in use.
            RankError: nothing answers there.
        """
        named = environ.get(STORE_VARIABLE)
        host, _, port = named.rpartition(":") if named else (origin.address, "", str(origin.port))
        lives_elsewhere = named or environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        opens = origin.rank == 0 and not lives_elsewhere
        if not opens:
            wait_for_port(host, int(port), seconds, origin)
        try:
            store = _connected(host, int(port), opens, seconds)
        except dist.DistNetworkError as error:
            if opens and "EADDRINUSE" in str(error):
                raise ConfigError(
                    f"MASTER_PORT: port {port} on {origin.address} is in use, by another run or another program; "
                    f"set MASTER_PORT to a free one for all {origin.ranks} processes"
                ) from error
            raise RankError(f"rank {origin.rank}: {host}:{port} (MASTER_ADDR, MASTER_PORT): {error}") from error
        attempt = environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        return cls(
            dist.PrefixStore(f"rmx-{attempt}", store), origin.rank, origin.ranks, is_host=opens, where=f"{host}:{port}"
        )

    # --- Writing ------------------------------------------------------------------------------------------------------

    def note(self, doing: str) -> None:
        """Write down what this rank does from now on."""
        self.own = {"doing": doing, "host": self.host, "pid": os.getpid(), "since": time.time()}
        if not self.gone:
            with self._notices_end():
                self.store.set(f"rank-{self.rank}", json.dumps(self.own))

    def failed(self, failure: Failure) -> None:
        """Write down how this rank ended."""

        def write() -> None:
            number = self.store.add("failures", 1)
            self.store.set(f"failure-{number}", json.dumps(asdict(failure)))

        self.ask(write, None)

    def is_first(self, message: str) -> bool:
        """Whether no other rank has said this already."""
        return self.ask(lambda: self.store.add(f"said-{message}", 1) == 1, True)

    def stay(self, seconds: float) -> None:
        """Keep the store for so long, until every rank has said how it ended; where it lives elsewhere, go at once."""
        until = time.monotonic() + seconds
        while self.is_host and len(self.failures()) < self.ranks and time.monotonic() < until:
            time.sleep(POLL_SECONDS)

    def wait_for_end(self, rank: int, seconds: float) -> None:
        """Wait so long for a rank to say how it ended, or to end together with the store."""
        until = time.monotonic() + seconds
        while self.answers() and all(failure.rank != rank for failure in self.failures()):
            if time.monotonic() > until:
                return
            time.sleep(POLL_SECONDS)

    # --- Reading ------------------------------------------------------------------------------------------------------

    def failures(self) -> list[Failure]:
        """Return how ranks ended, in that order."""

        def read() -> list[Failure]:
            names = [f"failure-{number}" for number in range(1, self.store.add("failures", 0) + 1)]
            return [Failure(**json.loads(self.store.get(name))) for name in names if self.store.check([name])]

        return self.ask(read, [])

    def doing(self, rank: int) -> dict[str, str | int | float] | None:
        """Return the last note of a rank; None where it has written none, or nobody can read it."""
        if rank == self.rank:
            return self.own
        name = f"rank-{rank}"
        return self.ask(lambda: json.loads(self.store.get(name)) if self.store.check([name]) else None, None)

    def answers(self) -> bool:
        """Whether the store is still there."""
        return self.ask(lambda: self.store.check(["failures"]) or True, False)

    def described(self, rank: int) -> str:
        """Say where a rank is and what it was last seen doing."""
        note = self.doing(rank)
        if note is None and self.ranks == 1:  # it meets nobody, and leaves no notes
            return f"the process on {self.host}"
        if note is None:
            return f"rank {rank}, which has not started"
        return f"rank {rank} ({note['host']}, process {note['pid']}), last seen {note['doing']}"

    def behind(self) -> list[int]:
        """Return the other ranks whose last note is not this rank's: those that it waits for."""
        mine = self.doing(-1 if self.rank is None else self.rank)
        doing = None if mine is None else mine["doing"]
        others = [rank for rank in range(self.ranks) if rank != self.rank]
        notes = {rank: self.doing(rank) for rank in others}
        return [rank for rank in others if (note := notes[rank]) is None or note["doing"] != doing]

    def meet(self, seconds: float) -> None:
        """Wait until all ranks are here.

        Raises:
            RankError: some have not come in that time, or have ended before they could.
        """
        self.note("starting")
        until = time.monotonic() + seconds
        waiting = [rank for rank in range(self.ranks) if rank != self.rank]
        while waiting := [rank for rank in waiting if self.doing(rank) is None]:
            if gone := [failure for failure in self.failures() if not failure.is_consequence]:
                raise RankError(f"rank {gone[0].rank} on {gone[0].host} ended at the start: {gone[0].message}")
            if time.monotonic() > until:
                names = ", ".join(map(str, waiting[:8])) + (", ..." if len(waiting) > 8 else "")
                raise RankError(
                    f"rank {self.rank} on {self.host} waited {_spoken(seconds)} (parallel.timeout_minutes) at the "
                    f"start for {len(waiting)} of {self.ranks} ranks, which have not come: {names}; their own output "
                    "says why"
                )
            time.sleep(POLL_SECONDS)


def wait_for_port(host: str, port: int, seconds: float, origin: Origin) -> None:
    """Return once something listens there.

    Raises:
        RankError: nothing did in that time.
    """
    until = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host, port), timeout=max(1.0, min(10.0, seconds))).close()
            return
        except OSError as error:
            if time.monotonic() > until:
                raise RankError(
                    f"rank {origin.rank} on {socket.gethostname()} waited {_spoken(seconds)} "
                    f"(parallel.timeout_minutes) for rank 0 at {host}:{port} (MASTER_ADDR, MASTER_PORT), where nothing "
                    f"answers ({error.strerror or error}); the output of rank 0 says why"
                ) from error
        time.sleep(POLL_SECONDS)


def _connected(host: str, port: int, opens: bool, seconds: float) -> dist.Store:
    """Open or reach the store. In a thread: torch waits without limit for a program there that is not a store."""
    made: list[dist.Store | Exception] = []

    def connect() -> None:
        try:
            wait = timedelta(seconds=max(seconds, 1))
            made.append(dist.TCPStore(host, port, None, opens, wait, wait_for_workers=False))
        except RuntimeError as error:
            made.append(error)

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(seconds + 1)
    if not made:
        raise RankError(
            f"{host}:{port} (MASTER_ADDR, MASTER_PORT): something answers there that is not rank 0; set MASTER_PORT to "
            "a free port for all processes"
        )
    if isinstance(made[0], Exception):
        raise made[0]
    return made[0]


def _spoken(seconds: float) -> str:
    """Say a time limit in its own unit.

    >>> _spoken(1800), _spoken(3)
    ('30 minutes', '3 seconds')
    """
    return f"{seconds / 60:g} minutes" if seconds >= 60 else f"{seconds:g} seconds"
