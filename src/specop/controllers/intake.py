"""Where everything that is learned of the cluster comes in: the cache is updated and the keys concerned are enqueued.

Watch events, answers to our own writes and lists all pass here, so that none of them can wake too few. An event that
brings nothing newer than what is known wakes nobody: our own writes come back as such events.
"""

from specop.api.shared import Json
from specop.controllers import routing
from specop.controllers.queue import Queue
from specop.kube.cache import Cache, Change, Key
from specop.kube.port import Listing
from specop.kube.resources import RECONCILED, Kind


class Intake:
    """Cache and queue, kept in step."""

    def __init__(self, cache: Cache, queue: Queue[Key]) -> None:
        self.cache = cache
        self.queue = queue

    def seen(self, body: Json) -> None:
        """Take in that an object exists in this state."""
        self._wake(self.cache.put(body))

    def gone(self, body: Json) -> None:
        """Take in that an object was deleted; `body` is its last state."""
        self._wake(self.cache.remove(body))

    def listed(self, kind: Kind, namespace: str | None, listing: Listing) -> None:
        """All objects of a kind, as of one moment."""
        for change in self.cache.replace(kind, namespace, listing):
            self._wake(change)

    def enqueue_all(self) -> None:
        """Let every object be looked at again."""
        for kind in RECONCILED:
            for key in self.cache.keys(kind):
                self.queue.add(key)

    def _wake(self, change: Change | None) -> None:
        if change is None:
            return
        for key in routing.owners(change):
            self.queue.add(key)
        for topic in routing.topics(change):
            for key in self.cache.interested(topic):
                self.queue.add(key)
