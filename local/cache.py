"""The cache folder: everything that is downloaded or built, under the hash of what it was made from.

It is: one folder (`SPECOP_CACHE`), world-readable so that pods' users can read what is mounted from it.
It is not: a place for state. Deleting it costs time and nothing else.
Races: two processes that want the same entry build it once (a file lock); an entry appears by one rename, so what is
seen is whole, and what a killed build left is removed by the next one.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent


def root() -> Path:
    """Return the cache folder, made if it is missing."""
    configured = os.environ.get("SPECOP_CACHE")
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = Path(configured).resolve() if configured else home / "specop"
    path.mkdir(parents=True, exist_ok=True)
    return path


def folder(name: str) -> Path:
    """Return a shared subfolder whose tool keeps it in order by itself (`go/mod`, `uv`, `pip`, …)."""
    path = root() / name
    path.mkdir(parents=True, exist_ok=True)
    return path


def key(*inputs: str | Path) -> str:
    """Return the short hash of strings and of files' names and bytes; a folder counts with all that it holds."""
    total = hashlib.sha256()
    for item in inputs:
        for name, content in _contents(item):
            for part in (name, content):
                total.update(len(part).to_bytes(8, "big"))
                total.update(part)
    return total.hexdigest()[:16]


def _contents(item: str | Path) -> Iterator[tuple[bytes, bytes]]:
    if isinstance(item, str):
        yield b"", item.encode()
    elif item.is_dir():
        for path in sorted(item.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield str(path.relative_to(item)).encode(), path.read_bytes()
    else:
        yield item.name.encode(), item.read_bytes()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock, which the kernel gives back when its holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def entry(kind: str, name: str, build: Callable[[Path], None]) -> Path:
    """Return `<cache>/<kind>/<name>`; if it is missing, `build` fills a folder beside it, which then takes the name."""
    path = folder(kind) / name
    if path.exists():
        return path
    with locked(path.with_name(f".{name}.lock")):
        if not path.exists():
            unfinished = path.with_name(f".{name}.unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            unfinished.chmod(0o755)
            build(unfinished)
            unfinished.rename(path)
    return path
