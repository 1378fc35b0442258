"""The bytes of a request → JSON → a record, each step with its limit and its status code.

415  it is not application/json            400  not UTF-8, not JSON (NaN included), nested too deep
413  more bytes than max_body_bytes        422  JSON of another shape than the route takes
408  not all there in time                 503  the bodies that are being worked on fill max_waiting_bytes
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from rmx.data.accounting import RowFault
from rmx.data.read.json_files import parse_json
from rmx.errors import RmxError

__all__ = ["BodyLimits", "HttpRefusal", "error_body", "json_of", "read_json_body", "validated"]

DEEPEST = 64  # levels of lists and objects
_DRAINED_BYTES = 64 * 2**20  # of a body that is too long, so that the client gets to read why
_DRAIN_SECONDS = 5.0
_BESIDE_THE_LOOP = 256 * 2**10  # bytes: larger bodies are parsed in a thread of their own
_Record = TypeVar("_Record", bound=BaseModel)


class HttpRefusal(RmxError):
    """A request that is not answered with rewards: a status code, one message, and headers."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.headers = status, dict(headers or {})


def error_body(status: int, message: str) -> dict[str, Any]:
    """The one shape that every error has, that of OpenAI's API.

    >>> error_body(401, "no key")
    {'error': {'message': 'no key', 'type': 'Unauthorized', 'code': 401}}
    """
    return {"error": {"message": message, "type": HTTPStatus(status).phrase, "code": status}}


@dataclass
class BodyLimits:
    """How much may come in, and how much there is.

    Attributes:
        max_bytes: of one body.
        max_bytes_at_once: of all bodies that are being read or worked on.
        seconds: for a body to be all there.
    """

    max_bytes: int
    max_bytes_at_once: int
    seconds: float
    held: int = field(default=0, init=False)

    def hold(self, request: Request, count: int) -> None:
        """Count bytes of a request, until `release`.

        Raises:
            HttpRefusal: there is no room for them now.
        """
        if self.held + count > self.max_bytes_at_once:
            raise HttpRefusal(
                503,
                f"requests of {self.held} bytes are being worked on, and max_waiting_bytes is "
                f"{self.max_bytes_at_once}; try again",
                {"Retry-After": "1"},
            )
        self.held += count
        request.scope["rmx.held"] = request.scope.get("rmx.held", 0) + count

    def release(self, scope: Any) -> None:
        """The request of this ASGI scope has its answer."""
        self.held -= scope.pop("rmx.held", 0)


async def read_json_body(request: Request, limits: BodyLimits) -> Any:
    """The JSON value of a request's body.

    Raises:
        HttpRefusal: 400, 408, 413, 415 or 503; see above.
        ClientDisconnect: the client went away.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise HttpRefusal(415, f"the body is {kind or 'of no stated type'}; send application/json")
    try:
        async with asyncio.timeout(limits.seconds):
            body = await _read(request, limits)
    except TimeoutError:
        raise HttpRefusal(
            408, f"the body was not all there after {limits.seconds:g} s", {"Connection": "close"}
        ) from None
    return await asyncio.to_thread(json_of, body) if len(body) > _BESIDE_THE_LOOP else json_of(body)


async def _read(request: Request, limits: BodyLimits) -> bytes:
    announced = request.headers.get("content-length", "")
    over = announced.isdigit() and int(announced) > limits.max_bytes
    parts: list[bytes] = []
    size = 0
    stream = request.stream()
    if not over:
        async for part in stream:
            size += len(part)
            over = size > limits.max_bytes
            if over:
                break
            limits.hold(request, len(part))
            parts.append(part)
    if over:
        await _drain(stream, size)
        raise HttpRefusal(
            413, f"the body has more than {limits.max_bytes} bytes (max_body_bytes)", {"Connection": "close"}
        )
    return b"".join(parts)


async def _drain(stream: Any, size: int) -> None:
    """Read on without keeping anything: a client that is still sending does not look at the answer."""
    try:
        async with asyncio.timeout(_DRAIN_SECONDS):
            async for part in stream:
                size += len(part)
                if size > _DRAINED_BYTES:
                    return
    except TimeoutError:
        return


def json_of(body: bytes) -> Any:
    """The value of a body.

    >>> json_of(b'{"prompt": "2+2?"}')
    {'prompt': '2+2?'}

    Raises:
        HttpRefusal: 400, with the place of what is wrong.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise HttpRefusal(400, f"the body is not UTF-8: byte {error.start + 1}") from None
    try:
        value = parse_json(text, strict=True)
    except RowFault as fault:
        raise HttpRefusal(400, f"the body: {fault}") from None
    if text.count("[") + text.count("{") > DEEPEST and _deeper(value, DEEPEST):
        raise HttpRefusal(400, f"the body is nested too deep: more than {DEEPEST} lists and objects in one another")
    return value


def _deeper(value: Any, levels: int) -> bool:
    layer = [value]
    for _ in range(levels):
        layer = [
            item
            for one in layer
            if isinstance(one, dict | list)
            for item in (one.values() if isinstance(one, dict) else one)
        ]
        if not layer:
            return False
    return any(isinstance(one, dict | list) for one in layer)


def validated(record: type[_Record], value: Any) -> _Record:
    """The record that a JSON value says.

    Raises:
        HttpRefusal: 422, with the first five mistakes; values are not repeated.
    """
    try:
        return record.model_validate(value, strict=True)
    except ValidationError as error:
        mistakes = error.errors(include_url=False, include_context=False, include_input=False)
        shown = [
            f"{'.'.join(map(str, one['loc'])) or 'the body'}: {one['msg'][:1].lower()}{one['msg'][1:]}"
            for one in mistakes
        ]
        known = ", ".join(record.model_fields)
        raise HttpRefusal(422, f"{'; '.join(shown[:5])} (this route takes: {known})") from None
