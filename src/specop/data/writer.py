"""Rows of tokens as Parquet shards, requests as JSON lines: what a dataset consists of.

One ordered writer whose row groups follow from the rows, never from the batches that they come in, so that a
shard's bytes do, too; a dataset's digest does not rest on them (`specop.storage.blobs.dataset_digest`). What waits for
its group is bounded in rows and in tokens.
"""

import json
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
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
        ("altered", pa.bool_()),  # privacy changed its text: good to learn from, never an on-policy sample
        ("novel", pa.bool_()),  # held out, and like nothing to train on
        # What a dataset that is made of this one decides by, as if it had the exchange itself:
        ("conversation", pa.string()),  # hex; hash of everything up to the first user turn
        ("content", pa.string()),  # hex; hash of prompt and answer, and of which of the exchange's rows this is
        ("likeness", pa.list_(pa.int64())),  # `specop.data.alike`
    ]
)
LINEAGE = pa.schema(
    [
        ("key", pa.string()),  # of an exchange: the first 64 digits of its rows' keys
        ("source", pa.string()),
        ("object", pa.string()),
        ("etag", pa.string()),
        ("offset", pa.int64()),  # of its line's first byte in the uncompressed object
        ("time", pa.string()),
        ("tenant", pa.string()),  # of `common.names.tenant_hash`, or empty: whose request, without the name
        ("split", pa.string()),  # train or holdout
    ]
)
GROUP_ROWS = 1024
GROUP_TOKENS = 1 << 20
"""A row group ends with the row that reaches one of the two."""
SHARD_ROWS = 64 * GROUP_ROWS
_FEW_VALUES = ["source", "time", "grammar", "temperature"]
"""Columns that a dictionary makes smaller; of token ids it makes a shard a third larger."""


class Shards:
    """Parquet files `<split>-00000.parquet`, … in a folder. Use with `with`; complete only when it has ended."""

    def __init__(self, folder: Path, split: str) -> None:
        self._folder = folder
        self._split = split
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_rows = self._waiting_tokens = 0
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

    def write(self, rows: pa.RecordBatch) -> None:
        """Append rows of `ROWS`."""
        ends = np.cumsum(pc.list_value_length(rows["input_ids"]).to_numpy(), dtype=np.int64)
        self.rows += len(rows)
        self.tokens += int(ends[-1]) if len(rows) else 0
        start = before = 0
        while start < len(rows):
            reached = int(np.searchsorted(ends, before + GROUP_TOKENS - self._waiting_tokens)) + 1
            stop = min(reached, start + GROUP_ROWS - self._waiting_rows, len(rows))
            tokens = int(ends[stop - 1]) - before
            self._waiting.append(rows.slice(start, stop - start))
            self._waiting_rows += stop - start
            self._waiting_tokens += tokens
            if self._waiting_rows == GROUP_ROWS or self._waiting_tokens >= GROUP_TOKENS:
                self._flush()
            start, before = stop, before + tokens

    def _flush(self) -> None:
        if not self._waiting:
            return
        if self._writer is None:
            path = self._folder / f"{self._split}-{len(self.paths):05d}.parquet"
            self._writer = pq.ParquetWriter(path, ROWS, compression="zstd", use_dictionary=_FEW_VALUES)
            self.paths.append(path)
        group = pa.Table.from_batches(self._waiting, ROWS).combine_chunks()
        self._writer.write_table(group, row_group_size=GROUP_ROWS)
        self._in_shard += len(group)
        self._waiting, self._waiting_rows, self._waiting_tokens = [], 0, 0
        if self._in_shard >= SHARD_ROWS:
            self._close()

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
            self._in_shard = 0


class Requests:
    """`holdout-requests.jsonl`: the requests of the holdout, for replays."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "holdout-requests.jsonl"
        self._file = self.path.open("w", encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, key: str, source: str, request: str, *, altered: bool) -> None:
        """Append one request, which is JSON already; `altered`: it is not what was sent."""
        head = json.dumps({"key": key, "source": source, "altered": altered})
        self._file.write(f'{head[:-1]}, "request": {request}}}\n')


class Lineage:
    """`lineage.parquet`: where each exchange of the dataset was found."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "lineage.parquet"
        self._writer = pq.ParquetWriter(self.path, LINEAGE, compression="zstd")
        self._waiting: list[pa.RecordBatch] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush(0)
        self._writer.close()

    def write(self, rows: pa.RecordBatch) -> None:
        """Append rows of `LINEAGE`."""
        self._waiting.append(rows)
        self._flush(SHARD_ROWS)

    def _flush(self, least: int) -> None:
        if sum(map(len, self._waiting)) > least:
            self._writer.write_table(pa.Table.from_batches(self._waiting, LINEAGE))
            self._waiting = []
