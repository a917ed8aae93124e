"""The contract of an object store: whole objects by URI, atomic writes, one conditional write.

It is the least that S3 and a plain directory can both promise, so that a process on one machine behaves as it does on a
cluster. It is not a file system: there is no rename, no append, no lock. The one primitive for races is
`put_if_absent`: of any number of writers exactly one is told that it won.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from specop.api import reasons
from specop.common.errors import Unreachable, UserError

CHUNK = 1 << 20
"""Bytes held at once when an object is streamed."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object as a listing shows it."""

    uri: str
    size: int
    etag: str
    """Changes when the bytes change; opaque."""


class NotFound(UserError):
    """There is no such object (its bucket exists)."""

    def __init__(self, uri: str) -> None:
        super().__init__(reasons.OBJECT_NOT_FOUND, f"There is no object {uri}. Check the URI in the spec.")


class StorageUnreachable(Unreachable):
    """The store did not answer, or only with errors of its own, over all retries of one call."""

    reason = reasons.STORAGE_UNREACHABLE


class Store(Protocol):
    """One object store. Every method takes URIs of its scheme.

    All raise `NotFound` where an object that is needed is missing, `UserError` (StorageAccessDenied, BucketNotFound)
    for what a user must mend, `StorageUnreachable` when the store does not answer. Safe from several threads.
    """

    def head(self, uri: str) -> ObjectInfo:
        """Size and etag of one object."""
        ...

    def get(self, uri: str) -> bytes:
        """All of one object."""
        ...

    def get_range(self, uri: str, start: int, length: int) -> bytes:
        """At most `length` bytes from `start`; fewer where the object ends."""
        ...

    def stream(self, uri: str, etag: str | None = None) -> Iterator[bytes]:
        """All bytes in order, in pieces of at most `CHUNK`, resumed where a connection breaks.

        Raises `Conflict` when the object is not, or no longer, the one with this etag.
        """
        ...

    def put(self, uri: str, data: bytes) -> None:
        """Write or replace one object; readers see the old bytes or the new ones."""
        ...

    def put_if_absent(self, uri: str, data: bytes) -> bool:
        """Write unless something is there. True for the one writer that did."""
        ...

    def list(self, prefix: str, after: str | None = None) -> Iterator[ObjectInfo]:
        """All objects whose URI begins with `prefix`, in order of their keys, page by page. None is no error.

        With `after`, only those whose URI comes after it: what comes before is not paged through.
        """
        ...

    def delete(self, uri: str) -> None:
        """Remove one object; a missing one is no error."""
        ...

    def upload(self, path: Path, uri: str) -> None:
        """Write or replace one object from a file, without holding it in memory."""
        ...


def download(store: Store, uri: str, path: Path, etag: str | None = None) -> str:
    """Stream one object to a file and return the sha256 of its bytes, in hex.

    The file appears under its name only when it is complete.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    hasher = hashlib.sha256()
    with part.open("wb") as file:
        for chunk in store.stream(uri, etag):
            hasher.update(chunk)
            file.write(chunk)
    part.replace(path)
    return hasher.hexdigest()
