"""Rows of a Parquet object as lines of JSON: read in place by ranges, some rows at a time.

What a column says becomes what a line would have said: an absent field is null in a column, so nulls are left out; a
column that holds JSON as text (requests of a log, kept in a table) is taken as that JSON. A row's offset is its number.

Ranges are not pinned to an etag, as streams are: it is compared again at the end of the object.
"""

import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from specop.api import reasons
from specop.common.errors import Conflict, UserError
from specop.storage.base import CHUNK, ObjectInfo, Store

MAGIC = b"PAR1"
_ROWS_AT_ONCE = 256
_NESTED = frozenset({"messages", "conversations", "request", "response", "tools", "body"})
"""Columns whose text is JSON."""


def read_rows(store: Store, info: ObjectInfo, passed: Callable[[int], None]) -> Iterator[tuple[int, bytes]]:
    """Yield number and JSON of each row; `passed` is told of stored bytes as they are read.

    Raises Conflict where the object was replaced, UserError SourceFormatUnknown where it is damaged.
    """
    number = 0
    try:
        ranges = io.BufferedReader(_Ranges(store, info, passed), CHUNK)
        file = pq.ParquetFile(pa.PythonFile(ranges, mode="r"), pre_buffer=False, buffer_size=CHUNK)
        for batch in file.iter_batches(_ROWS_AT_ONCE):
            for row in batch.to_pylist(maps_as_pydicts="lossy"):
                yield number, json.dumps(_row(row), ensure_ascii=False, default=str).encode("utf-8", "surrogatepass")
                number += 1
    except pa.ArrowException as error:
        raise UserError(
            reasons.SOURCE_FORMAT_UNKNOWN, f"{info.uri} is damaged: its Parquet data cannot be read after row {number}."
        ) from error
    if store.head(info.uri).etag != info.etag:
        raise Conflict(info.uri)


def _row(columns: dict[str, Any]) -> Any:
    parsed = {name: _parsed(value) if name in _NESTED else value for name, value in columns.items()}
    return _without_nulls(parsed)


def _parsed(value: Any) -> Any:
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(item) for name, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


class _Ranges(io.RawIOBase):
    """An object as a file that can be searched."""

    def __init__(self, store: Store, info: ObjectInfo, told: Callable[[int], None]) -> None:
        self._store = store
        self._info = info
        self._told = told
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._info.size}[whence]
        self._place = start + offset
        return self._place

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        size = min(len(buffer), max(0, self._info.size - self._place))
        data = self._store.get_range(self._info.uri, self._place, size) if size else b""
        buffer[: len(data)] = data
        self._place += len(data)
        self._told(len(data))
        return len(data)
