"""Keys that wait to be reconciled.

It is: a set of keys with an order. A key that is added twice waits once; a key that is added while it is processed is
processed once more afterwards; no key is processed by two workers at a time. Failures are retried after a delay that
doubles, per key; of several delayed additions of a key the earliest counts.
It is not: fair beyond first come, first served; persistent (everything in it can be found again by listing).

Races: all methods run on one event loop and none awaits between look and change.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Queue(Generic[K]):
    """A deduplicating, delaying, rate-limiting queue of keys."""

    def __init__(
        self, *, base_seconds: float = 0.1, cap_seconds: float = 60.0, jitter: Callable[[], float] = random.random
    ) -> None:
        self._base = base_seconds
        self._cap = cap_seconds
        self._jitter = jitter
        self._ready: asyncio.Queue[K] = asyncio.Queue()
        self._dirty: set[K] = set()
        self._processing: set[K] = set()
        self._failures: Counter[K] = Counter()
        self._delayed: dict[K, asyncio.TimerHandle] = {}

    def __len__(self) -> int:
        """Keys that wait, without delayed ones."""
        return len(self._dirty)

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing is processed; delayed keys may exist."""
        return not self._dirty and not self._processing

    def add(self, key: K) -> None:
        """Let a key be processed as soon as a worker is free."""
        if key in self._dirty:
            return
        self._dirty.add(key)
        if key not in self._processing:
            self._ready.put_nowait(key)

    def add_after(self, key: K, seconds: float) -> None:
        """Add later; an earlier delayed addition of the key stands, a later one is brought forward."""
        loop = asyncio.get_running_loop()
        when = loop.time() + seconds
        pending = self._delayed.get(key)
        if pending is not None:
            if pending.when() <= when:
                return
            pending.cancel()
        self._delayed[key] = loop.call_at(when, self._due, key)

    def add_rate_limited(self, key: K, at_least: float = 0.0) -> None:
        """Add after a delay that doubles with each failure of the key: between half of it and all of it, capped."""
        delay = min(self._cap, self._base * 2.0 ** min(self._failures[key], 32))
        self._failures[key] += 1
        self.add_after(key, max(at_least, delay * (0.5 + 0.5 * self._jitter())))

    def forget(self, key: K) -> None:
        """Take note that the key succeeded: its next failure is its first."""
        self._failures.pop(key, None)

    async def get(self) -> K:
        """Take the next key; the caller must call `done` afterwards."""
        key = await self._ready.get()
        self._dirty.discard(key)
        self._processing.add(key)
        return key

    def done(self, key: K) -> None:
        """Give a key back; if it was added meanwhile, it is next in line."""
        self._processing.discard(key)
        if key in self._dirty:
            self._ready.put_nowait(key)

    def close(self) -> None:
        """Cancel delayed additions."""
        for timer in self._delayed.values():
            timer.cancel()
        self._delayed.clear()

    def _due(self, key: K) -> None:
        del self._delayed[key]
        self.add(key)
