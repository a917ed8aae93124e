"""Lists everything now and then, because a watch that broke tells nothing of what vanished meanwhile.

The first round primes the cache, before any worker starts: a plan over half a cache would be right, but wasteful.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Sequence

from specop.common.errors import Conflict, Retryable
from specop.controllers.intake import Intake
from specop.kube.port import Port
from specop.kube.resources import WATCHED

_logger = logging.getLogger(__name__)


class Resync:
    """Rounds of lists."""

    def __init__(
        self,
        port: Port,
        intake: Intake,
        namespaces: Sequence[str],
        *,
        period_seconds: float = 600.0,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._port = port
        self._intake = intake
        self._namespaces: Sequence[str | None] = namespaces or (None,)
        self._period = period_seconds
        self._jitter = jitter

    async def once(self) -> None:
        """List every kind, and let every object be looked at. Raises what listing raises."""
        await self._lists()
        self._intake.enqueue_all()

    async def prune(self) -> None:
        """List every kind, and wake only what is concerned; what cannot be listed now is left to the next round."""
        try:
            await self._lists()
        except (Conflict, Retryable) as error:
            _logger.warning("lists cut short: %s", error)

    async def _lists(self) -> None:
        for kind in WATCHED:
            for namespace in self._namespaces if kind.namespaced else (None,):
                self._intake.listed(kind, namespace, await self._port.list(kind, namespace, kind.selector))

    async def run(self) -> None:
        """List in rounds until cancelled, at the period plus or minus a tenth."""
        while True:
            await asyncio.sleep(self._period * (0.9 + 0.2 * self._jitter()))
            try:
                await self.once()
            except (Conflict, Retryable) as error:
                _logger.warning("resync cut short: %s", error)
