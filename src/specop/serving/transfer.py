"""Large objects onto a disk: in ranges, several at once, resumed where an earlier attempt ended.

One file is written by many threads at fixed places (`pwrite`). A journal beside the folder notes each range that is on
disk; it is bound to the object's etag and size, so that ranges of two versions never meet in one file. What was
downloaded is not yet verified: that is the caller's part.
"""

import errno
import json
import os
import shutil
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from specop.api import reasons
from specop.common.errors import Conflict, UserError
from specop.storage.base import ObjectInfo, Store

RANGE_BYTES = 8 << 20
THREADS = 8
"""Together with RANGE_BYTES this bounds memory: about twice their product."""
SPARE_BYTES = 64 << 20
"""What must stay free on the volume."""


class Transfer:
    """Objects on their way to files; `journals` is a folder on the same volume that the engine does not look into."""

    def __init__(self, store: Store, journals: Path, range_bytes: int = RANGE_BYTES) -> None:
        self._store = store
        self._journals = journals
        self._range_bytes = range_bytes

    def download(self, wanted: Sequence[tuple[ObjectInfo, Path]]) -> None:
        """Bring each object to its file; files appear under their names when complete.

        Raises UserError(DiskFull) before the first byte where they cannot fit, and Conflict where an object was
        replaced meanwhile.
        """
        self._journals.mkdir(parents=True, exist_ok=True)
        files = [_File(info, path, self._journals, self._range_bytes) for info, path in wanted]
        self._check_space(files)
        with ThreadPoolExecutor(THREADS) as pool:
            pieces = [(file, start) for file in files for start in file.missing()]
            list(pool.map(lambda piece: self._fetch(*piece), pieces))
        for file in files:
            if not file.complete and self._store.head(file.info.uri).etag != file.info.etag:
                file.forget()
                raise Conflict(f"{file.info.uri} was replaced while it was downloaded.")
            file.finish()

    def _fetch(self, file: "_File", start: int) -> None:
        length = min(self._range_bytes, file.info.size - start)
        data = self._store.get_range(file.info.uri, start, length)
        if len(data) != length:
            raise Conflict(f"{file.info.uri} was replaced while it was downloaded.")
        file.write(start, data)

    def _check_space(self, files: Sequence["_File"]) -> None:
        needed = sum(file.info.size - file.on_disk for file in files)
        free = shutil.disk_usage(self._journals).free - SPARE_BYTES
        if needed > free:
            raise UserError(
                reasons.DISK_FULL,
                f"The models volume needs {needed / 1e9:.1f} GB more and has {max(free, 0) / 1e9:.1f} GB: "
                "give the nodes more ephemeral storage, or the pods other nodes.",
            )


class _File:
    """One object's file, its unfinished part and its journal."""

    def __init__(self, info: ObjectInfo, path: Path, journals: Path, range_bytes: int) -> None:
        self.info = info
        self._path = path
        self._part = path.with_name(f"{path.name}.part")
        self._journal = journals / f"{path.parent.name}-{path.name}.ranges"
        self._lock = threading.Lock()
        self._range_bytes = range_bytes
        header = json.dumps([info.etag, info.size, range_bytes])
        lines = self._journal.read_text().splitlines() if self._journal.exists() else []
        same = lines[:1] == [header]
        self.complete = same and path.exists() and path.stat().st_size == info.size
        self._starts = {int(line) for line in lines[1:]} if same and self._part.exists() else set()
        if not self.complete and not self._starts:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            self._part.write_bytes(b"")
            self._journal.write_text(f"{header}\n")

    @property
    def on_disk(self) -> int:
        """Bytes that need not be fetched again."""
        if self.complete:
            return self.info.size
        return sum(min(self._range_bytes, self.info.size - start) for start in self._starts)

    def missing(self) -> list[int]:
        """List where the ranges start that are still to be fetched."""
        if self.complete:
            return []
        return [start for start in range(0, self.info.size, self._range_bytes) if start not in self._starts]

    def write(self, start: int, data: bytes) -> None:
        """Put one range on disk, then into the journal."""
        descriptor = os.open(self._part, os.O_WRONLY)
        try:
            written = os.pwrite(descriptor, data, start)
            if written != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._part))
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
        with self._lock, self._journal.open("a") as journal:
            journal.write(f"{start}\n")

    def finish(self) -> None:
        """Give the file its name."""
        if not self.complete:
            self._part.replace(self._path)
            self.complete = True

    def forget(self) -> None:
        """Begin anew next time."""
        self._journal.unlink(missing_ok=True)
