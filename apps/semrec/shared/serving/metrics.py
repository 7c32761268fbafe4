"""The numbers of `/metrics`, with Prometheus' client."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The numbers of a service and of its process.

    Attributes:
        registry: The registry that `/metrics` writes.
        queue: Histories that wait or are being answered.
        batch: The number of histories per batch.
        model_seconds: Wall time of answering.
        model_cpu_seconds: CPU time of the thread that answers; threads of libraries are not
            counted.
        reloads: Runs that were loaded or refused.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = self._counter("requests", "Requests.", "path")
        self._errors = self._counter("errors", "Requests that were refused.", "path", "status")
        self.reloads = self._counter("reloads", "Runs that were loaded again.", "result")
        self.model_seconds = self._counter("model_seconds", "Seconds of answering.")
        self.model_cpu_seconds = self._counter("model_cpu_seconds", "CPU seconds of answering.")
        self.queue = Gauge("semrec_queue_histories", "Histories waiting.", registry=self.registry)
        self._seconds = Histogram(
            "semrec_request_seconds",
            "Seconds from a request's first byte to its answer's last.",
            ["path"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.batch = Histogram(
            "semrec_batch_histories",
            "Histories answered together.",
            buckets=_SIZES,
            registry=self.registry,
        )

    def _counter(self, name: str, words: str, *labels: str) -> Counter:
        return Counter(f"semrec_{name}", words, labels, registry=self.registry)

    def note(self, path: str, status: int, seconds: float) -> None:
        """Counts a request.

        Args:
            path: The path of the route, of which there are few.
            status: The status of the response.
            seconds: The time of the request.
        """
        self._requests.labels(path).inc()
        self._seconds.labels(path).observe(seconds)
        if status >= 400:
            self._errors.labels(path, str(status)).inc()
