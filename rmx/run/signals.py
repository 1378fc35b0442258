"""Stopping on request: SIGTERM, SIGUSR1 and SIGUSR2 (Slurm, Kubernetes, `kill`) and SIGINT (Ctrl-C).

While the optimizer works, a signal only leaves a note: the step ends, a checkpoint is sealed, and then the run
ends with `Interrupted` (exit code 130 or 143). Where there is nothing to save (reading data, loading the model,
scoring an evaluation set) the run ends at once. A second signal changes nothing.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any

from rmx.errors import Interrupted

__all__ = ["LeaveStoppingToParent", "StopSignals"]

_NAMES = ("SIGTERM", "SIGUSR1", "SIGUSR2", "SIGINT")  # submitit's jobs are told of their time limit by SIGUSR2
_NUMBERS = [signal.Signals[name] for name in _NAMES if name in signal.Signals.__members__]


class StopSignals:
    """Handles the stop signals inside a `with` block; blocks may nest.

    Without handlers (in a thread other than the main one) signals act as they did before.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._depth = 0
        self._deferred = False
        self._owner = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        self._depth += 1
        if self._depth == 1 and threading.current_thread() is threading.main_thread():
            self._owner = os.getpid()
            self._before = {number: signal.signal(number, self._handle) for number in _NUMBERS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._depth -= 1
        if self._depth == 0:
            for number, handler in self._before.items():
                signal.signal(number, handler)
            self._before = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner or self.received is not None:
            return
        self.received = number
        if self._deferred and os.environ.get("RANK", "0") != "0":
            return  # rank 0 says it
        if self._deferred:
            # Not through logging: the handler may run inside a write to the same stream.
            os.write(2, f"\n{signal.Signals(number).name}: stopping after this step's checkpoint\n".encode())
        else:
            raise Interrupted(number)

    def check(self) -> None:
        """End the run if a signal has come.

        Raises:
            Interrupted: a signal has come, even if a library swallowed the exception it raised.
        """
        if self.received is not None:
            raise Interrupted(self.received)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Only take note of signals in this block; who is in it asks for `received`."""
        before, self._deferred = self._deferred, True
        try:
            yield
        finally:
            self._deferred = before

    @contextlib.contextmanager
    def prompt(self) -> Iterator[None]:
        """Let signals interrupt this block at once, although it stands within `deferred`.

        Raises:
            Interrupted: a signal has come, before the block or in it.
        """
        before = self._deferred
        try:
            self._deferred = False
            self.check()
            yield
        finally:
            self._deferred = before


class LeaveStoppingToParent:
    """Starts a data worker (`worker_init_fn`) that outlives the signals of its process group, but not its parent.

    A worker that died of the signal would take the step, and with it the checkpoint, down. Python ends workers that
    are left when their parent ends (it waits for them) by SIGTERM too: from then on they obey.

    Args:
        context: how the workers are started: fork, forkserver or spawn; None for Python's default.
    """

    def __init__(self, context: str | None = None) -> None:
        self._ending = multiprocessing.get_context(context).Event()
        self._parent = os.getpid()
        atexit.register(self._end)

    def __call__(self, worker: int) -> None:
        """Set the handlers; in the worker."""
        for number in _NUMBERS:
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._obey)

    def _obey(self, number: int, frame: FrameType | None) -> None:
        if self._ending.is_set():
            os._exit(0)  # nothing in a worker is to be kept; the code tells the parent that all is well

    def _end(self) -> None:
        if os.getpid() == self._parent:
            self._ending.set()
            for child in multiprocessing.active_children():
                if child.daemon:
                    child.terminate()
