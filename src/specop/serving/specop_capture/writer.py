"""The thread that turns records into lines of files, and the budget of what is buffered."""

import atexit
import contextlib
import json
import os
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

from .record import Record, Settings, captured_line

ROTATE_SECONDS = 5.0
"""A file is closed and renamed this long after its first line."""
HOUR_MS = 3_600_000
CLOSE_SECONDS = 5.0
"""At the end of the process, the writer has this long to write what is queued."""


class Writer:
    """The thread that turns records into lines, and the budget of what is buffered."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._queue: queue.SimpleQueue[Record | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self.charged = 0
        self.counts: Counter[str] = Counter()
        self._written_counts: Counter[str] = Counter()
        self._open: _OpenFile | None = None
        self._files = 0
        self._thread = threading.Thread(target=self._run, name="specop-capture", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def charge(self, size: int) -> bool:
        """Take `size` bytes from the budget; false when they are not there."""
        with self._lock:
            if self.charged + size > self.settings.max_total_bytes:
                return False
            self.charged += size
            return True

    def lose(self, record: Record, cause: str) -> None:
        """Give up a record and what it holds; it is counted when its request ends."""
        record.lost = record.lost or cause
        record.request.clear()
        record.response.clear()
        self.charge(-record.size)
        record.size = 0

    def put(self, record: Record) -> None:
        """Queue a record whose request ended; its bytes are given back once it is written."""
        self._queue.put(record)

    def close(self) -> None:
        """Write what is queued and end; called at exit, harmless when called again."""
        atexit.unregister(self.close)
        self._queue.put(None)
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        while True:
            try:
                record = self._queue.get(timeout=self._until_rotation())
            except queue.Empty:
                self._guarded(self._rotate)
                continue
            if record is None:
                self._guarded(self._rotate)
                return
            self._guarded(partial(self._write, record))
            self.charge(-record.size)
            if self._until_rotation() == 0:
                self._guarded(self._rotate)

    def _guarded(self, step: Callable[[], None]) -> None:
        """Run a step that may fail for reasons of the disk or of odd content; the failure is counted."""
        try:
            step()
        except OSError:
            self.counts["write_failed"] += 1
        except Exception:  # noqa: BLE001  this thread must outlive every record
            self.counts["unreadable"] += 1

    def _until_rotation(self) -> float:
        return ROTATE_SECONDS if self._open is None else max(0.0, self._open.due - time.monotonic())

    def _write(self, record: Record) -> None:
        if record.lost or not record.complete:
            self.counts[record.lost or "aborted"] += 1
            return
        text = json.dumps(captured_line(record, self.settings.arm), ensure_ascii=False, allow_nan=False)
        data = f"{text}\n".encode("utf-8", "replace")
        if self._open is not None and record.ended_ms // HOUR_MS != self._open.first_ms // HOUR_MS:
            self._rotate()
        if self._open is None:
            self._files += 1
            name = f"{record.ended_ms}-{os.getpid()}{self._files:06d}"
            self.settings.folder.mkdir(parents=True, exist_ok=True)
            self._open = _OpenFile(self.settings.folder / f"{name}.open", record.ended_ms)
        self._open.append(data)
        self.counts["captured"] += 1

    def _rotate(self) -> None:
        """Close the open file under its final name, and write the counters beside it when they moved."""
        if self._open is not None:
            closing, self._open = self._open, None
            closing.close()
        if self.counts != self._written_counts:
            self.settings.folder.mkdir(parents=True, exist_ok=True)
            path = self.settings.folder / f"{os.getpid()}.counters"
            part = path.with_suffix(".part")
            part.write_text(json.dumps(self.counts))
            part.replace(path)
            self._written_counts = self.counts.copy()


class _OpenFile:
    """A file being written: unbuffered, whole lines only, also after a full disk; a kill leaves at most half a line."""

    def __init__(self, path: Path, first_ms: int) -> None:
        self.first_ms = first_ms
        self.due = time.monotonic() + ROTATE_SECONDS
        self._path = path
        self._file = path.open("xb", buffering=0)
        self._size = 0

    def append(self, data: bytes) -> None:
        try:
            view = memoryview(data)
            while view:
                view = view[self._file.write(view) :]
        except OSError:
            self._file.truncate(self._size)
            self._file.seek(self._size)
            raise
        self._size += len(data)

    def close(self) -> None:
        self._file.close()
        with contextlib.suppress(FileNotFoundError):  # taken by a shipper that thought this process dead
            self._path.rename(self._path.with_suffix(".jsonl"))
