"""Lines of an object, streamed, with their offsets: plain, gzip, zstd or Parquet, told apart by their first bytes.

An own reader, because generic ones stop a whole file at its first bad line and give no positions. It knows nothing of
JSON. Caps: a line may not pass `MAX_LINE` bytes and a compressed object not expand without measure, so that one odd
object cannot take the memory or the time of all others. The etag is pinned: a replaced object is an error,
never a mixture; and so is compressed data that ends before its frame does, never a shorter object.
"""

import io
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pyarrow as pa

from specop.api import reasons
from specop.common.errors import Conflict, Retryable, UserError
from specop.data.columnar import MAGIC, read_rows
from specop.storage.base import CHUNK, NotFound, ObjectInfo, Store

MAX_LINE = 64 << 20
"""Bytes."""
MAX_EXPANSION = 1000
"""Times that compressed data may grow, once it has passed `MAX_LINE`."""
_GZIP, _ZSTD, _BOM = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xef\xbb\xbf"


class Line(NamedTuple):
    """One line without its end."""

    offset: int
    """Of its first byte in the uncompressed object; of Parquet, the number of the row."""
    data: bytes


def read_lines(store: Store, info: ObjectInfo, passed: Callable[[int], None]) -> Iterator[Line]:
    """Yield the lines of one object that are not blank; `passed` is told of stored bytes as they are read.

    Raises UserError: LineTooLong, SourceChangedWhileRead, SourceFormatUnknown (damaged compression). Retryable where
    the object is gone since it was listed, as by a retention rule: another attempt lists what is left.
    """
    raw = _Chunks(store.stream(info.uri, info.etag), passed)
    offset = 0
    try:
        file: io.BufferedReader = io.BufferedReader(raw, CHUNK)
        if file.peek(len(MAGIC)).startswith(MAGIC):
            yield from (Line(number, row) for number, row in read_rows(store, info, passed))
            return
        lines = _uncompressed(file)
        while data := lines.readline(MAX_LINE + 1):
            if len(data) > MAX_LINE:
                raise UserError(
                    reasons.LINE_TOO_LONG,
                    f"{info.uri} has a line of over {MAX_LINE >> 20} MiB at byte {offset}: "
                    "one JSON object belongs there.",
                )
            text = data.removeprefix(_BOM).strip() if offset == 0 else data.strip()
            if text:
                yield Line(offset, text)
            offset += len(data)
            if offset > MAX_LINE and offset > MAX_EXPANSION * raw.passed:
                raise UserError(
                    reasons.SOURCE_FORMAT_UNKNOWN,
                    f"{info.uri} expands to over {MAX_EXPANSION} times its size: it is no log of conversations.",
                )
    except Conflict as error:
        raise UserError(
            reasons.SOURCE_CHANGED,
            f"{info.uri} was replaced while it was read: point the source at files that are complete, and run again.",
        ) from error
    except NotFound as error:
        raise Retryable(f"{info.uri} was deleted since it was listed; another attempt lists anew.") from error
    except OSError as error:
        if error.errno is not None:  # the system's, not the decompressor's
            raise
        raise UserError(
            reasons.SOURCE_FORMAT_UNKNOWN,
            f"{info.uri} is damaged: its compressed data cannot be read after byte {offset}.",
        ) from error


def _uncompressed(file: io.BufferedReader) -> io.BufferedReader:
    start = file.peek(len(_ZSTD))
    kind = "gzip" if start.startswith(_GZIP) else "zstd" if start.startswith(_ZSTD) else None
    if kind is None:
        return file
    return io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(file, mode="r"), kind), CHUNK)


class _Chunks(io.RawIOBase):
    """Chunks of bytes as a file."""

    def __init__(self, chunks: Iterator[bytes], told: Callable[[int], None]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")
        self._told = told
        self.passed = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if not self._rest:
            self._rest = memoryview(next(self._chunks, b""))
            self.passed += len(self._rest)
            self._told(len(self._rest))
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size
