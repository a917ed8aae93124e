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
            for row in _rows(batch):
                yield number, json.dumps(row, ensure_ascii=False, default=str).encode("utf-8", "surrogatepass")
                number += 1
    except pa.ArrowException as error:
        raise UserError(
            reasons.SOURCE_FORMAT_UNKNOWN, f"{info.uri} is damaged: its Parquet data cannot be read after row {number}."
        ) from error
    if store.head(info.uri).etag != info.etag:
        raise Conflict(info.uri)


def column_names(store: Store, info: ObjectInfo) -> list[str]:
    """Return the names of an object's columns."""
    with io.BufferedReader(_Ranges(store, info, lambda _: None), CHUNK) as ranges:
        names: list[str] = pq.read_schema(pa.PythonFile(ranges, mode="r")).names
    return names


def _rows(batch: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    """Yield rows without their nulls."""
    columns = [_values(name, column) for name, column in zip(batch.schema.names, batch.columns, strict=True)]
    for values in zip(*columns, strict=True):
        pairs = zip(batch.schema.names, values, strict=True)
        yield {name: value for name, value in pairs if value is not None}


def _values(name: str, column: pa.Array) -> list[Any]:
    if pa.types.is_list(column.type) and pa.types.is_integer(column.type.value_type) and not column.values.null_count:
        return _numbers(column)
    values = column.to_pylist(maps_as_pydicts="lossy")
    return [_without_nulls(_parsed(value) if name in _NESTED else value) for value in values]


def _numbers(column: pa.ListArray) -> list[Any]:
    """Return lists of whole numbers, which rows of tokens are, at a tenth of what `to_pylist` takes."""
    values, ends = column.values.to_numpy(), column.offsets.to_numpy().tolist()
    valid = column.is_valid().to_pylist()
    return [values[ends[index] : ends[index + 1]].tolist() if there else None for index, there in enumerate(valid)]


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
