"""What pods' pages said, by the object that they work for: progress, measured windows, shipped captures.

It is: plain state, fed by the scraper, read by gather. The only thing that the operator remembers in memory alone.
It is not: what decides. A restart forgets it all, and costs at most one window.

Exactly once: shipped requests are kept as an absolute total, anchored at the first reading to what status says or to
the pods' own counters, whichever is higher. A reconcile is told total minus status, so a repeated one adds nothing
twice.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from specop.api.endpoint import CaptureStatus, Measured
from specop.api.shared import Json
from specop.controllers.samples import Counters, difference, measure, total
from specop.domain.observed import CaptureReading
from specop.kube.cache import Key


@dataclass(frozen=True, slots=True)
class Shipped:
    """A companion's `/capture` page."""

    requests: int
    """Since the companion started."""
    until: str | None


@dataclass(slots=True)
class Windows:
    """Engine counters of one endpoint, made into figures at most once a period."""

    period: float
    """Seconds between two results; the first traffic after a pause is shown at once."""
    result: Measured | None = None
    _last: Mapping[str, Counters] = field(default_factory=dict)
    _last_time: float = 0.0
    _pending: Counters = field(default_factory=dict)
    _pending_seconds: float = 0.0
    _result_time: float | None = None

    def add(self, samples: Mapping[str, Counters], now: float) -> bool:
        """Take one round of samples by pod; True if there is a result. Intervals without tokens count for nothing."""
        counted = total(difference(self._last[pod], sample) for pod, sample in samples.items() if pod in self._last)
        if counted.get(("tokens", ""), 0.0) > 0 or counted.get(("requests", ""), 0.0) > 0:
            self._pending = total((self._pending, counted))
            self._pending_seconds += now - self._last_time
        self._last, self._last_time = samples, now
        due = self._result_time is None or now - self._result_time >= self.period
        if not due or self._pending.get(("requests", ""), 0.0) < 1:
            return False
        self.result = measure(self._pending, self._pending_seconds)
        self._result_time = now
        self._pending, self._pending_seconds = {}, 0.0
        return True


@dataclass(slots=True)
class Captures:
    """What one endpoint's companions shipped."""

    _total: int | None = None
    _last: dict[str, Shipped] = field(default_factory=dict)

    def add(self, pages: Mapping[str, Shipped], stored: CaptureStatus | None, running: frozenset[str]) -> None:
        """Take one round of pages by pod. `running`: pods that still count for the watermark, read this time or not."""
        counters = sum(page.requests for page in pages.values())
        if self._total is None:
            self._total = max(stored.requests if stored else 0, counters)
        else:
            for pod, page in pages.items():
                before = self._last[pod].requests if pod in self._last else 0
                self._total += page.requests - before if page.requests >= before else page.requests
        self._last = {pod: page for pod, page in {**self._last, **pages}.items() if pod in running}

    def reading(self, stored: CaptureStatus | None, *, awaited: bool) -> CaptureReading | None:
        """Return what status lacks; None if it lacks nothing.

        The watermark moves on without traffic; that alone is news only where a dataset waits, or nothing is stored.
        """
        requests = max(0, (self._total or 0) - (stored.requests if stored else 0))
        watermark = min((page.until for page in self._last.values() if page.until), default=None)
        known = stored.shipped_until if stored else None
        if requests > 0 or (watermark is not None and watermark != known and (awaited or (stored and not known))):
            return CaptureReading(requests=requests, shipped_until=watermark)
        return None


class Readings:
    """Everything that was read, by key."""

    def __init__(self, *, window_seconds: float = 60.0) -> None:
        self._window_seconds = window_seconds
        self._windows: dict[Key, Windows] = {}
        self._captures: dict[Key, Captures] = {}
        self._progress: dict[Key, Json] = {}

    def windows(self, key: Key) -> Windows:
        """Return the windows of an endpoint."""
        return self._windows.setdefault(key, Windows(self._window_seconds))

    def captures(self, key: Key) -> Captures:
        """Return the captures of an endpoint."""
        return self._captures.setdefault(key, Captures())

    def measured(self, key: Key) -> Measured | None:
        """Return the newest complete window."""
        return self._windows[key].result if key in self._windows else None

    def shipped(self, key: Key, stored: CaptureStatus | None, *, awaited: bool) -> CaptureReading | None:
        """Return what companions shipped that status does not tell; `awaited`: a dataset waits for it."""
        return self._captures[key].reading(stored, awaited=awaited) if key in self._captures else None

    def progress(self, key: Key) -> Json | None:
        """Return the newest progress page of an object's Job."""
        return self._progress.get(key)

    def set_progress(self, key: Key, page: Json) -> bool:
        """Take a progress page; True if it is news."""
        news = self._progress.get(key) != page
        self._progress[key] = page
        return news

    def forget(self, key: Key) -> None:
        """Drop what was read of an object that is gone."""
        for store in (self._windows, self._captures, self._progress):
            store.pop(key, None)
