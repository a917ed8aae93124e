"""The first pass: what becomes of each line, decided in DuckDB over keys, hashes and times alone.

    read ─► set aside, failed, …  ─► exact duplicates out ─► share of each source ─► newest conversations held out
    (normalise)                      (oldest row stays)      (smallest keys)         (whole)

All decisions depend only on values of rows, never on the order of reading or on chance, so that the same input gives
the same dataset. DuckDB works on disk under a memory limit; what leaves it is one byte a row.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Self

import duckdb
import numpy as np
import pyarrow as pa

from specop.api.dataset import Holdout
from specop.data.formats import Fate

_INSERT_ROWS = 16_384

_DUPLICATES = f"""
update rows set fate = {Fate.DUPLICATE:d} from (
    select ordinal from rows where fate = {Fate.TRAIN:d}
    qualify row_number() over (partition by content order by time nulls last, key, ordinal) > 1
) as later where rows.ordinal = later.ordinal
"""  # noqa: S608 - built from constants
_OUTWEIGHED = f"""
update rows set fate = {Fate.OUTWEIGHED:d} from (
    select source, conversation from (
        select source, conversation, min(key) as smallest from rows where fate = {Fate.TRAIN:d} group by all
    ) where source = $source qualify row_number() over (order by smallest) > $kept
) as beyond where rows.source = beyond.source and rows.conversation = beyond.conversation and fate = {Fate.TRAIN:d}
"""  # noqa: S608 - built from constants
_HELD_OUT = f"""
update rows set fate = {Fate.HOLDOUT:d} from (
    select conversation from rows where fate = {Fate.TRAIN:d} group by conversation
    order by max(time) desc nulls last, min(key) limit $count
) as newest where rows.conversation = newest.conversation and fate = {Fate.TRAIN:d}
"""  # noqa: S608 - built from constants


class Survey:
    """A table of all lines, on disk; close it with `with`."""

    def __init__(self, folder: Path, memory: int = 512 << 20) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "survey.duckdb"
        path.unlink(missing_ok=True)  # what a killed container left
        self._path = path
        self._db = duckdb.connect(
            str(path),
            config={
                "memory_limit": f"{memory >> 20}MiB",
                "threads": 2,
                "preserve_insertion_order": "false",
                "temp_directory": str(folder / "spill"),
            },
        )
        self._db.execute(
            "create table rows (ordinal bigint, source usmallint, key blob, time bigint,"
            " conversation blob, content blob, bytes uinteger, fate utinyint)"
        )
        self._db.execute("create table written (key varchar, hash blob)")
        self._rows, self._written = _Inserts(self._db, "rows"), _Inserts(self._db, "written")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()
        self._path.unlink(missing_ok=True)

    def add(self, rows: pa.RecordBatch) -> None:
        """Take in lines: rows of `SURVEYED`."""
        self._rows.add(rows)

    def decide(self, weights: list[int], holdout: Holdout) -> None:
        """Remove duplicates, keep each source to its share, hold the newest conversations out."""
        self._rows.flush()
        self._db.execute(_DUPLICATES)
        available = dict(self._pairs("select source, count(distinct conversation) from rows where fate = 0 group by 1"))
        for source, kept in shares(available, weights).items():
            if kept < available[source]:
                self._db.execute(_OUTWEIGHED, {"source": source, "kept": kept})
        conversations = self._number("select count(distinct conversation) from rows where fate = 0")
        self._db.execute(_HELD_OUT, {"count": held_out(conversations, holdout)})

    def fates(self) -> bytes:
        """Return what becomes of each line, by ordinal: one `Fate` a byte."""
        lines = self._number("select max(ordinal) + 1 from rows")
        out = np.full(lines, Fate.OUTSIDE, np.uint8)
        for batch in self._db.sql("select ordinal, fate from rows").to_arrow_reader(1 << 16):
            out[batch.column(0).to_numpy()] = batch.column(1).to_numpy()
        return out.tobytes()

    def counts(self) -> dict[tuple[int, Fate], int]:
        """Lines by source and fate."""
        self._rows.flush()
        found = self._db.execute("select source, fate, count(*) from rows group by all").fetchall()
        return {(source, Fate(fate)): count for source, fate, count in found}

    def note_written(self, rows: pa.RecordBatch) -> None:
        """Remember rows that the second pass wrote: `key` and `hash`."""
        self._written.add(rows)

    def hashes(self) -> Iterable[bytes]:
        """Content hashes of all rows that were written, in order of their keys."""
        self._written.flush()
        for batch in self._db.sql("select hash from written order by key").to_arrow_reader(1 << 16):
            yield from batch.column(0).to_pylist()

    def _pairs(self, query: str) -> list[tuple[int, int]]:
        return [(int(first), int(second)) for first, second in self._db.execute(query).fetchall()]

    def _number(self, query: str) -> int:
        ((found,),) = self._db.execute(query).fetchall()  # all: a result that is not read to its end bars the next
        return int(found or 0)


class _Inserts:
    """Rows on their way into a table, many at a time: an insertion has a price of its own."""

    def __init__(self, db: duckdb.DuckDBPyConnection, table: str) -> None:
        self._db = db
        self._table = table
        self._waiting: list[pa.RecordBatch] = []
        self._rows = 0

    def add(self, rows: pa.RecordBatch) -> None:
        self._waiting.append(rows)
        self._rows += len(rows)
        if self._rows >= _INSERT_ROWS:
            self.flush()

    def flush(self) -> None:
        if self._rows:
            self._db.register("incoming", pa.Table.from_batches(self._waiting))
            self._db.execute(f"insert into {self._table} select * from incoming")  # noqa: S608 - a name of ours
            self._db.unregister("incoming")
            self._waiting, self._rows = [], 0


def shares(available: dict[int, int], weights: list[int]) -> dict[int, int]:
    """How many conversations each source gives: in proportion to the weights, as many as the scarcest allows.

    Sources without conversations do not count; nothing is repeated; every other source gives at least one.
    """
    present = {source: count for source, count in available.items() if count}
    if not present:
        return {}
    scarcest = min(present, key=lambda source: present[source] / weights[source])
    return {
        source: max(1, min(count, present[scarcest] * weights[source] // weights[scarcest]))
        for source, count in present.items()
    }


def held_out(conversations: int, holdout: Holdout) -> int:
    """How many conversations are held out: the percentage rounded, at least one, and never all of them."""
    wanted = max(1, (conversations * holdout.percent + 50) // 100)
    return max(0, min(wanted, holdout.max_conversations, conversations - 1))
