"""Whole weights for the first process, one at a time, while every process holds a part of each.

the first process     works, and asks for a weight by its name
all processes         give their parts of it; the first one has the whole until it asks for the next
all processes         return, or raise, what the first one's work came to
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch.distributed as dist
from torch import Tensor

from rmx.errors import RmxError
from rmx.models.streaming import Fetch

__all__ = ["lend"]

T = TypeVar("T")


def lend(process: int, work: Callable[[Fetch], T], gather: Callable[[str], Tensor | None]) -> T:
    """Let the first process do something that fetches whole weights by their names; every process has to call it.

    Args:
        process: the number of this process.
        work: what the first one does; gets what fetches a weight.
        gather: makes the weight of a name whole, with the others; returns it in the first process.

    Returns:
        what the work returned, in every process.

    Raises:
        RmxError: what the work raised, in every process.
    """

    def fetch(name: str) -> Tensor:
        said(name)
        tensor = gather(name)
        assert tensor is not None
        return tensor

    if process == 0:
        try:
            answer: T | RmxError = work(fetch)
        except RmxError as error:
            answer = error
        said(None)
    else:
        while (name := said()) is not None:
            gather(name)
        answer = None  # type: ignore[assignment]
    end = [answer]
    dist.broadcast_object_list(end)
    if isinstance(end[0], RmxError):
        raise end[0]
    return end[0]


def said(name: str | None = None) -> str | None:
    """Return the name that the first process asks for; None when it has done its work."""
    message = [name]
    dist.broadcast_object_list(message)
    return message[0]
