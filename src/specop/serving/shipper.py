"""From captured files on the pod's disk to object storage, and up to when that is done.

The middleware in the engine writes `<first-ms>-<n>.open` and renames it to `.jsonl`; here a file is compressed, put at
`<capture>/<namespace>/<endpoint>/dt=YYYY-MM-DD/hour=HH/<pod>-<first-ms>-<n>.jsonl.zst`, and deleted. The key depends on
the file alone: a file that was put but not deleted is put again over itself.

What it minds:
- The watermark: everything captured before it lies in storage. A line is written within `SETTLE_MS` of the moment it
  bears, and a file holds nothing older than its name, so the oldest file that is left bounds it.
- A file left `.open` by an engine that was killed: adopted once nothing wrote to it for long, its half line cut off.
- Storage that is gone: files are kept up to a bound, then the oldest are dropped and counted.
"""

import logging
import os
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import zstandard

from specop.api.base import Uri
from specop.common.errors import SpecopError
from specop.storage.base import Store
from specop.storage.uri import join

logger = logging.getLogger(__name__)

CHUNK = 1 << 20
SETTLE_MS = 2_000
"""From the end of a request to its line on disk; its writer is a thread that waits for nothing but the disk."""
ABANDONED_SECONDS = 30.0
"""An open file that was not written for so long has no writer: writers close theirs after five seconds."""


@dataclass(frozen=True, slots=True)
class Shipped:
    """What has been done since this process started."""

    requests: int = 0
    bytes: int = 0
    """Compressed, as stored."""
    failures: int = 0
    """Rounds that storage ended."""
    dropped: int = 0
    """Requests that were given up because storage was gone for too long."""
    pending_bytes: int = 0
    watermark_ms: int | None = None
    """Everything captured before this moment (Unix, ms) lies in storage, except what was dropped."""
    settled: int = 0
    """Of `requests`, those of seconds before its own: whoever waits for so many finds them up to there."""


class Shipper:
    """Ships one folder. `ship` blocks; calls from several threads take turns."""

    def __init__(self, folder: Path, store: Store, prefix: Uri, pod: str, max_bytes: int) -> None:
        self._folder = folder
        self._store = store
        self._prefix = prefix
        self._pod = pod
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._unsettled: list[tuple[int, int]] = []
        """Last moment (Unix, ms) and requests of files that were shipped and may reach behind the watermark."""
        self.done = Shipped()

    def ship(self, *, final: bool = False) -> bool:
        """Ship what is there, oldest first; true when nothing is left that could have been.

        `final`: the engine has ended, so files left open have no writer. An error of storage ends the round and is
        counted.
        """
        with self._lock:
            began_ms = time.time_ns() // 1_000_000
            self._adopt(final=final)
            shipped_all = True
            for path in _by_age(self._folder.glob("*.jsonl")):
                try:
                    self._ship_file(path)
                except (SpecopError, OSError) as error:
                    reason = getattr(error, "reason", type(error).__name__)
                    logger.warning("captures could not be shipped (%s); they are kept", reason)
                    self.done = replace(self.done, failures=self.done.failures + 1)
                    shipped_all = False
                    break
            self._drop_beyond_bound()
            self._note_rest(began_ms)
            return shipped_all

    def ship_rest(self, seconds: float) -> None:
        """Ship what the engine left at its end, trying for so long."""
        deadline = time.monotonic() + seconds
        while not self.ship(final=True) and time.monotonic() < deadline:
            time.sleep(1)

    def _ship_file(self, path: Path) -> None:
        packed, last_ms = path.with_suffix(".zst"), path.stat().st_mtime_ns // 1_000_000
        try:
            requests = _compress(path, packed)
            self._store.upload(packed, self._uri(path))
            size = packed.stat().st_size
        finally:
            packed.unlink(missing_ok=True)
        path.unlink()
        self._unsettled.append((last_ms, requests))
        self.done = replace(self.done, requests=self.done.requests + requests, bytes=self.done.bytes + size)

    def _uri(self, path: Path) -> Uri:
        hour = datetime.fromtimestamp(_first_ms(path) // 1000, UTC)
        return join(self._prefix, f"dt={hour:%Y-%m-%d}", f"hour={hour:%H}", f"{self._pod}-{path.stem}.jsonl.zst")

    def _adopt(self, *, final: bool) -> None:
        """Take over open files that have no writer any more."""
        for path in _by_age(self._folder.glob("*.open")):
            try:
                if final or time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
                    _cut_half_line(path)
                    path.rename(path.with_suffix(".jsonl"))
            except FileNotFoundError:  # its writer was alive after all and renamed it meanwhile
                continue

    def _drop_beyond_bound(self) -> None:
        files = _by_age(self._folder.glob("*.jsonl"))
        total = sum(path.stat().st_size for path in files)
        for path in files:
            if total <= self._max_bytes:
                return
            total -= path.stat().st_size
            lost = _count_lines(path)
            path.unlink()
            logger.error("captures dropped: storage was gone for too long; requests lost: %d", lost)
            self.done = replace(self.done, dropped=self.done.dropped + lost)

    def _note_rest(self, began_ms: int) -> None:
        """Set the watermark: behind every file that is left, and behind what may not have reached the disk."""
        # twice: one listing may miss a file that is renamed while it runs, which happens to a file once
        left = {path for _ in range(2) for path in self._folder.iterdir() if path.suffix in {".jsonl", ".open"}}
        watermark = max(min([began_ms - SETTLE_MS, *map(_first_ms, left)]), self.done.watermark_ms or 0)
        told_ms = watermark // 1000 * 1000  # whole seconds are told
        settled = sum(requests for last_ms, requests in self._unsettled if last_ms < told_ms)
        self._unsettled = [item for item in self._unsettled if item[0] >= told_ms]
        pending = 0
        for path in left:
            try:
                pending += path.stat().st_size
            except FileNotFoundError:  # its older name
                continue
        self.done = replace(
            self.done, pending_bytes=pending, watermark_ms=watermark, settled=self.done.settled + settled
        )


def _first_ms(path: Path) -> int:
    return int(path.stem.partition("-")[0])


def _by_age(paths: Iterable[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: (_first_ms(path), path.name))


def _compress(source: Path, goal: Path) -> int:
    """Compress a file; returns its number of lines."""
    lines = 0
    with source.open("rb") as plain, goal.open("wb") as file, zstandard.ZstdCompressor().stream_writer(file) as packed:
        while chunk := plain.read(CHUNK):
            lines += chunk.count(b"\n")
            packed.write(chunk)
    return lines


def _count_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(CHUNK), b""))


def _cut_half_line(path: Path) -> None:
    """Remove what follows the last line end: a writer was killed while it wrote."""
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - CHUNK)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                file.truncate(start + newline + 1)
                return
            end = start
        file.truncate(0)
