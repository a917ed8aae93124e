"""Lines become batches of a fixed Arrow schema: what both passes work on, whatever the format was.

A payload (request, answer) stays one opaque JSON column; beside it stand the few columns that the first pass decides
by. Deterministic: the same objects give the same rows with the same ordinals in both passes.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from specop.api import reasons
from specop.common.errors import UserError
from specop.common.hashing import canonical_json
from specop.data import formats
from specop.data.formats import Exchange, Fate, Json, Unusable
from specop.data.grammar import grammar
from specop.data.reader import Line, read_lines
from specop.data.sources import SourceObject

BATCH_ROWS = 512
BATCH_BYTES = 8 << 20
_LISTED = 1000

SURVEYED = pa.schema(
    [
        ("ordinal", pa.int64()),  # 0, 1, 2 … over all lines of all sources, in the order of reading
        ("source", pa.uint16()),  # index in the configuration
        ("key", pa.binary(32)),  # sha256 of source name and line: wherever it lies, and however it is packed
        ("time", pa.int64()),  # microseconds since 1970, or null
        ("conversation", pa.binary(16)),  # hash of everything up to the first user turn
        ("content", pa.binary(16)),  # hash of prompt and answer
        ("fate", pa.uint8()),
    ]
)
"""What the first pass keeps: about 90 bytes a row."""
SCHEMA = pa.schema(
    [
        *SURVEYED,
        ("request", pa.string()),  # JSON: an OpenAI body with its messages
        ("answer", pa.string()),  # JSON: the assistant's message
        ("history", pa.bool_()),
        ("ended", pa.bool_()),
        ("constrained", pa.bool_()),
        ("grammar", pa.string()),  # of `specop.data.grammar`, or null
        ("temperature", pa.float32()),
        ("prompt_token_ids", pa.list_(pa.int32())),
        ("token_ids", pa.list_(pa.int32())),
    ]
)


@dataclass
class Unused:
    """Lines that became no row: counted by reason, the malformed ones listed by place; never what they hold."""

    reasons: dict[str, int] = field(default_factory=dict)
    places: list[Json] = field(default_factory=list)

    def note(self, found: SourceObject, line: Line, why: Unusable) -> None:
        """Count one line, and list it if it was malformed and the list is not long yet."""
        self.reasons[why.reason] = self.reasons.get(why.reason, 0) + 1
        if why.fate is Fate.SET_ASIDE and len(self.places) < _LISTED:
            self.places.append({"object": found.info.uri, "offset": line.offset, "reason": why.reason})


def normalise(
    objects: Iterable[SourceObject], passed: Callable[[int], None], unused: Unused | None = None
) -> Iterator[pa.RecordBatch]:
    """Yield batches of `SCHEMA`, of at most `BATCH_ROWS` rows and, but for the last row, `BATCH_BYTES` bytes.

    `passed` is told of stored bytes as they are read; `unused` collects what the rows cannot say. Raises UserError:
    what `read_lines` raises, and SourceFormatUnknown.
    """
    rows: list[Json] = []
    size = ordinal = 0
    for found in objects:
        read = _RowReader(found)
        for line in read_lines(found.store, found.info, passed):
            try:
                columns = read.columns(line)
            except Unusable as why:
                columns = {"fate": why.fate}
                if unused:
                    unused.note(found, line, why)
            if columns is None:
                continue
            key = hashlib.sha256(f"{found.name}\n".encode() + line.data).digest()
            rows.append({"ordinal": ordinal, "source": found.source, "key": key, **columns})
            ordinal += 1
            size += len(line.data)
            if len(rows) == BATCH_ROWS or size >= BATCH_BYTES:
                yield pa.RecordBatch.from_pylist(rows, SCHEMA)
                rows, size = [], 0
    if rows:
        yield pa.RecordBatch.from_pylist(rows, SCHEMA)


class _RowReader:
    """Rows of one object, in its format."""

    def __init__(self, found: SourceObject) -> None:
        self._found = found
        self._format = found.format

    def columns(self, line: Line) -> Json | None:
        """Columns that come from the line itself, or None outside the window. Raises Unusable."""
        row = formats.parse(line.data)
        self._format = self._format or formats.detect(row)
        if self._format is None:
            raise UserError(
                reasons.SOURCE_FORMAT_UNKNOWN,
                f"{self._found.info.uri}: the row at byte {line.offset} has neither `messages` (OpenAI chat) nor "
                "`request` and `response` (capture). Convert the file, or take it out of the pattern.",
            )
        if self._format == "OpenAIChat":
            return _columns(formats.read_chat(row))
        if self._found.window and formats.capture_time(row) not in self._found.window:
            return None
        return _columns(formats.read_capture(row))


def _columns(exchange: Exchange) -> Json:
    try:
        return {
            "time": formats.to_microseconds(exchange.time) if exchange.time else None,
            "conversation": _hash(_opening(exchange.request)),
            "content": _hash(_content(exchange)),
            "fate": Fate.TRAIN,
            "request": json.dumps(exchange.request, ensure_ascii=False).encode().decode(),
            "answer": json.dumps(exchange.answer, ensure_ascii=False).encode().decode(),
            "history": exchange.history,
            "ended": exchange.ended,
            "constrained": exchange.constrained,
            "grammar": grammar(exchange.request),
            "temperature": exchange.temperature,
            "prompt_token_ids": exchange.prompt_token_ids,
            "token_ids": exchange.token_ids,
        }
    except UnicodeEncodeError:
        raise Unusable(Fate.SET_ASIDE, "half a surrogate pair") from None
    except RecursionError:
        raise Unusable(Fate.SET_ASIDE, "nested too deeply") from None


def _opening(request: Json) -> list[Json]:
    """Everything up to the first user turn: equal in all requests of one conversation, as each repeats the history."""
    messages = request["messages"]
    first = next((index for index, message in enumerate(messages) if message["role"] == "user"), len(messages))
    return [_essence(message) for message in messages[: first + 1]]


def _content(exchange: Exchange) -> list[Any]:
    """Return what makes two exchanges the same: prompt, tools and answer, however their contents are written."""
    messages = [*exchange.request["messages"], exchange.answer]
    options = [exchange.request.get(name) for name in ("tools", "chat_template_kwargs")]
    return [[_essence(message) for message in messages], options]


def _essence(message: Json) -> Json:
    calls = [call["function"] for call in message.get("tool_calls") or []]
    return {
        "role": message.get("role"),
        "content": formats.flat_content(message),
        "reasoning": formats.reasoning(message),
        "calls": [[call["name"], call.get("arguments")] for call in calls],
    }


def _hash(value: Any) -> bytes:
    return hashlib.sha256(canonical_json(value)).digest()[:16]
