"""kopf in a thread and a loop of its own, begun anew whenever it ends.

It is: what keeps watching through a day on which the API server is gone, refuses, or answers nonsense. kopf ends then,
and cancels every task of its loop that it did not start; here it can only end itself. The cache and the workers stay,
and so does what `/healthz` says: a restart of the process would cure nothing.
It is not: needed under `kopf run`, where the process is kopf's and the kubelet restarts it.

Races: what is deleted between our list and the beginning of a watch is in neither. So a list follows each beginning.
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Collection, Sequence
from typing import Any

import kopf

from specop.controllers.intake import Intake
from specop.controllers.resync import Resync
from specop.operator import handlers

LIST_AFTER_SECONDS = 5.0
AGAIN_AFTER_SECONDS = 2.0
END_SECONDS = 3.0
_logger = logging.getLogger(__name__)


class Informer:
    """Lives of kopf, one after the other."""

    def __init__(
        self, intake: Intake, resync: Resync, namespaces: Sequence[str], *, restarted: Callable[[], None]
    ) -> None:
        self._intake = intake
        self._resync = resync
        self._namespaces = namespaces
        self._restarted = restarted
        self._stop = threading.Event()
        # It warns that it takes no signals in a thread: `main` takes them.
        logging.getLogger("kopf._core.reactor.running").setLevel(logging.ERROR)

    async def run(self) -> None:
        """Watch until stopped."""
        loop = asyncio.get_running_loop()
        while True:
            life = loop.run_in_executor(None, self._live, loop)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(life), LIST_AFTER_SECONDS)
            await self._resync.prune()  # also if it ended at once: then lists are all that we learn from
            await life
            if self._stop.is_set():
                return
            self._restarted()
            await asyncio.sleep(AGAIN_AFTER_SECONDS)

    def stop(self) -> None:
        """Let the present life be the last, and end it."""
        self._stop.set()

    def _live(self, loop: asyncio.AbstractEventLoop) -> None:
        """One life of kopf, in the thread of the executor."""
        registry = kopf.OperatorRegistry()
        handlers.register(
            registry,
            seen=lambda body: loop.call_soon_threadsafe(self._intake.seen, body),
            gone=lambda body: loop.call_soon_threadsafe(self._intake.gone, body),
        )
        own = asyncio.new_event_loop()
        try:
            own.run_until_complete(self._watch(registry))
            own.run_until_complete(_end(asyncio.all_tasks(own)))
        except Exception as error:  # noqa: BLE001 - whatever ended it, the cure is to begin anew
            _logger.warning("watching failed: %s: %s", type(error).__name__, error)
        finally:
            own.close()

    async def _watch(self, registry: kopf.OperatorRegistry) -> None:
        """Run kopf's tasks until the first of them ends.

        `kopf.operator` would then wait for the others, and after some failures of a watch it waits for ever.
        """
        tasks = await kopf.spawn_tasks(
            registry=registry,
            settings=handlers.settings(),
            clusterwide=not self._namespaces,
            namespaces=self._namespaces,
            stop_flag=self._stop,
        )
        ended, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        await _end(others)
        for task in ended:
            if not task.cancelled() and (error := task.exception()) is not None:
                _logger.warning("%s ended: %s: %s", task.get_name(), type(error).__name__, error)


async def _end(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel tasks; what does not end in time is left behind with its loop."""
    others = {task for task in tasks if task is not asyncio.current_task()}
    for task in others:
        task.cancel()
    if others:
        await asyncio.wait(others, timeout=END_SECONDS)
