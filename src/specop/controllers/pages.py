"""Reads the pages of running pods, by pod IP: progress of Jobs, metrics of engines, captures of companions.

It is: one round over all running pods every few seconds, a bounded number at a time, apart from the workers, so that
a pod that does not answer delays nobody. What is news enqueues the object.
It is not: able to fail a reconcile. A page that cannot be read is counted and tried again in the next round.

Pods are not trusted: answers are bounded in size and time, redirects are not followed, nothing of them is logged.
"""

import asyncio
import json
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import TypeVar

import aiohttp
from pydantic import ValidationError

from specop.api.endpoint import DraftedEndpoint
from specop.api.jobs import PROGRESS_PORT
from specop.api.shared import Json
from specop.common.clock import format_time, parse_time
from specop.common.names import LABEL_INDEX, LABEL_ROLE
from specop.controllers.intake import Intake
from specop.controllers.readings import Readings, Shipped
from specop.controllers.routing import is_awaited, owner_of
from specop.controllers.samples import parse
from specop.kube.cache import Key
from specop.kube.resources import DATASET, ENDPOINT, POD, TRAINING_JOB

METRICS_PORT = 8000
COMPANION_PORT = 8001
T = TypeVar("T")
_LIMIT_BYTES = 2**22
_ROLES = {"engine", "dataset", "training"}
_logger = logging.getLogger(__name__)

Observer = Callable[[str, str], None]
"""Told of every page: which, and `ok` or `failed`."""


class PageFailed(Exception):
    """The page could not be read this time."""


class Scraper:
    """The rounds."""

    def __init__(
        self,
        intake: Intake,
        readings: Readings,
        *,
        period_seconds: float = 10.0,
        capture_seconds: float = 60.0,
        timeout_seconds: float = 3.0,
        concurrency: int = 32,
        observer: Observer = lambda _page, _result: None,
    ) -> None:
        self._intake = intake
        self._readings = readings
        self._period = period_seconds
        self._capture_seconds = capture_seconds
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        self._slots = asyncio.Semaphore(concurrency)
        self._observer = observer
        self._told: dict[Key, float] = {}
        """When an endpoint was last enqueued for its captures."""

    async def run(self) -> None:
        """Read rounds until cancelled."""
        loop = asyncio.get_running_loop()
        async with aiohttp.ClientSession(timeout=self._timeout, trust_env=False) as session:
            while True:
                started = loop.time()
                try:
                    await self.round(session, started)
                except Exception:
                    _logger.exception("a round of pages ended early")
                await asyncio.sleep(max(0.0, self._period - (loop.time() - started)))

    async def round(self, session: aiohttp.ClientSession, now: float) -> None:
        """Read every page once."""
        pods: dict[Key, list[Json]] = defaultdict(list)
        cache = self._intake.cache
        for pod_key in cache.keys(POD):
            pod = cache.get(pod_key)
            owner = owner_of(pod) if pod is not None and _readable(pod) else None
            if pod is not None and owner is not None and cache.get(owner) is not None:
                pods[owner].append(pod)
        await asyncio.gather(*(self._object(session, key, owned, now) for key, owned in pods.items()))

    async def _object(self, session: aiohttp.ClientSession, key: Key, pods: list[Json], now: float) -> None:
        if key.kind == ENDPOINT.name:
            await self._endpoint(session, key, pods, now)
        elif key.kind in (DATASET.name, TRAINING_JOB.name):
            pages = await self._pages(session, "progress", pods, f":{PROGRESS_PORT}/progress", _object_of)
            for page in pages.values():
                if self._readings.set_progress(key, page):
                    self._intake.queue.add(key)

    async def _endpoint(self, session: aiohttp.ClientSession, key: Key, pods: list[Json], now: float) -> None:
        samples, shipped = await asyncio.gather(
            self._pages(session, "metrics", pods, f":{METRICS_PORT}/metrics", parse),
            self._pages(session, "capture", pods, f":{COMPANION_PORT}/capture", _shipped),
        )
        try:
            endpoint: DraftedEndpoint | None = self._intake.cache.model(key)
        except ValidationError:
            return  # its reconcile says so
        if endpoint is None:
            return
        stored = endpoint.status.capture
        captures = self._readings.captures(key)
        captures.add(shipped, stored, frozenset(pod["metadata"]["uid"] for pod in pods))
        awaited = is_awaited(self._intake.cache, key)
        due = awaited or now - self._told.get(key, float("-inf")) >= self._capture_seconds
        if due and captures.reading(stored, awaited=awaited) is not None:
            self._told[key] = now
            self._intake.queue.add(key)
        if self._readings.windows(key).add(samples, now):
            self._intake.queue.add(key)

    async def _pages(
        self, session: aiohttp.ClientSession, page: str, pods: list[Json], where: str, read: Callable[[str], T]
    ) -> Mapping[str, T]:
        """One page of all pods, by uid of the pod; those that failed are left out."""

        async def one(pod: Json) -> T:
            try:
                async with (
                    self._slots,
                    session.get(f"http://{_host(pod)}{where}", allow_redirects=False) as response,
                ):
                    response.raise_for_status()
                    return read((await response.content.read(_LIMIT_BYTES)).decode())
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError, LookupError, TypeError) as error:
                raise PageFailed(type(error).__name__) from error

        answers = await asyncio.gather(*(one(pod) for pod in pods), return_exceptions=True)
        found: dict[str, T] = {}
        for pod, answer in zip(pods, answers, strict=True):
            self._observer(page, "failed" if isinstance(answer, BaseException) else "ok")
            if isinstance(answer, PageFailed):
                _logger.debug("page %s of pod %s: %s", page, pod["metadata"]["name"], answer)
            elif isinstance(answer, BaseException):
                raise answer
            else:
                found[pod["metadata"]["uid"]] = answer
        return found


def _readable(pod: Json) -> bool:
    status, metadata = pod.get("status", {}), pod["metadata"]
    labels = metadata.get("labels", {})
    running = status.get("phase") == "Running" and "deletionTimestamp" not in metadata
    speaks = labels.get(LABEL_ROLE) in _ROLES and labels.get(LABEL_INDEX, "0") == "0"
    return running and bool(status.get("podIP")) and speaks


def _host(pod: Json) -> str:
    address: str = pod["status"]["podIP"]
    return f"[{address}]" if ":" in address else address


def _object_of(text: str) -> Json:
    page = json.loads(text)
    if not isinstance(page, dict):
        raise TypeError("not an object")
    return page


def _shipped(text: str) -> Shipped:
    """Read a companion's page; what is no count or no time is refused here, before it can get near a status."""
    page = _object_of(text)
    requests, until = int(page["requests"]), page.get("shippedUntil")
    if requests < 0:
        raise ValueError("negative count")
    # Whole seconds, rounded down: a watermark may be early, never late.
    return Shipped(requests=requests, until=format_time(parse_time(until)) if until is not None else None)
