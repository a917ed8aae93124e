"""A directory as an object store: `file:///path`, for one machine and for tests.

Races: a write goes to a hidden file beside its goal and is renamed (`put`) or hard-linked (`put_if_absent`) there, so
a reader never sees half an object, also not after a crash, and the file system decides who was first.
"""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import copyfile

from specop.api import reasons
from specop.common.errors import Conflict, UserError
from specop.storage.base import CHUNK, NotFound, ObjectInfo
from specop.storage.uri import parse

_HIDDEN = ".specop-unfinished-"


class LocalStore:
    """`Store` over absolute paths."""

    def head(self, uri: str) -> ObjectInfo:
        """See Store."""
        with _translated(uri):
            path = _path(uri)
            if path.is_dir():
                raise NotFound(uri)
            return _info(uri, path.stat())

    def get(self, uri: str) -> bytes:
        """See Store."""
        with _translated(uri):
            return _path(uri).read_bytes()

    def get_range(self, uri: str, start: int, length: int) -> bytes:
        """See Store."""
        with _translated(uri), _path(uri).open("rb") as file:
            file.seek(start)
            return file.read(length)

    def stream(self, uri: str, etag: str | None = None) -> Iterator[bytes]:
        """See Store."""
        with _translated(uri), _path(uri).open("rb") as file:
            begun = _info(uri, os.fstat(file.fileno())).etag
            if etag not in (None, begun):
                raise Conflict(f"{uri} was replaced.")
            while chunk := file.read(CHUNK):
                yield chunk
            if _info(uri, os.fstat(file.fileno())).etag != begun:
                raise Conflict(f"{uri} was written while it was read.")

    def put(self, uri: str, data: bytes) -> None:
        """See Store."""
        with _translated(uri), _unfinished(_path(uri)) as part:
            part.write_bytes(data)
            part.replace(_path(uri))

    def put_if_absent(self, uri: str, data: bytes) -> bool:
        """See Store."""
        with _translated(uri), _unfinished(_path(uri)) as part:
            part.write_bytes(data)
            try:
                _path(uri).hardlink_to(part)
            except FileExistsError:
                return False
            return True

    def list(self, prefix: str, after: str | None = None) -> Iterator[ObjectInfo]:
        """See Store."""
        with _translated(prefix):
            key, start = parse(prefix).key, parse(after).key if after else ""
            folder = key[: key.rindex("/") + 1]
            for path in _walk(folder):
                if not path.startswith(key) or os.fsencode(path) <= os.fsencode(start):
                    continue
                try:
                    info = _info(f"file://{path}", Path(path).stat())
                except FileNotFoundError:  # deleted since its folder was read
                    continue
                yield info

    def delete(self, uri: str) -> None:
        """See Store."""
        with _translated(uri):
            _path(uri).unlink(missing_ok=True)

    def upload(self, path: Path, uri: str) -> None:
        """See Store."""
        with _translated(uri), _unfinished(_path(uri)) as part:
            copyfile(path, part)
            part.replace(_path(uri))


def _path(uri: str) -> Path:
    return Path(parse(uri).key)


def _info(uri: str, stat: os.stat_result) -> ObjectInfo:
    return ObjectInfo(uri, stat.st_size, f'"{stat.st_ino:x}-{stat.st_mtime_ns:x}-{stat.st_size:x}"')


def _walk(folder: str) -> Iterator[str]:
    """Paths of all files below a folder, in the order of their bytes, as S3 lists keys."""
    if not Path(folder).is_dir():
        return
    with os.scandir(folder) as entries:
        names = [entry.name + "/" * entry.is_dir() for entry in entries if not entry.name.startswith(_HIDDEN)]
    for name in sorted(names, key=os.fsencode):
        if name.endswith("/"):
            yield from _walk(folder + name)
        else:
            yield folder + name


@contextmanager
def _unfinished(goal: Path) -> Iterator[Path]:
    goal.parent.mkdir(parents=True, exist_ok=True)
    part = goal.with_name(f"{_HIDDEN}{uuid.uuid4().hex}")
    try:
        yield part
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _translated(uri: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise NotFound(uri) from error
    except PermissionError as error:
        raise UserError(
            reasons.STORAGE_ACCESS_DENIED, f"The process may not access {uri}: check the owner and mode of the folder."
        ) from error
