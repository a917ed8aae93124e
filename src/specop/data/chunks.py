"""Lines of all objects in chunks: what one process reads and many work on.

Reading is cheap and in order; work on a row is neither. So one process reads, numbers the lines and cuts them into
chunks, and whatever is done to a chunk depends on its lines alone, never on where the chunk was cut.
Deterministic: the same objects give the same ordinals in both passes.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from specop.api import reasons
from specop.common.errors import UserError
from specop.data import formats
from specop.data.detect import SOUGHT, Format, detect
from specop.data.formats import Fate, Unusable
from specop.data.reader import Line, read_lines
from specop.data.sources import SourceObject, Window

CHUNK_ROWS = 1024


@dataclass(frozen=True, slots=True)
class Place:
    """The object that lines come from, without the store that it lies in."""

    source: int
    """Index in the configuration."""
    name: str
    """Of the source."""
    uri: str
    etag: str
    window: Window | None


class Known(NamedTuple):
    """What the first pass found out of a line, and a row carries for datasets that are made of its own."""

    conversation: bytes = b""
    content: bytes = b""
    """`specop.data.normalise.Identity`."""
    likeness: tuple[int, ...] = ()
    """`specop.data.alike.Signature`."""


@dataclass(slots=True)
class Chunk:
    """Some lines of one object; lists run along each other."""

    place: Place
    format: Format | None
    """None only where no line so far was JSON."""
    ordinals: list[int] = field(default_factory=list)
    """0, 1, 2 … over all lines of all sources, in the order of reading."""
    offsets: list[int] = field(default_factory=list)
    """Of the first byte in the uncompressed object."""
    lines: list[bytes] = field(default_factory=list)
    fates: list[Fate] = field(default_factory=list)
    """In the second pass only."""
    copies: list[int] = field(default_factory=list)
    """In the second pass only: how many times the rows of a line are written."""
    seen: list[bool] = field(default_factory=list)
    """In the second pass only: whether a line is held out and like one to train on."""
    clean: list[bool] = field(default_factory=list)
    """In the second pass only: whether privacy found nothing in a line in the first one."""
    answers: list[bytes | None] = field(default_factory=list)
    """In the second pass only: what the target answered to a line that was asked anew (`question.to_json`)."""
    known: list[Known] = field(default_factory=list)
    """In the second pass only."""

    def answer(self, index: int) -> bytes | None:
        """Return the target's answer to a line, if it was asked."""
        return self.answers[index] if self.answers else None


class Verdict(NamedTuple):
    """What the first pass says of a line that is kept."""

    fate: Fate
    copies: int = 1
    seen: bool = False
    clean: bool = False
    answer: bytes | None = None
    known: Known = Known()


Judge = Callable[[int], Verdict | None]
"""The verdict on the line of an ordinal; None: it is not kept."""


def read_chunks(
    objects: Iterable[SourceObject], passed: Callable[[int], None], size: int, judge: Judge | None = None
) -> Iterator[Chunk]:
    """Yield all lines, or those that are kept, in chunks of at most `CHUNK_ROWS` lines and about `size` bytes.

    `passed` is told of stored bytes as they are read. Raises UserError: what `read_lines` raises, SourceFormatUnknown.
    """
    ordinal = -1
    for found in objects:
        place = Place(found.source, found.name, found.info.uri, found.info.etag, found.window)
        chunk, held = Chunk(place, found.format), 0
        for line in read_lines(found.store, found.info, passed):
            ordinal += 1
            chunk.format = chunk.format or _format(found, line)
            if judge:
                verdict = judge(ordinal)
                if verdict is None:
                    continue
                chunk.fates.append(verdict.fate)
                chunk.copies.append(verdict.copies)
                chunk.seen.append(verdict.seen)
                chunk.clean.append(verdict.clean)
                chunk.answers.append(verdict.answer)
                chunk.known.append(verdict.known)
            chunk.ordinals.append(ordinal)
            chunk.offsets.append(line.offset)
            chunk.lines.append(line.data)
            held += len(line.data)
            if len(chunk.lines) == CHUNK_ROWS or held >= size:
                yield chunk
                chunk, held = Chunk(place, chunk.format), 0
        if chunk.lines:
            yield chunk


def _format(found: SourceObject, line: Line) -> Format | None:
    """Name the format by the first line that is JSON."""
    try:
        row = formats.parse(line.data)
    except Unusable:
        return None
    detected = detect(row)
    if detected is None:
        raise UserError(
            reasons.SOURCE_FORMAT_UNKNOWN,
            f"{found.info.uri}: the row at byte {line.offset} has no known format's keys. Looked for: {SOUGHT}. "
            "Convert the file, state its format, or take it out of the pattern.",
        )
    return detected
