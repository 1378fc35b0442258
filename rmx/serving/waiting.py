"""What a route asks, and where it waits: questions, the ticket they come with, and the hall with its limits."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rmx.errors import RmxError
from rmx.records import Comparison
from rmx.scoring.panel import Judgement

__all__ = ["Hall", "HallClosed", "HallFull", "Question", "RenderedQuery", "Ticket"]


class HallFull(RmxError):
    """More comparisons wait than may wait."""


class HallClosed(RmxError):
    """Nothing more is taken in: the server is ending, or its worker has died."""


@dataclass(frozen=True, slots=True)
class RenderedQuery:
    """A conversation that the client has rendered with the model's own template: text, or its token ids.

    `complete`: what a rendering begins and ends with is put there where it is missing; without it, a text that does
    not have both is refused. `max_tokens`: a limit of the request's own, below that of the model.
    """

    content: str | Sequence[int]
    complete: bool = True
    max_tokens: int | None = None


@dataclass(eq=False, slots=True)
class Ticket:
    """The questions of one request, and the future that is done when all of them are answered.

    `done` belongs to the event loop `loop`; all else is the worker's.
    """

    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[list[Judgement | RmxError]]
    answers: list[Judgement | RmxError | None]
    left: int
    abandoned: bool = False  # nobody waits for it any more: what has not begun is not computed

    @classmethod
    def of(cls, count: int) -> Ticket:
        """A ticket for `count` questions, of the running event loop."""
        loop = asyncio.get_running_loop()
        return cls(loop, loop.create_future(), [None] * count, count)

    def settle(self) -> None:
        """Hand the answers over; runs in the event loop."""
        if not self.done.done():
            self.done.set_result([answer for answer in self.answers if answer is not None])

    def fail(self, error: RmxError) -> None:
        """Hand one error over instead; runs in the event loop."""
        if not self.done.done():
            self.done.set_result([error])


@dataclass(eq=False, slots=True)
class Question:
    """One comparison, or one rendered text, of a ticket."""

    ticket: Ticket
    place: int  # within the ticket
    asked: Comparison | RenderedQuery
    encoded: tuple[Any, ...] = ()  # an EncodedComparison per model


@dataclass
class Hall:
    """Where questions wait, in the order they came. Safe between the event loop's thread and the worker's.

    Attributes:
        most: comparisons that may wait.
    """

    most: int
    _waiting: deque[Question] = field(default_factory=deque)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _closed: bool = False

    def __len__(self) -> int:
        return len(self._waiting)

    def enter(self, ticket: Ticket, asked: Sequence[Comparison | RenderedQuery]) -> None:
        """Let all questions of a request wait, or none.

        Raises:
            HallFull: there is no room for them now.
            HallClosed: there never will be.
        """
        with self._changed:
            if self._closed:
                raise HallClosed("the server takes no more requests")
            if len(self._waiting) + len(asked) > self.most:
                raise HallFull(f"{len(self._waiting)} comparisons wait, and max_waiting is {self.most}")
            self._waiting.extend(Question(ticket, place, one) for place, one in enumerate(asked))
            self._changed.notify()

    def take(self, most: int, *, wait: bool) -> list[Question] | None:
        """The next questions, at most so many; None once the hall is closed and empty.

        Args:
            most: how many.
            wait: for the first one to come, rather than return none.
        """
        with self._changed:
            while wait and not self._waiting and not self._closed:
                self._changed.wait()
            if self._closed and not self._waiting and wait:
                return None
            return [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]

    def close(self) -> None:
        """Take nothing more in; those who wait are still taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
