"""What the service counts, in the format of Prometheus."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Counters of one service.

    Args:
        depth: Returns how many images wait.
        max_batch: Most images in a batch.
    """

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, depth: Callable[[], float], max_batch: int) -> None:
        self._registry = CollectorRegistry()
        sizes = [2**i for i in range(max_batch.bit_length()) if 2**i < max_batch]
        self._requests = Counter(
            "van_requests", "Requests by path and status.", ("path", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "van_request_seconds",
            "Seconds from the head of a request to the end of its answer.",
            ("path",),
            registry=self._registry,
            buckets=_SECONDS,
        )
        self._errors = Counter(
            "van_errors", "Requests that ended with a status of 400 or more.", ("status",), registry=self._registry
        )
        self._batches = Histogram(
            "van_batch_images", "Images in a batch.", registry=self._registry, buckets=(*sizes, max_batch)
        )
        Gauge("van_queue_images", "Images that wait.", registry=self._registry).set_function(depth)

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count a request that has been answered."""
        self._requests.labels(path, status).inc()
        self._seconds.labels(path).observe(seconds)
        if status >= 400:
            self._errors.labels(status).inc()

    def batch(self, size: int) -> None:
        """Count a batch."""
        self._batches.observe(size)

    def text(self) -> bytes:
        """Return all counters as Prometheus reads them."""
        return generate_latest(self._registry)
