"""The operator put together: client, cache, queue, workers, scraper, resync, informer, pages; one start, one stop.

Order of start: pages, Lease (if asked for), one list of every kind, then workers. Order of stop: no new keys, up to
`DRAIN_SECONDS` for reconciles in progress, then everything is cut; what was cut is done again after the next start.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Coroutine
from typing import Any

from specop.common.clock import system_clock
from specop.common.errors import Retryable, SpecopError
from specop.controllers.executor import Executor
from specop.controllers.gather import Gatherer
from specop.controllers.intake import Intake
from specop.controllers.pages import Scraper
from specop.controllers.queue import Queue
from specop.controllers.readings import Readings
from specop.controllers.recorder import Recorder
from specop.controllers.resync import Resync
from specop.controllers.routing import interests
from specop.controllers.worker import Worker
from specop.kube.cache import Cache, Key
from specop.kube.client import Client, load_configuration, own_namespace
from specop.kube.lease import Lease
from specop.operator.informer import Informer
from specop.operator.metrics import Metrics
from specop.operator.probes import Pages
from specop.operator.settings import Settings

DRAIN_SECONDS = 15.0
STUCK_SECONDS = 120.0
_logger = logging.getLogger(__name__)


class App:
    """One operator process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._queue: Queue[Key] = Queue()
        cache = Cache(interests)
        self.intake = Intake(cache, self._queue)
        self._metrics = Metrics(cache, self._queue)
        self._pages = Pages(self._metrics, healthy=self._what_is_stuck, ready=self._what_is_missing)
        self._workers: list[Worker] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._client: Client | None = None
        self._lease: Lease | None = None
        self._informer: Informer | None = None
        self._primed = False
        self._stands_by = False
        self.failed = asyncio.Event()
        """Set when a task of ours ended: the process must end too."""

    async def start(self, *, watch: bool = False) -> None:
        """Come up; returns when the cache is primed and the workers run. `watch`: with an informer of our own."""
        settings = self._settings
        port = await self._pages.start(settings.port)
        _logger.info("pages on port %d", port)
        self._spawn(self._pages.watch_lag(), "lag")
        client = self._client = Client(await load_configuration(), observer=self._metrics.requested)
        if settings.lease:
            identity = f"{socket.gethostname()}-{os.getpid()}"
            self._lease = Lease(client, own_namespace(), "specop", identity)
            self._stands_by = True
            await self._lease.acquire()
            self._stands_by = False
            self._spawn(self._lease.hold(), "lease")
        resync = Resync(client, self.intake, settings.watch_namespaces, period_seconds=settings.resync_seconds)
        await _patiently(resync)
        self._primed = True
        readings = Readings(window_seconds=settings.measured_seconds)
        gatherer = Gatherer(client, self.intake, readings, settings.runtimes)
        executor = Executor(client, self.intake, Recorder(client, self.intake.cache, system_clock), system_clock)
        self._workers = [
            Worker(self._queue, gatherer, executor, readings, system_clock, observer=self._metrics.reconciled)
            for _ in range(settings.workers)
        ]
        for number, worker in enumerate(self._workers):
            self._spawn(worker.run(), f"worker-{number}")
        scraper = Scraper(
            self.intake,
            readings,
            period_seconds=settings.scrape_seconds,
            capture_seconds=settings.measured_seconds,
            observer=self._metrics.read,
        )
        self._spawn(scraper.run(), "scraper")
        self._spawn(resync.run(), "resync")
        if watch:
            namespaces = settings.watch_namespaces
            self._informer = Informer(self.intake, resync, namespaces, restarted=self._metrics.watch_restarted)
            self._spawn(self._informer.run(), "informer")
        _logger.info("reconciling %s", ", ".join(settings.watch_namespaces) or "all namespaces")

    async def stop(self) -> None:
        """Go down; returns when nothing of ours runs."""
        self._queue.close()
        if self._informer is not None:
            self._informer.stop()
        await asyncio.gather(*(worker.stop(DRAIN_SECONDS) for worker in self._workers))
        for task in self._tasks:
            task.remove_done_callback(self._ended)
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._pages.stop()
        if self._client is not None:
            if self._lease is not None:
                await self._give_up(self._lease)
            await self._client.close()

    async def _give_up(self, lease: Lease) -> None:
        try:
            await lease.release()
        except SpecopError as error:
            _logger.info("lease left to expire: %s", error)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(self._ended)
        self._tasks.append(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        _logger.critical("task %s ended", task.get_name(), exc_info=error)
        self.failed.set()

    def _what_is_stuck(self) -> str | None:
        if self.failed.is_set():
            return "a task ended"
        now = asyncio.get_running_loop().time()
        busy = [now - worker.busy_since for worker in self._workers if worker.busy_since is not None]
        return "a reconcile is stuck" if busy and max(busy) > STUCK_SECONDS else None

    def _what_is_missing(self) -> str | None:
        return None if self._primed or self._stands_by else "the cache is not primed"


async def _patiently(resync: Resync) -> None:
    """Prime the cache; while the API server cannot be reached, or a CRD is missing, try again."""
    while True:
        try:
            await resync.once()
        except SpecopError as error:
            seconds = error.after_seconds if isinstance(error, Retryable) else None
            _logger.warning("cannot list yet, are the CRDs installed? %s", error)
            await asyncio.sleep(seconds or 2.0)
        else:
            return
