"""The first pass: what becomes of each line, decided in DuckDB over keys, hashes and times alone.

    read ─► set aside, failed, …  ─► duplicates out     ─► share of each source ─► newest conversations held out
    (intake)                         (oldest row stays)    (smallest keys)         (whole; those like a row to train
                                                                                    on are marked)

All decisions depend only on values of rows, never on the order of reading or on chance, so that the same input gives
the same dataset. DuckDB works on disk under a memory limit; what leaves it is one byte a row.
"""

from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple, Self

import duckdb
import numpy as np
import pyarrow as pa

from specop.api.dataset import Holdout
from specop.api.quality import NearDuplicates
from specop.common.clock import format_time
from specop.data import alike
from specop.data.chunks import Known
from specop.data.formats import Fate, from_microseconds

_INSERT_ROWS = 16_384

_SLICE = 1 << 19
"""Rows that are changed at once: an update holds what it changes in memory until it is on disk."""

# What changes a column of `rows`: queries of `ordinal` and `value`.
_DUPLICATES = f"""
select ordinal, {Fate.DUPLICATE:d} as value from rows where fate = {Fate.TRAIN:d}
qualify row_number() over (partition by content order by time nulls last, key, ordinal) > 1
"""  # noqa: S608 - built from constants
_OUTWEIGHED = f"""
select ordinal, {Fate.OUTWEIGHED:d} as value from rows join (
    select source, conversation from (
        select source, conversation, min(key) as smallest from rows where fate = {Fate.TRAIN:d} group by all
    ) where source = $source qualify row_number() over (order by smallest) > $kept
) using (source, conversation) where fate = {Fate.TRAIN:d}
"""  # noqa: S608 - built from constants
_HELD_OUT = f"""
select ordinal, {Fate.HOLDOUT:d} as value from rows join (
    select conversation from rows where fate = {Fate.TRAIN:d} group by conversation
    order by max(time) desc nulls last, min(key) limit $count
) using (conversation) where fate = {Fate.TRAIN:d}
"""  # noqa: S608 - built from constants
_REPEATED = f"""
select ordinal, ranked.copies as value from rows join (
    select source, conversation, $base + (row_number() over (order by smallest) <= $extra)::utinyint as copies from (
        select source, conversation, min(key) as smallest from rows where fate = {Fate.TRAIN:d} group by all
    ) where source = $source
) as ranked using (source, conversation) where fate = {Fate.TRAIN:d}
"""  # noqa: S608 - built from constants


class Share(NamedTuple):
    """What a source may give."""

    weight: int = 1
    most: int | None = None
    """Conversations."""
    repeat: int = 1
    """How many times each conversation may be written."""


class Mix(NamedTuple):
    """What a source gives."""

    conversations: int = 0
    repeated: int = 0
    """Exchanges whose rows are written more than once."""
    oldest: str | None = None
    newest: str | None = None


class Decisions(NamedTuple):
    """What becomes of each line, by ordinal: one byte each."""

    fates: bytes
    copies: bytes
    """How many times the rows of a line are written; empty: once."""
    seen: bytes
    """1 where a line is held out and like one to train on."""
    clean: bytes
    """1 where privacy found nothing."""
    anew: bytes
    """1 where the target is to be asked; empty: nowhere."""


class Likeness(NamedTuple):
    """How often rows are like others (`specop.data.alike`)."""

    near_duplicates: int = 0
    """Like an older one."""
    seen: int = 0
    """Held out, and like one to train on."""


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
            " conversation blob, content blob, bytes uinteger, fate utinyint, clean boolean, anew boolean,"
            f" {', '.join(f'{name} uinteger' for name in alike.BANDS)}, sketch0 bigint, sketch1 bigint,"
            " copies utinyint default 1, seen boolean default false)"
        )
        self._db.execute("create table written (key varchar, hash blob)")
        self._repeated = False
        self._near_duplicates = 0
        self._rows, self._written = _Inserts(self._db, "rows"), _Inserts(self._db, "written")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()
        self._path.unlink(missing_ok=True)

    def add(self, rows: pa.RecordBatch) -> None:
        """Take in lines: rows of `SURVEYED`."""
        self._rows.add(rows)

    def decide(self, sources: list[Share], holdout: Holdout, near: NearDuplicates | None = None) -> None:
        """Remove duplicates, keep each source to its share, hold the newest conversations out."""
        self._rows.flush()
        self._change("fate", _DUPLICATES)
        self._thin_out(near or NearDuplicates())
        available = dict(self._pairs("select source, count(distinct conversation) from rows where fate = 0 group by 1"))
        for source, count in available.items():
            most = sources[source].most or count
            if most < count:
                self._keep(source, most)
                available[source] = most
        for source, wanted in shares(available, sources).items():
            count = available[source]
            if wanted < count:
                self._keep(source, wanted)
            elif wanted > count:
                base, extra = divmod(wanted, count)
                self._change("copies", _REPEATED, {"source": source, "base": base, "extra": extra})
                self._repeated = True
        conversations = self._number("select count(distinct conversation) from rows where fate = 0")
        self._change("fate", _HELD_OUT, {"count": held_out(conversations, holdout)})
        self._db.execute(alike.aged(f"{Fate.TRAIN:d}, {Fate.HOLDOUT:d}"))
        self._all(alike.like_held(Fate.TRAIN, Fate.HOLDOUT))
        self._change("seen", alike.SEEN)
        self._all(["drop table shaped", "drop table aged"])

    def _thin_out(self, near: NearDuplicates) -> None:
        """Count rows that are like older ones, and leave them out if that is wanted."""
        self._db.execute(alike.aged(f"{Fate.TRAIN:d}"))
        self._all(alike.SHAPED)
        self._db.execute(alike.LEADERS)
        while self._number("select count(*) from leaders"):
            self._all([*alike.FOLLOW, alike.LEADERS])
        self._near_duplicates = self._number("select count(*) from shaped")
        most = near.max_per_shape or (1 if near.action == "Drop" else None)
        if most is not None:
            self._change("fate", alike.beyond(Fate.NEAR_DUPLICATE), {"most": most})
        self._all(["drop table shaped", "drop table leaders", "drop table aged"])

    def likeness(self) -> Likeness:
        """Return how often rows are like others."""
        return Likeness(self._near_duplicates, self._number("select count(*) from rows where seen"))

    def decisions(self) -> Decisions:
        """Return what becomes of each line."""
        copies = self._by_ordinal("copies", 1) if self._repeated else b""
        anew = self._by_ordinal("anew::utinyint", 0) if self._number("select count(*) from rows where anew") else b""
        seen, clean = (self._by_ordinal(f"{name}::utinyint", 0) for name in ("seen", "clean"))
        return Decisions(self._by_ordinal("fate", Fate.OUTSIDE), copies, seen, clean, anew)

    def known(self, first: int, count: int) -> dict[int, Known]:
        """Return what was found out of lines that are kept, by ordinal, from the first on."""
        columns = ", ".join(["ordinal, conversation, content", *(name for name, _ in alike.COLUMNS)])
        query = f"""
            select {columns} from rows
            where ordinal >= $first and ordinal < $first + $count and fate in ({Fate.TRAIN:d}, {Fate.HOLDOUT:d})
        """  # noqa: S608 - built from constants
        found = self._db.execute(query, {"first": first, "count": count}).fetchall()
        return {ordinal: Known(opening, content, tuple(likeness)) for ordinal, opening, content, *likeness in found}

    def counts(self) -> dict[tuple[int, Fate], int]:
        """Lines by source and fate."""
        self._rows.flush()
        found = self._db.execute("select source, fate, count(*) from rows group by all").fetchall()
        return {(source, Fate(fate)): count for source, fate, count in found}

    def mix(self) -> dict[int, Mix]:
        """Return what each source gives, held out or not."""
        query = f"""
            select source, count(distinct conversation), count(*) filter (copies > 1), min(time), max(time)
            from rows where fate in ({Fate.TRAIN:d}, {Fate.HOLDOUT:d}) group by source
        """  # noqa: S608 - built from constants
        return {
            source: Mix(conversations, repeated, *(when and format_time(from_microseconds(when)) for when in times))
            for source, conversations, repeated, *times in self._db.execute(query).fetchall()
        }

    def note_written(self, rows: pa.RecordBatch) -> None:
        """Remember rows that the second pass wrote: `key` and `hash`."""
        self._written.add(rows)

    def hashes(self) -> Iterable[bytes]:
        """Content hashes of all rows that were written, in order of their keys."""
        self._written.flush()
        for batch in self._db.sql("select hash from written order by key").to_arrow_reader(1 << 16):
            yield from batch.column(0).to_pylist()

    def _keep(self, source: int, count: int) -> None:
        """Keep so many conversations of a source: those with the smallest keys."""
        self._change("fate", _OUTWEIGHED, {"source": source, "kept": count})

    def _change(self, column: str, found: str, given: Mapping[str, int] | None = None) -> None:
        """Set a column of rows to what a query finds: `ordinal` and `value`."""
        self._db.execute(f"create table changes as {found}", given)
        for first in range(0, self._number("select max(ordinal) + 1 from changes"), _SLICE):
            self._db.execute(f"""
                update rows set {column} = value from (
                    select * from changes where ordinal >= {first} and ordinal < {first + _SLICE}
                ) as slice where rows.ordinal = slice.ordinal
                    and rows.ordinal >= {first} and rows.ordinal < {first + _SLICE}
            """)  # noqa: S608 - names and numbers of ours
            self._db.execute("checkpoint")
        self._db.execute("drop table changes")

    def _by_ordinal(self, column: str, otherwise: int) -> bytes:
        out = np.full(self._number("select max(ordinal) + 1 from rows"), otherwise, np.uint8)
        query = f"select ordinal, {column} from rows"  # noqa: S608 - a name of ours
        for batch in self._db.sql(query).to_arrow_reader(1 << 16):
            out[batch.column(0).to_numpy()] = batch.column(1).to_numpy()
        return out.tobytes()

    def _all(self, statements: Iterable[str]) -> None:
        for statement in statements:
            self._db.execute(statement)

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
            self._db.execute(f"insert into {self._table} by name select * from incoming")  # noqa: S608 - a name of ours
            self._db.unregister("incoming")
            self._waiting, self._rows = [], 0


def shares(available: dict[int, int], sources: list[Share]) -> dict[int, int]:
    """How many conversations each source gives: in proportion to the weights, as many as the scarcest allows.

    Of a source without conversations the weight does not count; every other one gives at least one, and no more than
    it has, or its repetitions allow. In integers: exact to one conversation.
    """
    most = {source: count * sources[source].repeat for source, count in available.items() if count}
    if not most:
        return {}
    scarcest = min(most, key=lambda source: Fraction(most[source], sources[source].weight))
    given, weight = most[scarcest], sources[scarcest].weight
    return {source: max(1, min(count, given * sources[source].weight // weight)) for source, count in most.items()}


def held_out(conversations: int, holdout: Holdout) -> int:
    """How many conversations are held out: the percentage rounded, at least one, and never all of them."""
    wanted = max(1, (conversations * holdout.percent + 50) // 100)
    return max(0, min(wanted, holdout.max_conversations, conversations - 1))
