"""Rows of tokens as Parquet shards, requests as JSON lines: what a dataset consists of.

One ordered writer whose row groups follow from the rows, so that a shard's bytes do, too; a dataset's digest does not
rest on them (`specop.storage.blobs.dataset_digest`). What waits for its group is bounded in rows and in tokens.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Self, TypedDict

import pyarrow as pa
import pyarrow.parquet as pq

ROWS = pa.schema(
    [
        ("key", pa.string()),  # hex; a conversation's rows share its first 64 digits
        ("source", pa.string()),
        ("time", pa.string()),  # RFC 3339, or empty
        ("input_ids", pa.list_(pa.int32())),
        ("spans", pa.list_(pa.struct([("start", pa.int32()), ("end", pa.int32())]))),  # generated tokens, half-open
        ("constrained", pa.bool_()),  # a grammar was in force: response_format, or a tool that had to be called
        ("grammar", pa.string()),  # which one, as JSON: {"jsonSchema": …} or {"jsonObject": true}; else null
        ("temperature", pa.float32()),
    ]
)
GROUP_ROWS = 1024
GROUP_TOKENS = 1 << 20
"""A row group ends with the row that reaches one of the two."""
SHARD_ROWS = 64 * GROUP_ROWS


class Row(TypedDict):
    """One row of `ROWS`."""

    key: str
    source: str
    time: str
    input_ids: Sequence[int]
    spans: list[dict[str, int]]
    constrained: bool
    grammar: str | None
    temperature: float


class Shards:
    """Parquet files `<split>-00000.parquet`, … in a folder. Use with `with`; complete only when it has ended."""

    def __init__(self, folder: Path, split: str) -> None:
        self._folder = folder
        self._split = split
        self._waiting: list[Row] = []
        self._waiting_tokens = 0
        self._writer: pq.ParquetWriter | None = None
        self._in_shard = 0
        self.paths: list[Path] = []
        self.rows = 0
        self.tokens = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        self._close()

    def write(self, row: Row) -> None:
        """Append one row."""
        self._waiting.append(row)
        self.rows += 1
        self.tokens += len(row["input_ids"])
        self._waiting_tokens += len(row["input_ids"])
        if len(self._waiting) == GROUP_ROWS or self._waiting_tokens >= GROUP_TOKENS:
            self._flush()

    def _flush(self) -> None:
        if not self._waiting:
            return
        if self._writer is None:
            path = self._folder / f"{self._split}-{len(self.paths):05d}.parquet"
            self._writer = pq.ParquetWriter(path, ROWS, compression="zstd")
            self.paths.append(path)
        self._writer.write_table(pa.Table.from_pylist(self._waiting, ROWS), row_group_size=GROUP_ROWS)
        self._in_shard += len(self._waiting)
        self._waiting, self._waiting_tokens = [], 0
        if self._in_shard >= SHARD_ROWS:
            self._close()

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
            self._in_shard = 0


class Requests:
    """`holdout-requests.jsonl`: the requests of the holdout as they were sent, for replays."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "holdout-requests.jsonl"
        self._file = self.path.open("w", encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, key: str, source: str, request: str) -> None:
        """Append one request, which is JSON already."""
        head = json.dumps({"key": key, "source": source})
        self._file.write(f'{head[:-1]}, "request": {request}}}\n')
