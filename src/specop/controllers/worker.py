"""Takes keys from the queue and reconciles them: gather, plan, execute.

It is: the one place where errors of a reconcile end. Later (`Retryable`) and again (`Conflict`) go back to the queue
with a growing delay; what only the user can mend (`Terminal`) becomes a condition and waits for the next change;
anything else is a fault of ours, logged with its trace and retried.
It is not: parallel per key; the queue sees to that.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable

from specop.common.clock import Clock
from specop.common.errors import Conflict, Retryable, Terminal
from specop.controllers.executor import Executor
from specop.controllers.gather import Gatherer
from specop.controllers.queue import Queue
from specop.controllers.readings import Readings
from specop.kube.cache import Key

_logger = logging.getLogger(__name__)

Observer = Callable[[str, str, float], None]
"""Told of every reconcile: kind, result, seconds."""


class Worker:
    """One of several; reconciles one key at a time."""

    def __init__(
        self,
        queue: Queue[Key],
        gatherer: Gatherer,
        executor: Executor,
        readings: Readings,
        clock: Clock,
        *,
        timeout_seconds: float = 60.0,
        observer: Observer = lambda _kind, _result, _seconds: None,
    ) -> None:
        self._queue = queue
        self._gatherer = gatherer
        self._executor = executor
        self._readings = readings
        self._clock = clock
        self._timeout = timeout_seconds
        self._observer = observer
        self.busy_since: float | None = None
        """Loop time at which the present reconcile began."""
        self._stopping = False
        self._idle = asyncio.Event()
        self._idle.set()

    async def stop(self, within_seconds: float) -> None:
        """Begin no further reconcile, and wait for the present one, but not for ever."""
        self._stopping = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), within_seconds)

    async def run(self) -> None:
        """Reconcile until cancelled; a cancelled reconcile is simply cut, it can be repeated."""
        while True:
            key = await self._queue.get()
            try:
                if not self._stopping:
                    await self.reconcile(key)
            finally:
                self._queue.done(key)

    async def reconcile(self, key: Key) -> None:
        """One reconcile; never raises but for cancellation."""
        loop = asyncio.get_running_loop()
        started = self.busy_since = loop.time()
        self._idle.clear()
        try:
            async with asyncio.timeout(self._timeout):
                result = await self._guarded(key)
        except TimeoutError:
            _logger.warning("%s %s/%s: not done in %.0f s", *key, self._timeout)
            self._queue.add_rate_limited(key)
            result = "timeout"
        finally:
            self.busy_since = None
            self._idle.set()
        self._observer(key.kind, result, loop.time() - started)

    async def _guarded(self, key: Key) -> str:
        try:
            await self._once(key)
        except Conflict as error:
            _logger.info("%s %s/%s: again: %s", *key, error)
            self._queue.add_rate_limited(key)
            return "conflict"
        except Retryable as error:
            _logger.warning("%s %s/%s: later: %s", *key, error)
            self._queue.add_rate_limited(key, error.after_seconds or 0.0)
            return "retry"
        except Exception:
            _logger.exception("%s %s/%s: fault", *key)
            self._queue.add_rate_limited(key)
            return "fault"
        self._queue.forget(key)
        return "ok"

    async def _once(self, key: Key) -> None:
        try:
            plan = await self._gatherer.plan(key, self._clock())
        except Terminal as error:
            await self._executor.refuse(key, error)
            return
        if plan is None:
            self._readings.forget(key)
            return
        await self._executor.execute(key, plan)
        if plan.requeue_after is not None:
            self._queue.add_after(key, plan.requeue_after)
