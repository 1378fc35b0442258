"""A server of a small reward model in a thread of the test, on a real port, asked by real HTTP clients."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from rmx.serving.application import build_app
from rmx.serving.server import ServeJob, bound_socket
from rmx.serving.service import Service


class Small:
    """A running server."""

    def __init__(self, service: Service, url: str) -> None:
        self.service, self.url = service, url
        self.client = httpx.Client(base_url=url, timeout=30)

    def post(self, path: str, body: Any, **keys: Any) -> httpx.Response:
        return self.client.post(path, json=body, **keys)


@contextlib.contextmanager
def small_server(model: Path | list[Path], *, key: bytes | None = None, **keys: Any) -> Iterator[Small]:
    """`rmx serve` without its process: the same keys, the same application."""
    paths = [str(one) for one in model] if isinstance(model, list) else str(model)
    job = ServeJob(model=paths, port=0, device="cpu", **keys)
    service = job.service(key)
    listener = bound_socket(job.host, 0)
    listener.listen(2048)
    config = uvicorn.Config(build_app(service, job), log_config=None, access_log=False, lifespan="on", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
        assert thread.is_alive(), "the server did not start"
    running = Small(service, f"http://127.0.0.1:{listener.getsockname()[1]}")
    try:
        yield running
    finally:
        running.client.close()
        server.should_exit = True
        thread.join(20)
        listener.close()
        assert not thread.is_alive(), "the server did not end"


@contextlib.contextmanager
def held(service: Service) -> Iterator[threading.Event]:
    """Hold the worker back from scoring until the event is set (or the block ends): the queue fills as long."""
    go, reached = threading.Event(), service.batcher._scorers[0]
    scoring = reached.rewards

    def rewards(*args: Any, **kwargs: Any) -> Any:
        assert go.wait(30)
        return scoring(*args, **kwargs)

    reached.rewards = rewards  # type: ignore[method-assign]
    try:
        yield go
    finally:
        go.set()
        del reached.rewards


def wait_until(true: Any, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.005)
