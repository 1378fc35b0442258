"""What all routes share: who judges, the queue, the limits, and the way from questions to judgements."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from starlette.requests import ClientDisconnect, Request

from rmx.errors import RmxError
from rmx.records import Comparison
from rmx.scoring.panel import Judgement, Panel
from rmx.serving.batching import BatchDone, Batcher
from rmx.serving.bodies import BodyLimits, HttpRefusal, read_json_body
from rmx.serving.prometheus import Meters
from rmx.serving.waiting import Hall, HallClosed, HallFull, RenderedQuery, Ticket

__all__ = ["ENDING", "Service"]

ENDING = "the server is ending and takes no more requests"


class Service:
    """A panel that answers requests.

    Args:
        panel: who judges.
        name: what clients call it.
        aliases: other names of it.
        max_waiting: comparisons that may wait.
        max_body_bytes: of one request.
        max_waiting_bytes: of all requests that are being read or worked on.
        timeout_seconds: for a body to come in, and then for its answer.
        key: that requests have to bring; None where they need none.

    Attributes:
        draining: the server is ending: what was taken in is answered, and nothing new is taken in.
        accepted: requests that are in the queue, or whose answer is on its way.
    """

    def __init__(
        self,
        panel: Panel,
        name: str,
        aliases: Sequence[str] = (),
        *,
        max_waiting: int = 4096,
        max_body_bytes: int = 8 * 2**20,
        max_waiting_bytes: int = 256 * 2**20,
        timeout_seconds: float = 60.0,
        key: bytes | None = None,
    ) -> None:
        self.panel, self.name, self.names = panel, name, {name, *aliases}
        self.key, self.timeout_seconds, self.started = key, timeout_seconds, int(time.time())
        self.limits = BodyLimits(max_body_bytes, max_waiting_bytes, timeout_seconds)
        self.hall = Hall(max_waiting)
        self.meters = Meters(lambda: len(self.hall), lambda: self.limits.held)
        self.batcher = Batcher(panel, self.hall, self._observe)
        self.draining, self.dead, self.accepted = False, False, 0
        self._recent: deque[BatchDone] = deque(maxlen=32)

    async def json(self, request: Request) -> Any:
        """The JSON value of a request's body, within the limits."""
        return await read_json_body(request, self.limits)

    async def ask(self, request: Request, asked: Sequence[Comparison | RenderedQuery]) -> list[Judgement]:
        """Return the judgement of each question, once all of them are there.

        Raises:
            HttpRefusal: 413 too many at once, 422 one is refused, 500 one failed, 503 no room or the server is
                ending, 504 not in time.
            ClientDisconnect: the client went away; what has not begun is not computed.
        """
        ticket = Ticket.of(len(asked))
        self._enter(ticket, asked)
        request.scope["rmx.accepted"] = True
        self.accepted += 1
        gone = asyncio.ensure_future(_gone(request))
        try:
            watched: set[asyncio.Future[Any]] = {ticket.done, gone}
            await asyncio.wait(watched, timeout=self.timeout_seconds, return_when="FIRST_COMPLETED")
        finally:
            ticket.abandoned = not ticket.done.done()
            gone.cancel()
        if not ticket.abandoned:
            return self._checked(ticket.done.result())
        if gone.done() and not gone.cancelled():
            self.meters.abandoned.inc()
            raise ClientDisconnect
        raise HttpRefusal(504, f"no answer after {self.timeout_seconds:g} s (timeout_seconds)")

    def _enter(self, ticket: Ticket, asked: Sequence[Comparison | RenderedQuery]) -> None:
        if not asked:
            raise HttpRefusal(422, "there is nothing to score in this request")
        if len(asked) > self.hall.most:
            raise HttpRefusal(
                413, f"{len(asked)} comparisons in one request, and max_waiting is {self.hall.most}; send fewer at once"
            )
        if self.draining:  # its body was still coming in when the signal came
            raise HttpRefusal(503, ENDING, {"Retry-After": "5", "Connection": "close"})
        try:
            self.hall.enter(ticket, asked)
        except HallFull as error:
            raise HttpRefusal(503, f"{error}; try again later", {"Retry-After": str(self.retry_seconds())}) from None
        except HallClosed as error:
            raise HttpRefusal(503, str(error), {"Retry-After": "5", "Connection": "close"}) from None

    def _checked(self, answers: Sequence[Judgement | RmxError]) -> list[Judgement]:
        failed = next((answer for answer in answers if isinstance(answer, RmxError)), None)
        if failed is not None:
            raise HttpRefusal(500, str(failed))
        judgements = [answer for answer in answers if isinstance(answer, Judgement)]
        refused = [f"row {n}: {one.refusal}" for n, one in enumerate(judgements, 1) if one.refusal is not None]
        if refused:
            raise HttpRefusal(422, "\n".join(refused[:5]))
        self.meters.truncated.inc(sum(one.truncated for one in judgements))
        return judgements

    def retry_seconds(self) -> int:
        """When there will be room again, as far as the last batches tell: 1 to 60 s."""
        seconds = sum(batch.seconds for batch in self._recent)
        rate = sum(batch.comparisons for batch in self._recent) / seconds if seconds else math.inf
        return min(max(math.ceil(len(self.hall) / rate), 1), 60)

    def _observe(self, batch: BatchDone) -> None:
        self._recent.append(batch)
        self.meters.batch(batch)


async def _gone(request: Request) -> None:
    """Wait until the client has gone away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
