"""What is done to a chunk of lines: the functions of all passes, which know one row at a time.

    survey      lines ─► exchanges ─► keys, hashes, times, lengths     (the first pass decides by these alone)
    questions   lines ─► exchanges ─► what the target is asked anew    (only where a dataset asks for that)
    build       lines ─► exchanges ─► template ─► tokens and spans ─► Arrow

Pure but for the target's files, which are loaded once. A result never depends on how lines were cut into chunks or on
who worked on them. What is wrong with a line is said by its place and a reason that never quotes it.
"""

import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from specop.common.clock import format_time
from specop.common.names import tenant_hash
from specop.data import alike
from specop.data.chunks import Chunk, Known
from specop.data.formats import Exchange, Fate, Unusable, to_microseconds
from specop.data.grammar import grammar
from specop.data.intake import Intake, Policy, Selection, Taken
from specop.data.normalise import identify
from specop.data.question import Question, from_json
from specop.data.render import Tokens, rows_of
from specop.data.sql import Query
from specop.data.tokens import TargetText
from specop.data.writer import ROWS

SURVEYED = pa.schema(
    [
        ("ordinal", pa.int64()),
        ("source", pa.uint16()),  # index in the configuration
        ("key", pa.binary(32)),  # sha256 of source name and line: wherever it lies, and however it is packed
        ("time", pa.int64()),  # microseconds since 1970, or null
        ("conversation", pa.binary(16)),  # hash of everything up to the first user turn
        ("content", pa.binary(16)),  # hash of prompt and answer
        ("bytes", pa.uint32()),  # of the line
        ("fate", pa.uint8()),
        ("clean", pa.bool_()),  # privacy found nothing
        ("anew", pa.bool_()),  # the target is to be asked
        *alike.COLUMNS,  # of lines that may be used
    ]
)
"""What the first pass keeps of a line: 128 bytes."""
MADE = pa.schema([*ROWS, ("hash", pa.binary(16)), ("held", pa.bool_())])
"""A row of tokens, what it teaches, and whether it is held out."""
PLACES = pa.schema(
    [
        ("key", pa.string()),
        ("offset", pa.int64()),
        ("time", pa.string()),
        ("tenant", pa.string()),
        ("held", pa.bool_()),
    ]
)
"""Where each exchange that became rows was found in the chunk's object."""
_FILTERED = "left out by transform.sql"
_UNSIGNED: list[Any] = [None] * len(alike.COLUMNS)
_BATCH_BYTES = 128 << 10
"""Lines that are rendered and tokenised at once: their tokens and offsets take about a hundred times as many bytes."""


class Note(NamedTuple):
    """A line that becomes no row, and why; never what it holds."""

    offset: int
    fate: Fate
    reason: str


class Surveyed(NamedTuple):
    """What the first pass finds in a chunk."""

    rows: pa.RecordBatch
    """Of `SURVEYED`; lines outside the window are not among them."""
    notes: list[Note]
    languages: Counter[str]
    """Of lines that may be used, where languages are looked at."""


@dataclass(slots=True)
class Made:
    """What the second pass makes of a chunk."""

    rows: pa.RecordBatch
    """Of `MADE`, in the order of the lines."""
    places: pa.RecordBatch
    """Of `PLACES`, one for each exchange that became rows."""
    requests: list[tuple[str, str, bool]] = field(default_factory=list)
    """Of what is held out: key, request (JSON), whether that is not what was sent."""
    origins: Counter[str] = field(default_factory=Counter)
    """Exchanges that are rows of another dataset, by their source there."""
    corrected: Counter[tuple[Fate, Fate]] = field(default_factory=Counter)
    """Exchanges whose fate turned out to be another: was, is."""
    notes: list[Note] = field(default_factory=list)
    """Why the target did not answer."""
    truncated: int = 0
    """Rows that were cut."""
    respelled: int = 0
    """Rows to train on whose answers a grammar held, and whose tokens are of text: perhaps not the generated ones."""
    regenerated: int = 0
    """Exchanges that became rows with an answer that was asked anew."""
    supervised: int = 0
    """Generated tokens in rows to train on."""
    altered: int = 0
    """Exchanges whose text privacy changed."""
    entities: Counter[str] = field(default_factory=Counter)
    """What it replaced, by name."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What every worker is told once."""

    target: Path
    """Folder with the target's small files."""
    max_length: int
    policy: Policy = field(default_factory=Policy)
    selections: tuple[Selection, ...] = ()
    """Of each source; none: of all the same, everything."""
    sql: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    """What privacy needs of the Job's environment, its key, wherever the worker runs."""


class Worker:
    """The functions of all passes."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._target = TargetText(setup.target)
        self._intake = Intake(setup.policy, setup.environment)
        self._query = Query(setup.sql) if setup.sql else None

    def survey(self, chunk: Chunk) -> Surveyed:
        """First pass: read the lines of a chunk and hash what decisions need."""
        names, found, notes = hashlib.sha256(f"{chunk.place.name}\n".encode()), [], []
        languages: Counter[str] = Counter()
        for index, taken in self._selected(chunk):
            time = conversation = content = None
            signature: alike.Signature = _UNSIGNED
            fate, line, clean, anew = Fate.TRAIN, chunk.lines[index], False, False
            try:
                if isinstance(taken, Unusable):
                    raise taken
                exchange, clean, anew = taken.exchange, not taken.entities, taken.anew
                self._check_tokens(exchange)
                conversation, content = identify(exchange)
                signature = alike.signature(exchange)
                time = to_microseconds(exchange.time) if exchange.time else None
                if taken.language:
                    languages[taken.language] += 1
            except Unusable as why:
                fate = why.fate
                notes.append(Note(chunk.offsets[index], fate, why.reason))
            identity = chunk.ordinals[index], chunk.place.source, _key(names, line), time, conversation, content
            found.append((*identity, len(line), fate, clean, anew, *signature))
        columns = zip(*found, strict=True) if found else [()] * len(SURVEYED)
        arrays = [pa.array(column, of.type) for column, of in zip(columns, SURVEYED, strict=True)]
        return Surveyed(pa.RecordBatch.from_arrays(arrays, schema=SURVEYED), notes, languages)

    def questions(self, chunk: Chunk) -> list[Question]:
        """Between the passes: say what the target is asked for lines that are kept and have no answer of its own."""
        names = hashlib.sha256(f"{chunk.place.name}\n".encode())
        return [
            Question(chunk.ordinals[index], _key(names, chunk.lines[index]), taken.exchange)
            for index, taken in self._selected(chunk)
            if isinstance(taken, Taken) and taken.anew
        ]

    def build(self, chunk: Chunk) -> Made:
        """Second pass: make rows of tokens of the lines of a chunk, which all have a fate that keeps them."""
        made = _Making(chunk, self._setup.max_length)
        names = hashlib.sha256(f"{chunk.place.name}\n".encode())
        waiting: list[tuple[int, bytes, Exchange]] = []
        size = 0
        for index, taken in self._selected(chunk):
            assert isinstance(taken, Taken)
            exchange, entities = taken.exchange, taken.entities
            if (answer := chunk.answer(index)) is not None:
                try:
                    exchange, more = from_json(exchange, answer)
                except Unusable as why:
                    made.drop(index, why)
                    continue
                entities = entities + more
            made.entities(entities)
            waiting.append((index, _key(names, chunk.lines[index]), exchange))
            size += len(chunk.lines[index])
            if size >= _BATCH_BYTES:
                self._rows(waiting, made)
                waiting, size = [], 0
        self._rows(waiting, made)
        return made.finish()

    def _selected(self, chunk: Chunk) -> Iterable[tuple[int, Taken | Unusable]]:
        """Read a chunk and let `transform.sql` choose; what is taken, or why nothing, by the index of the line."""
        read = self._taken(chunk)
        if self._query is None:
            return read
        found = dict(read)
        usable = {index: taken for index, taken in found.items() if isinstance(taken, Taken)}
        kept = self._query.keep(chunk.place.name, [taken.exchange for taken in usable.values()])
        left = {
            index: taken._replace(exchange=kept[number]) if number in kept else Unusable(Fate.FILTERED, _FILTERED)
            for number, (index, taken) in enumerate(usable.items())
        }
        return (found | left).items()

    def _taken(self, chunk: Chunk) -> Iterator[tuple[int, Taken | Unusable]]:
        """Read a chunk; nothing of lines outside the window."""
        place = chunk.place
        selection = self._setup.selections[place.source] if self._setup.selections else Selection(place.window)
        known, kept = chunk.clean or [False] * len(chunk.lines), bool(chunk.fates)
        for index, (line, clean) in enumerate(zip(chunk.lines, known, strict=True)):
            try:
                taken = self._intake.read(line, chunk.format or "OpenAIChat", selection, clean=clean, kept=kept)
            except Unusable as why:
                yield index, why
            else:
                if taken is not None:
                    yield index, taken

    def _check_tokens(self, exchange: Exchange) -> None:
        """Refuse rows of tokens that spell personal data: they cannot be changed. Raises Unusable."""
        known = exchange.spans and max(exchange.token_ids) < self._target.vocab_size
        if known and self._intake.finds(self._target.decode(exchange.token_ids)):
            raise Unusable(Fate.PRIVATE, "personal data or a secret in a row of tokens, which cannot be changed")

    def _rows(self, waiting: list[tuple[int, bytes, Exchange]], made: "_Making") -> None:
        rows = rows_of([exchange for _, _, exchange in waiting], self._target)
        for (index, key, exchange), of in zip(waiting, rows, strict=True):
            made.add(index, key, exchange, of)


class _Making:
    """Columns of a `Made` while they grow."""

    def __init__(self, chunk: Chunk, max_length: int) -> None:
        self._chunk = chunk
        self._max_length = max_length
        self._ids, self._ends = array("i"), array("i", [0])
        self._spans, self._span_ends = array("i"), array("i", [0])
        self._others: list[tuple[Any, ...]] = []
        """Of `MADE` without the two columns above."""
        self._places: list[tuple[str, int, str, str, bool]] = []
        self._made = Made(MADE.empty_table(), PLACES.empty_table())

    def add(self, index: int, key: bytes, exchange: Exchange, rows: list[Tokens]) -> None:
        """Add the rows of one exchange; one that has none has its fate corrected."""
        fate, made = self._chunk.fates[index], self._made
        held = fate is Fate.HOLDOUT
        copies = 1 if held else self._chunk.copies[index]
        time = format_time(exchange.time) if exchange.time else ""
        held_to = exchange.written.grammar if exchange.written else grammar(exchange.request)
        constraint = exchange.constrained, held_to, exchange.temperature, exchange.altered
        novel = held and not self._chunk.seen[index]
        known = self._chunk.known[index]
        if self._chunk.answer(index) is not None:  # the first pass knew the question alone
            known = Known(*identify(exchange), tuple(alike.signature(exchange)))
        some = False
        for turn, whole in enumerate(rows):
            tokens = whole.cut(self._max_length)
            if not tokens.supervised:
                continue
            some = True
            made.respelled += copies * (exchange.constrained and not held and not tokens.as_generated)
            made.truncated += copies * (len(whole.input_ids) > self._max_length)
            made.supervised += 0 if held else copies * tokens.supervised
            ids, edges = array("i", tokens.input_ids), array("i", [edge for span in tokens.spans for edge in span])
            taught = _hash(ids, tokens, constraint, held)
            for copy in range(copies):
                self._ids.extend(ids)
                self._ends.append(len(self._ids))
                self._spans.extend(edges)
                self._span_ends.append(len(self._spans) // 2)
                name = _row_key(key, turn, copy)
                identity = known.conversation.hex(), _part(known.content, turn).hex(), known.likeness
                self._others.append((name, self._chunk.place.name, time, *constraint, novel, *identity, taught, held))
        if some:
            made.regenerated += self._chunk.answer(index) is not None
            if exchange.written:
                made.origins[exchange.written.source] += 1
            self._places.append((key.hex(), self._chunk.offsets[index], time, tenant_hash(exchange.tenant), held))
            if held and exchange.request["messages"]:  # a text or tokens are no request
                request = json.dumps(exchange.request, ensure_ascii=False)
                made.requests.append((key.hex(), request, exchange.altered))
        else:
            made.corrected[fate, Fate.UNSUPERVISED if rows else Fate.REFUSED] += 1

    def drop(self, index: int, why: Unusable) -> None:
        """Correct the fate of an exchange that has no answer of the target's."""
        self._made.corrected[self._chunk.fates[index], why.fate] += 1
        self._made.notes.append(Note(self._chunk.offsets[index], why.fate, why.reason))

    def entities(self, found: Counter[str]) -> None:
        """Count what privacy replaced in an exchange."""
        self._made.altered += bool(found)
        self._made.entities.update(found)

    def finish(self) -> Made:
        """Put the columns together."""
        key, source, time, *others = list(zip(*self._others, strict=True)) or [()] * (len(MADE) - 2)
        edges = np.frombuffer(self._spans, np.int32).reshape(-1, 2)
        spans = pa.StructArray.from_arrays([pa.array(edges[:, 0]), pa.array(edges[:, 1])], ["start", "end"])
        lists = [
            pa.ListArray.from_arrays(_int32(self._ends), _int32(self._ids)),
            pa.ListArray.from_arrays(_int32(self._span_ends), spans),
        ]
        self._made.rows = _batch([key, source, time, *lists, *others], MADE)
        self._made.places = _batch(list(zip(*self._places, strict=True)) or [()] * len(PLACES), PLACES)
        return self._made


def _key(names: "hashlib._Hash", line: bytes) -> bytes:
    hasher = names.copy()
    hasher.update(line)
    return hasher.digest()


def _row_key(key: bytes, turn: int, copy: int) -> str:
    """Key of an exchange, and behind it which of its rows this is, where it has several."""
    if copy:
        return f"{key.hex()}{turn:08x}{copy:08x}"
    return f"{key.hex()}{turn:08x}" if turn else key.hex()


def _part(content: bytes, turn: int) -> bytes:
    """Hash of what an exchange says, for one of its rows."""
    return hashlib.sha256(content + turn.to_bytes(4)).digest()[:16] if turn else content


def _hash(ids: "array[int]", tokens: Tokens, constraint: tuple[bool, str | None, float, bool], held: bool) -> bytes:
    """Hash of what a row teaches, without where and when it was found: 16 bytes."""
    hasher = hashlib.sha256(ids)  # little-endian, as every platform is that a Job runs on
    hasher.update(json.dumps([tokens.spans, *constraint, held]).encode())
    return hasher.digest()[:16]


def _int32(values: "array[int]") -> pa.Array:
    return pa.Array.from_buffers(pa.int32(), len(values), [None, pa.py_buffer(values)])


def _batch(columns: list[object], schema: pa.Schema) -> pa.RecordBatch:
    arrays = [
        column if isinstance(column, pa.Array) else pa.array(column, of.type)
        for column, of in zip(columns, schema, strict=True)
    ]
    return pa.RecordBatch.from_arrays(
        [one.cast(of.type) for one, of in zip(arrays, schema, strict=True)], schema=schema
    )
