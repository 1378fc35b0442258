"""What /metrics says: requests, errors, the queue, tokens and times, in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from rmx.serving.batching import BatchDone

__all__ = ["Meters"]

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Meters:
    """The meters of one server.

    Args:
        waiting: says how many comparisons wait.
        held_bytes: says how many bytes of bodies are being worked on.
    """

    def __init__(self, waiting: Callable[[], int], held_bytes: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter("rmx_requests", "Requests answered", ["route", "status"], registry=self.registry)
        self.errors = Counter(
            "rmx_errors", "Requests answered with a status from 400 up", ["route", "status"], registry=self.registry
        )
        self.abandoned = Counter(
            "rmx_abandoned", "Requests whose client went away before the answer", registry=self.registry
        )
        self.seconds = Histogram(
            "rmx_request_seconds",
            "From a request's headers to its answer",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        Gauge("rmx_waiting_comparisons", "Comparisons in the queue", registry=self.registry).set_function(waiting)
        Gauge("rmx_held_bytes", "Bytes of bodies that are being worked on", registry=self.registry).set_function(
            held_bytes
        )
        self.comparisons = Counter("rmx_comparisons", "Comparisons scored", registry=self.registry)
        self.truncated = Counter("rmx_truncated", "Comparisons whose prompt was cut", registry=self.registry)
        self.tokens = Counter(
            "rmx_tokens",
            "Tokens computed, and of all sequences had nothing been shared",
            ["kind"],
            registry=self.registry,
        )
        self.batch_seconds = Histogram(
            "rmx_batch_seconds", "Time to compute a batch", buckets=_SECONDS, registry=self.registry
        )
        self.batch_comparisons = Histogram(
            "rmx_batch_comparisons", "Comparisons of a batch", buckets=_COUNTS, registry=self.registry
        )

    def batch(self, done: BatchDone) -> None:
        """Count a batch."""
        self.comparisons.inc(done.comparisons)
        self.tokens.labels("computed").inc(done.tokens)
        self.tokens.labels("alone").inc(done.tokens_alone)
        self.batch_seconds.observe(done.seconds)
        self.batch_comparisons.observe(done.comparisons)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self.requests.labels(route, str(status)).inc()
        if status >= 400:
            self.errors.labels(route, str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """All of them, as Prometheus reads them."""
        return generate_latest(self.registry)
