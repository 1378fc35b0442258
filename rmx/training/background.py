"""A checkpoint that is written while training goes on: copied to the host's memory at once, to the disk meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from time import perf_counter
from typing import Any

from torch import Tensor

__all__ = ["BackgroundWork", "copied"]


class BackgroundWork:
    """One piece of work at a time beside the caller's; its error is raised where it is waited for.

    >>> saving, written = BackgroundWork(), []
    >>> saving.start(lambda: written.append("checkpoint-10"))
    >>> saving.wait(); written
    ['checkpoint-10']
    >>> saving.start(lambda: 1 / 0)
    >>> saving.wait()
    Traceback (most recent call last):
    ZeroDivisionError: division by zero
    >>> saving.wait()
    """

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None
        self._pending: Future[None] | None = None
        self._seconds: list[float] = []

    def start(self, work: Callable[[], None]) -> None:
        """Begin with a piece of work; the one before has to be waited for first."""
        if self._pending is not None:
            raise RuntimeError("the work before was not waited for")
        self._thread = self._thread or ThreadPoolExecutor(1, thread_name_prefix="rmx-save")
        self._pending = self._thread.submit(self._timed, work)

    def _timed(self, work: Callable[[], None]) -> None:
        started = perf_counter()
        work()
        self._seconds.append(perf_counter() - started)

    def wait(self) -> None:
        """Return when the work is done; at once where there is none."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def took(self) -> list[float]:
        """Return the seconds that each piece took which was done since this was asked last."""
        seconds, self._seconds = self._seconds, []
        return seconds


def copied(state: Any) -> Any:
    """Copy the tensors of a state to the host's memory, where training does not change them.

    >>> import torch
    >>> weight = torch.zeros(1)
    >>> copy = copied({"weight": weight, "steps": 3})
    >>> weight += 1
    >>> copy
    {'weight': tensor([0.]), 'steps': 3}
    """
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {key: copied(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(copied(value) for value in state)
    return state
