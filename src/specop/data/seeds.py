"""Sets of prompts that come with specop: questions without answers, which the target completes.

`demo/seeds.py` writes them from their sources; `sets/LICENCES.md` says whose they are.
"""

import hashlib
from collections.abc import Iterator
from importlib.resources import as_file, files

from specop.storage.base import ObjectInfo
from specop.storage.local import LocalStore

_SCHEME = "specop:seeds/"


class _Shipped(LocalStore):
    """Sets by a name that is the same on every machine."""

    def stream(self, uri: str, etag: str | None = None) -> Iterator[bytes]:  # noqa: ARG002 - it does not change
        """See Store."""
        with as_file(files("specop.data") / "sets" / f"{uri.removeprefix(_SCHEME)}.jsonl.gz") as path:
            yield from super().stream(f"file://{path}")


def open_set(name: str) -> tuple[LocalStore, ObjectInfo]:
    """Return a set as an object, and the store that holds it."""
    store, uri = _Shipped(), f"{_SCHEME}{name}"
    data = b"".join(store.stream(uri))
    return store, ObjectInfo(uri, len(data), hashlib.sha256(data).hexdigest())
