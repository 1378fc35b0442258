"""`rmx serve`: its keys, and one server from the port to the last answer.

    port bound ─▶ models loaded ─▶ listening, /ready ─▶ SIGTERM or SIGINT ─▶ draining ─▶ the last answer sent ─▶ exit

While it drains, every request that was taken in is answered, and every new one gets 503. A second signal ends it
without waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import signal
import socket
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Interval

from rmx.errors import ConfigError, RmxError
from rmx.scoring.judges import NotEmpty, PanelKeys, RowFormat
from rmx.serving.bearer import KEY_VARIABLE, bearer_key
from rmx.values import Count, Positive, refuse_wrong_fields

if TYPE_CHECKING:
    import uvicorn

    from rmx.serving.service import Service

__all__ = ["ServeJob", "bound_socket"]

log = logging.getLogger(__name__)

_NEEDS = ("fastapi", "uvicorn", "prometheus_client")
_BACKLOG = 2048  # connections that wait to be accepted
_KEEP_ALIVE_SECONDS = 75
_LAST_BYTES_SECONDS = 5  # for answers that are on their way when the last one is there


@dataclass(frozen=True, kw_only=True)
class ServeJob(PanelKeys):
    """What `rmx serve` is asked for.

    Args:
        model: a run folder, a model folder or a hub id; several are an ensemble.
        port: 0 takes a free one, and says which.
        host: address to listen at; 0.0.0.0 lets every machine ask, which wants a bearer_file.
        name: what clients call the model; by default as it was given here.
        bearer_file: a file whose first line requests have to bring, as `Authorization: Bearer KEY`; without it, the
            environment variable RMX_SERVE_KEY.
        combine: several models: `mean`, `min`, or `lower` = mean - k * std.
        k: standard deviations, of `lower`.
        center: how rewards of several models are brought onto one scale: `prompt`, `calibration`, or `none`.
        calibration: rows to measure each model's mean and spread on, for center=calibration.
        calibrated: rewards on the scale that `rmx export --format calibrated` wrote into the model.
        format: the row shape of /score; `auto` looks at each request.
        columns: rmx's column name → the requests'.
        ignore: columns of text that are left out on purpose.
        max_tokens: the longest sequence; by default the limit of each model's training.
        truncation: longer ones: `keep_end` cuts the beginning of the prompt, `error` refuses them.
        precision: of the computation.
        device: cpu, cuda or cuda:N; by default a GPU where there is one.
        max_tokens_per_micro_batch: tokens computed at once, of whichever requests wait.
        max_waiting: comparisons that may wait; more get 503.
        max_body_bytes: of one request; more get 413.
        max_waiting_bytes: of all requests that are being read or worked on; more get 503.
        timeout_seconds: for a request's answer; later it gets 504.

    >>> ServeJob(model="outputs/hh").port
    8000
    """

    port: Annotated[int, Interval(ge=0, le=65535)] = 8000
    host: NotEmpty = "127.0.0.1"
    name: NotEmpty | None = None
    bearer_file: NotEmpty | None = None
    format: RowFormat = "auto"
    columns: dict[str, str] = field(default_factory=dict)
    ignore: list[str] = field(default_factory=list)
    max_waiting: Count = 4096
    max_body_bytes: Count = 8 * 2**20
    max_waiting_bytes: Count = 256 * 2**20
    timeout_seconds: Positive = 60.0

    def __post_init__(self) -> None:
        """Check what can be checked without loading anything."""
        refuse_wrong_fields(self, "", also=list(self.panel_mistakes()))

    def run(self) -> int:
        """Serve until a signal comes; returns 143 after SIGTERM, 130 after SIGINT.

        Raises:
            InputError: the port, the host, the key or the model cannot be used; the message says what to do.
            RmxError: the worker has died.
        """
        missing = [name for name in _NEEDS if find_spec(name) is None]
        if missing:
            raise ConfigError(f"rmx serve needs {', '.join(missing)}; install with: pip install 'rmx[serve]'")
        key = bearer_key(self.bearer_file)
        with contextlib.closing(bound_socket(self.host, self.port)) as listener:
            return _Serving(self, self.service(key), listener).run()

    def service(self, key: bytes | None) -> Service:
        """Load the models; their service is not started yet.

        Raises:
            ModelError: one cannot be loaded, or is no reward model.
        """
        from rmx.serving.service import Service

        return Service(
            self.load_panel(),
            self.name or "+".join(self.models),
            self.models,
            max_waiting=self.max_waiting,
            max_body_bytes=self.max_body_bytes,
            max_waiting_bytes=self.max_waiting_bytes,
            timeout_seconds=self.timeout_seconds,
            key=key,
        )


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket that is bound, and does not listen yet.

    Raises:
        ConfigError: there is no such host, the address is not of this machine, or the port is in use.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"host: {host} has no address ({getattr(error, 'strerror', None) or error})") from None
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise _cannot_listen(host, port, error) from None
    return listener


def _cannot_listen(host: str, port: int, error: OSError) -> ConfigError:
    return ConfigError(
        f"port: cannot listen at {host} port {port} ({error.strerror or error}); give another port= or host=, or end "
        "the program that has it"
    )


class _Serving:
    """One server at work."""

    def __init__(self, job: ServeJob, service: Service, listener: socket.socket) -> None:
        self.job, self.service, self.listener = job, service, listener
        self.signal: int | None = None
        self.server: uvicorn.Server | None = None
        self._drain: asyncio.Task[None] | None = None

    def run(self) -> int:
        """Serve; see `ServeJob.run`."""
        import uvicorn

        from rmx.serving.application import build_app

        try:
            self.listener.listen(_BACKLOG)
        except OSError as error:
            raise _cannot_listen(self.job.host, self.job.port, error) from None
        logging.getLogger("uvicorn").setLevel(logging.ERROR)  # a request that is not HTTP is no news
        config = uvicorn.Config(
            build_app(self.service, self.job, self._started),
            log_config=None,
            access_log=False,
            server_header=False,
            ws="none",
            lifespan="on",
            backlog=_BACKLOG,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=_LAST_BYTES_SECONDS,
        )
        self.server = uvicorn.Server(config)
        asyncio.run(self.server.serve(sockets=[self.listener]))
        if self.service.dead:
            raise RmxError("the worker has died; the lines above say why")
        code = 130 if self.signal == signal.SIGINT else 143
        if not self.service.batcher.finish(timeout=1.0):  # Python's own end aborts where a thread is inside torch
            logging.shutdown()
            os._exit(code)
        return code

    def _started(self) -> None:
        """In the event loop, once requests can be answered: signals are ours from here on."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)

        def died() -> None:
            loop.call_soon_threadsafe(self._worker_died)

        self.service.batcher.died = died
        host, port = self.listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        if self.service.key is None and not ipaddress.ip_address(host.partition("%")[0]).is_loopback:
            # The last thing said before the first request, so that loading models does not bury it.
            log.warning(
                "WARNING: no key is set: anyone who reaches %s port %d can score; give bearer_file=FILE or %s, "
                "or host=127.0.0.1",
                shown,
                port,
                KEY_VARIABLE,
            )
        log.info("serving %s at http://%s:%d", self.service.name, shown, port)

    def _stop(self, number: int) -> None:
        if self.signal is not None:
            log.info("a second signal: ending at once; %d requests get no answer", self.service.accepted)
            logging.getLogger("uvicorn").setLevel(logging.CRITICAL)  # it has a traceback for each of them
            self._end(at_once=True)
            return
        self.signal = number
        self.service.draining = True
        log.info("%s: answering the %d requests taken in", signal.Signals(number).name, self.service.accepted)
        self._drain = asyncio.get_running_loop().create_task(self._drained())

    async def _drained(self) -> None:
        while self.service.accepted:
            await asyncio.sleep(0.02)
        log.info("every request taken in has its answer")
        self._end()

    def _worker_died(self) -> None:
        self.service.dead = True
        self._end()

    def _end(self, at_once: bool = False) -> None:
        server: Any = self.server
        server.should_exit = True
        if at_once:
            server.force_exit, server.config.timeout_graceful_shutdown = True, 0
