"""Every metric of the operator, by name, in one list."""

from collections import Counter as Tally
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from specop.api import reasons
from specop.controllers.queue import Queue
from specop.kube.cache import Cache, Key
from specop.kube.resources import RECONCILED


class Metrics:
    """The metrics, and the observers that feed them."""

    def __init__(self, cache: Cache, queue: Queue[Key]) -> None:
        self.registry = CollectorRegistry()
        self._seconds = Histogram(
            "specop_reconcile_duration_seconds",
            "Duration of reconciles.",
            ["kind"],
            buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 60),
            registry=self.registry,
        )
        self._reconciles = Counter(
            "specop_reconciles", "Reconciles by result.", ["kind", "result"], registry=self.registry
        )
        self._requests = Counter(
            "specop_api_requests",
            "Requests to the API server; code 0 means no answer.",
            ["verb", "kind", "code"],
            registry=self.registry,
        )
        self._pages = Counter(
            "specop_page_reads", "Reads of pods' pages by result.", ["page", "result"], registry=self.registry
        )
        self.loop_lag = Gauge(
            "specop_loop_lag_seconds", "How late the event loop ran its last timer.", registry=self.registry
        )
        self._restarts = Counter(
            "specop_watch_restarts", "How often watching ended and was begun anew.", registry=self.registry
        )
        depth = Gauge("specop_queue_depth", "Keys that wait to be reconciled.", registry=self.registry)
        depth.set_function(lambda: len(queue))
        self.registry.register(_Inventory(cache))

    def reconciled(self, kind: str, result: str, seconds: float) -> None:
        """Observe one reconcile."""
        self._seconds.labels(kind).observe(seconds)
        self._reconciles.labels(kind, result).inc()

    def requested(self, verb: str, kind: str, status: int) -> None:
        """Observe one request to the API server."""
        self._requests.labels(verb, kind, str(status)).inc()

    def watch_restarted(self) -> None:
        """Observe that watching was begun anew."""
        self._restarts.inc()

    def read(self, page: str, result: str) -> None:
        """Observe one read of a pod's page."""
        self._pages.labels(page, result).inc()


class _Inventory(Collector):
    """Objects by kind and what their top condition says, counted when asked."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Count the cache."""
        family = GaugeMetricFamily(
            "specop_objects", "Objects by kind and by status of Ready or Succeeded.", labels=["kind", "status"]
        )
        for kind in RECONCILED:
            tally = Tally(_top_status(self._cache, key) for key in self._cache.keys(kind))
            for status in ("True", "False", "Unknown"):
                family.add_metric([kind.name, status], tally[status])
        yield family


def _top_status(cache: Cache, key: Key) -> str:
    conditions = (cache.get(key) or {}).get("status", {}).get("conditions", ())
    tops = (each["status"] for each in conditions if each["type"] in (reasons.READY, reasons.SUCCEEDED))
    return next(tops, "Unknown")
