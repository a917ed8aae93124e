"""A dataset's shards as Parquet files: which columns they have, and what these must hold to be read as rows.

A shard is checked once, by its schema, before any row is made of it: ids that are text or decimals, or a column that is
missing, would otherwise be found in the middle of a run, or not at all. Not here: what a row may say (`batches.py`).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import types

from specop.api import reasons
from specop.common.errors import UserError

Holds = Callable[[pa.DataType], bool]


def _text(kind: pa.DataType) -> bool:
    return bool(types.is_string(kind) or types.is_large_string(kind))


def _ids(kind: pa.DataType) -> bool:
    return _list(kind) and bool(types.is_integer(kind.value_type))


def _spans(kind: pa.DataType) -> bool:
    if not _list(kind) or not types.is_struct(kind.value_type):
        return False
    found = {field.name: field.type for field in kind.value_type}
    return all(name in found and types.is_integer(found[name]) for name in ("start", "end"))


def _list(kind: pa.DataType) -> bool:
    return bool(types.is_list(kind) or types.is_large_list(kind))


REQUIRED: dict[str, tuple[Holds, str]] = {
    "key": (_text, "text"),
    "source": (_text, "text"),
    "input_ids": (_ids, "lists of integers"),
    "spans": (_spans, "lists of integers start and end"),
    "constrained": (types.is_boolean, "true or false"),
    "temperature": (types.is_floating, "decimals"),
}
"""Columns that every shard has, and what they hold."""
OPTIONAL: dict[str, tuple[Holds, str]] = {
    "grammar": (_text, "text"),
    "altered": (types.is_boolean, "true or false"),
    "novel": (types.is_boolean, "true or false"),
}
"""Columns that shards of older datasets lack."""


def read_records(file: Path) -> list[dict[str, Any]]:
    """Read one shard; raises UserError DatasetCorrupt where it is damaged or its columns are not a dataset's."""
    try:
        table = pq.ParquetFile(file)
        columns = _columns(file.name, table.schema_arrow)
        records: list[dict[str, Any]] = table.read(columns).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise corrupt(f"{file.name} is not a readable Parquet file") from error
    return records


def corrupt(what: str) -> UserError:
    """Return the error of a dataset that breaks its contract."""
    return UserError(reasons.DATASET_CORRUPT, f"{what}: build the dataset again.")


def _columns(file: str, schema: pa.Schema) -> list[str]:
    """Return the columns to read, after a look at what they hold."""
    wanted = REQUIRED | {name: column for name, column in OPTIONAL.items() if name in schema.names}
    for name, (holds, what) in wanted.items():
        if name not in schema.names:
            raise corrupt(f"{file} has no column {name}")
        kind = schema.field(name).type
        if not holds(kind):
            raise corrupt(f"{file}: column {name} is {kind}, but holds {what} in a dataset")
    return list(wanted)
