"""The routes together, and the gate in front of them.

Every request passes the gate: it checks the bearer key, refuses what comes once the server is ending, gives every
error the same shape, and counts. /health and /ready need no key: orchestrators ask them.
"""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rmx import __version__
from rmx.serving import vllm_routes
from rmx.serving.bearer import accepts
from rmx.serving.bodies import HttpRefusal, error_body
from rmx.serving.llamafactory_route import ScoreEvaluationAnswer, ScoreEvaluationRequest, score_evaluation
from rmx.serving.openrlhf_route import GetRewardAnswer, GetRewardRequest, get_reward
from rmx.serving.rows_route import ConversationsAnswer, RowAnswer, RowsAnswer, RowsRequest, score_rows
from rmx.serving.service import ENDING, Service

__all__ = ["Gate", "build_app"]

log = logging.getLogger(__name__)

OPEN = ("/health", "/ready")  # without a key
WHILE_DRAINING = (*OPEN, "/metrics")
_GONE = 499  # counted, never sent: the client went away before its answer


class ErrorAnswer(BaseModel):
    """Every error."""

    error: dict[str, Any]


Route = Callable[[Service, Any, Request], Awaitable[dict[str, Any]]]


def build_app(service: Service, keys: Any, on_start: Callable[[], None] = lambda: None) -> FastAPI:
    """The application of a service.

    Args:
        service: who judges.
        keys: with the `format`, `columns` and `ignore` that rows are read with.
        on_start: called in the event loop once requests can be answered.
    """

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        service.batcher.start()
        on_start()
        yield
        service.batcher.finish(timeout=service.timeout_seconds)

    app = FastAPI(title="rmx", version=__version__, lifespan=life, docs_url=None, redoc_url=None)
    app.add_middleware(Gate, service=service)
    app.add_exception_handler(HTTPException, _as_json)
    _add_state_routes(app, service)
    add = _adder(app, service, keys)
    add("/score", score_rows, RowsRequest, RowAnswer | RowsAnswer | ConversationsAnswer, "Score rows")
    add("/classify", vllm_routes.classify, vllm_routes.ClassifyRequest, vllm_routes.ClassifyAnswer, "As vLLM")
    add("/pooling", vllm_routes.pooling, vllm_routes.PoolingRequest, vllm_routes.PoolingAnswer, "As vLLM")
    add(
        "/v1/embeddings",
        vllm_routes.embeddings,
        vllm_routes.EmbeddingsRequest,
        vllm_routes.EmbeddingsAnswer,
        "As SGLang, for a reward model",
    )
    add("/get_reward", get_reward, GetRewardRequest, GetRewardAnswer, "As OpenRLHF")
    add("/v1/score/evaluation", score_evaluation, ScoreEvaluationRequest, ScoreEvaluationAnswer, "As LLaMA-Factory")
    return app


def _adder(app: FastAPI, service: Service, keys: Any) -> Callable[[str, Route, type[BaseModel], Any, str], None]:
    """A function that adds a route whose body is read by us: within limits, and with our words for what is wrong."""

    def add(path: str, route: Route, takes: type[BaseModel], gives: Any, summary: str) -> None:
        async def endpoint(request: Request) -> Response:
            answer = await route(service, keys, request)
            return Response(json.dumps(answer, ensure_ascii=False, allow_nan=False), media_type="application/json")

        schema = {"application/json": {"schema": takes.model_json_schema()}}
        app.add_api_route(
            path,
            endpoint,
            methods=["POST"],
            summary=summary,
            operation_id=path.strip("/").replace("/", "_"),
            responses={
                200: {"model": gives},
                **{code: {"model": ErrorAnswer} for code in (400, 401, 404, 408, 413, 415, 422, 500, 503, 504)},
            },
            openapi_extra={"requestBody": {"required": True, "content": schema}},
        )

    return add


def _add_state_routes(app: FastAPI, service: Service) -> None:
    @app.get("/health", summary="Whether the process works")
    async def health() -> dict[str, str]:
        if service.dead:
            raise HttpRefusal(503, "the worker has died")
        return {"status": "ok"}

    @app.get("/ready", summary="Whether new requests are taken in")
    async def ready() -> dict[str, str]:
        if service.dead or service.draining:
            raise HttpRefusal(503, "the server takes no more requests")
        return {"status": "ready", "model": service.name}

    @app.get("/metrics", summary="Meters, for Prometheus", response_class=PlainTextResponse)
    async def metrics() -> Response:
        return Response(service.meters.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/v1/models", summary="What is served")
    async def models() -> dict[str, Any]:
        limits = [scorer.max_tokens for _, scorer in service.panel.scorers]
        one = {"id": service.name, "object": "model", "created": service.started, "owned_by": "rmx"}
        return {"object": "list", "data": [one | {"max_model_len": min(limits), "root": service.name}]}


async def _as_json(request: Request, error: Exception) -> Response:
    """No such route, or no such method of it."""
    assert isinstance(error, HTTPException)
    path = request.url.path
    message = {404: f"there is no {path[:200]}; see /openapi.json", 405: f"{path} does not take {request.method}"}
    body = error_body(error.status_code, message.get(error.status_code, str(error.detail)))
    return _json_response(error.status_code, body, dict(error.headers or {}))


def _json_response(status: int, body: dict[str, Any], headers: dict[str, str]) -> Response:
    text = json.dumps(body, ensure_ascii=False)
    return Response(text.encode("utf-8", "replace"), status_code=status, headers=headers, media_type="application/json")


class Gate:
    """See above. It is ASGI of its own rather than a `BaseHTTPMiddleware`, which would wrap every body in a task."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request through, or not."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = perf_counter(), 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            try:
                self._check(scope)
                await self.app(scope, receive, sending)
            except HttpRefusal as refusal:
                body = error_body(refusal.status, str(refusal))
                if not status:
                    await _json_response(refusal.status, body, refusal.headers)(scope, receive, sending)
            except ClientDisconnect:
                status = _GONE
            except Exception as error:  # noqa: BLE001  the door of this request: what it says may repeat its text
                frame = traceback.extract_tb(error.__traceback__)[-1]
                log.error("%s at %s:%s: a bug in rmx", type(error).__name__, frame.filename, frame.lineno)
                if not status:
                    body = error_body(
                        500, f"{type(error).__name__}: a bug in rmx {__version__}; the server's log says where"
                    )
                    await _json_response(500, body, {})(scope, receive, sending)
        finally:
            self.service.limits.release(scope)
            self.service.accepted -= bool(scope.pop("rmx.accepted", False))
            self.service.meters.request(_route_of(scope), status or _GONE, perf_counter() - started)

    def _check(self, scope: Scope) -> None:
        path, service = scope["path"], self.service
        if path not in OPEN:
            header = next((value for name, value in scope["headers"] if name == b"authorization"), None)
            if not accepts(service.key, header):
                raise HttpRefusal(
                    401, "this server wants its key: Authorization: Bearer KEY", {"WWW-Authenticate": "Bearer"}
                )
        if service.draining and path not in WHILE_DRAINING:
            raise HttpRefusal(503, ENDING, {"Retry-After": "5", "Connection": "close"})


def _route_of(scope: Scope) -> str:
    """The route's path for the meters, "other" for paths that are none: their number is without limit."""
    route = scope.get("route")
    return getattr(route, "path", None) or (scope["path"] if scope["path"] in WHILE_DRAINING else "other")
