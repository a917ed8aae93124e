"""The second pass: the payloads of what is kept, through the target's template and tokenizer, into shards.

What it finds out only here (a template that refuses a conversation, a row without a generated token) corrects the fate
of that exchange, so that the counts add up: read = kept + dropped + set aside.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from specop.common.clock import format_time
from specop.data.decide import Survey
from specop.data.formats import Fate, Json, from_microseconds
from specop.data.render import Tokens, rows_of
from specop.data.tokens import TargetText
from specop.data.writer import Requests, Row, Shards

_KEPT = (Fate.TRAIN, Fate.HOLDOUT)
_NOTED = 4096


@dataclass
class Built:
    """What the second pass made."""

    paths: list[Path] = field(default_factory=list)
    rows: int = 0
    holdout_rows: int = 0
    tokens: int = 0
    supervised: Counter[str] = field(default_factory=Counter)
    """Generated tokens in training rows, by source."""
    truncated: int = 0
    corrected: Counter[tuple[int, Fate, Fate]] = field(default_factory=Counter)
    """Exchanges by source whose fate turned out to be another: source, was, is."""


class Builder:
    """Writes the rows of one dataset into a folder."""

    def __init__(self, target: TargetText, sources: list[str], max_length: int, survey: Survey) -> None:
        self._target = target
        self._sources = sources
        self._max_length = max_length
        self._survey = survey
        self._noted: list[tuple[bytes, bytes]] = []
        self.built = Built()

    def build(self, batches: Iterable[pa.RecordBatch], fates: bytes, folder: Path) -> Iterator[int]:
        """Write everything; yields the exchanges kept so far after each batch."""
        folder.mkdir(parents=True, exist_ok=True)
        kept = 0
        with Shards(folder, "train") as train, Shards(folder, "holdout") as holdout, Requests(folder) as requests:
            for batch in batches:
                exchanges = [row for row in batch.to_pylist() if fates[row["ordinal"]] in _KEPT]
                for exchange, rows in zip(exchanges, rows_of(exchanges, self._target), strict=True):
                    fate = Fate(fates[exchange["ordinal"]])
                    held = fate is Fate.HOLDOUT
                    written = self._write(exchange, rows, holdout if held else train, fate)
                    kept += written
                    if written and held:
                        name = self._sources[exchange["source"]]
                        requests.write(exchange["key"].hex(), name, exchange["request"])
                yield kept
        self._note(0)
        self.built.paths = [*train.paths, *holdout.paths, requests.path]
        self.built.rows, self.built.holdout_rows, self.built.tokens = train.rows, holdout.rows, train.tokens

    def _write(self, exchange: Json, rows: list[Tokens], shards: Shards, fate: Fate) -> bool:
        """Write the rows of one exchange; False where it has none, its fate then corrected."""
        source, name = exchange["source"], self._sources[exchange["source"]]
        constrained, grammar, temperature = exchange["constrained"], exchange["grammar"], exchange["temperature"]
        some = False
        for index, whole in enumerate(rows):
            tokens = whole.cut(self._max_length)
            if not tokens.supervised:
                continue
            some = True
            self.built.truncated += len(whole.input_ids) > self._max_length
            key = exchange["key"] + (index.to_bytes(4) if index else b"")
            shards.write(
                Row(
                    key=key.hex(),
                    source=name,
                    time=_time(exchange["time"]),
                    input_ids=tokens.input_ids,
                    spans=[{"start": start, "end": end} for start, end in tokens.spans],
                    constrained=constrained,
                    grammar=grammar,
                    temperature=temperature,
                )
            )
            self._noted.append((key, content_hash(tokens, constrained, grammar, temperature, fate)))
            if fate is Fate.TRAIN:
                self.built.supervised[name] += tokens.supervised
        if not some:
            self.built.corrected[source, fate, Fate.UNSUPERVISED if rows else Fate.REFUSED] += 1
        self._note(_NOTED)
        return some

    def _note(self, least: int) -> None:
        if len(self._noted) > least:
            self._survey.note_written([key for key, _ in self._noted], [found for _, found in self._noted])
            self._noted = []


def content_hash(tokens: Tokens, constrained: bool, grammar: str | None, temperature: float, fate: Fate) -> bytes:
    """Hash of what a row teaches, without where and when it was found: 16 bytes."""
    hasher = hashlib.sha256(np.asarray(tokens.input_ids, dtype="<i4").tobytes())
    hasher.update(json.dumps([tokens.spans, constrained, grammar, temperature, fate is Fate.HOLDOUT]).encode())
    return hasher.digest()[:16]


def rows_digest(hashes: Iterable[bytes]) -> str:
    """Digest over the content hashes of all rows in order of their keys."""
    hasher = hashlib.sha256()
    for found in hashes:
        hasher.update(found)
    return f"sha256:{hasher.hexdigest()}"


def _time(microseconds: int | None) -> str:
    return "" if microseconds is None else format_time(from_microseconds(microseconds))
