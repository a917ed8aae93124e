"""Captures older than `spec.capture.retentionDays` go from storage, an hour's folder at a time.

Every serving pod does it for the whole endpoint, so it needs no leader and no pod that lives: to delete what another
deleted is no error. It goes by the time in the key alone, and touches nothing but `<prefix>/dt=YYYY-MM-DD/hour=HH/…`.

What it minds:
- A folder goes when its hour ended that long ago: a file holds answers of the hour in its key, so nothing in it is
  younger.
- A listing is in order of keys, so in order of hours, and ends at the first that stays: a round asks for a page or two,
  however much is kept.
- One request an object: of a batch, S3 wants a checksum that not all stores take. A pod puts one object in five
  seconds and removes dozens in one.
- Storage that refuses or is gone harms nobody: the round ends, is counted, and the next one begins anew. One folder
  that may not be deleted does not shield what is younger.
"""

import logging
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import groupby

from specop.api.base import Uri
from specop.common.errors import SpecopError, UserError
from specop.storage.base import Store
from specop.storage.uri import join

logger = logging.getLogger(__name__)

REFUSALS = 10
"""Folders that storage refuses to delete from, until a round ends: it may be that nothing may be deleted."""
_KEY = re.compile(r"dt=(\d{4}-\d{2}-\d{2})/hour=(\d{2})/.*", re.ASCII | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Removed:
    """What has been done since this process started."""

    objects: int = 0
    failures: int = 0
    """Rounds in which something could not be deleted."""


class Retention:
    """Keeps one endpoint's captures to their time. `remove` blocks; one call at a time."""

    def __init__(self, store: Store, prefix: Uri, days: int) -> None:
        self._store = store
        self._prefix = join(prefix, "")
        self._kept = timedelta(days=days)
        self._stopped = threading.Event()
        self.done = Removed()

    def remove(self, now: datetime) -> None:
        """Remove what is too old at this moment, oldest first. What storage refuses is logged and counted."""
        before, problem, refused = self.done.objects, "", 0
        try:
            for _, uris in groupby(self._past(now), key=lambda found: found[0]):
                try:
                    for _, uri in uris:
                        if self._stopped.is_set():
                            return
                        self._store.delete(uri)
                        self.done = replace(self.done, objects=self.done.objects + 1)
                except UserError as error:
                    problem, refused = error.reason, refused + 1
                    if refused == REFUSALS:
                        break
        except (SpecopError, OSError) as error:
            problem = getattr(error, "reason", type(error).__name__)
        if problem:
            self.done = replace(self.done, failures=self.done.failures + 1)
            logger.warning("captures past their retention could not all be removed (%s); tried again later", problem)
        if removed := self.done.objects - before:
            logger.info("captures past their retention were removed: %d objects", removed)

    def stop(self) -> None:
        """Let a round that runs end after the object that it deletes."""
        self._stopped.set()

    def _past(self, now: datetime) -> Iterator[tuple[datetime, Uri]]:
        """Hours that are over for long enough, and what lies in their folders."""
        for info in self._store.list(f"{self._prefix}dt="):
            hour = _hour(info.uri.removeprefix(self._prefix))
            if hour is None:
                continue
            if hour + timedelta(hours=1) > now - self._kept:
                return
            yield hour, info.uri


def _hour(key: str) -> datetime | None:
    """Read the hour in the key of a capture; None where it is something else."""
    found = _KEY.fullmatch(key)
    try:
        return datetime.fromisoformat(f"{found[1]}T{found[2]}:00:00").replace(tzinfo=UTC) if found else None
    except ValueError:  # no such day or hour
        return None
