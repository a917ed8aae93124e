"""The second pass as its one writer sees it: what workers made, in order, becomes files, counts and a digest.

What workers find out only here (a template that refuses a conversation, a row without a generated token) corrects the
fate of that exchange, so that the counts add up: read = kept + dropped + set aside.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from specop.data.chunks import Place
from specop.data.decide import Survey
from specop.data.formats import Fate
from specop.data.work import Made
from specop.data.writer import LINEAGE, ROWS, Lineage, Requests, Shards


@dataclass
class Built:
    """What the second pass made."""

    paths: list[Path] = field(default_factory=list)
    rows: int = 0
    holdout_rows: int = 0
    tokens: int = 0
    """Of the rows to train on."""
    supervised: Counter[str] = field(default_factory=Counter)
    """Generated tokens in rows to train on, by source."""
    constrained: int = 0
    """Rows to train on whose answers a grammar held."""
    lengths: Counter[int] = field(default_factory=Counter)
    """Rows to train on by the power of two that their number of tokens does not pass."""
    supervised_lengths: Counter[int] = field(default_factory=Counter)
    """The same by generated tokens."""
    truncated: int = 0
    respelled: int = 0
    """Rows to train on whose answers a grammar held, and whose tokens are of text: perhaps not the generated ones."""
    altered: int = 0
    """Exchanges whose text privacy changed."""
    entities: Counter[str] = field(default_factory=Counter)
    """What it replaced, by name."""
    regenerated: Counter[int] = field(default_factory=Counter)
    """Exchanges by source whose answer was asked anew."""
    origins: dict[str, Counter[str]] = field(default_factory=dict)
    """Of each source, its exchanges that are rows of another dataset, by their source there."""
    corrected: Counter[tuple[int, Fate, Fate]] = field(default_factory=Counter)
    """Exchanges by source whose fate turned out to be another: source, was, is."""


class Output:
    """The files of one dataset in a folder. Use with `with`; complete only when it has ended."""

    def __init__(self, folder: Path, survey: Survey) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._stack = ExitStack()
        self._train = self._stack.enter_context(Shards(folder, "train"))
        self._holdout = self._stack.enter_context(Shards(folder, "holdout"))
        self._requests = self._stack.enter_context(Requests(folder))
        self._lineage = self._stack.enter_context(Lineage(folder))
        self._survey = survey
        self.built = Built()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        train, holdout, built = self._train, self._holdout, self.built
        built.paths = [*train.paths, *holdout.paths, self._requests.path, self._lineage.path]
        built.rows, built.holdout_rows, built.tokens = train.rows, holdout.rows, train.tokens

    def write(self, place: Place, made: Made) -> None:
        """Append what was made of one chunk."""
        rows = made.rows.select(ROWS.names)
        held = made.rows["held"]
        train = rows.filter(pc.invert(held))
        self._train.write(train)
        self._holdout.write(rows.filter(held))
        self._measure(train)
        for key, request, altered in made.requests:
            self._requests.write(key, place.name, request, altered=altered)
        self._lineage.write(_lineage(place, made.places))
        self._survey.note_written(made.rows.select(["key", "hash"]))
        self.built.truncated += made.truncated
        self.built.respelled += made.respelled
        self.built.altered += made.altered
        self.built.entities.update(made.entities)
        self.built.supervised[place.name] += made.supervised
        self.built.regenerated[place.source] += made.regenerated
        self.built.origins.setdefault(place.name, Counter()).update(made.origins)
        for (was, now), count in made.corrected.items():
            self.built.corrected[place.source, was, now] += count

    def _measure(self, train: pa.RecordBatch) -> None:
        if not len(train):
            return
        built, spans = self.built, train["spans"]
        sizes = pc.subtract(spans.flatten().field("end"), spans.flatten().field("start")).to_numpy()
        starts = spans.offsets.to_numpy()[:-1] - spans.offsets[0].as_py()
        built.constrained += pc.sum(train["constrained"]).as_py()
        built.lengths.update(_powers(pc.list_value_length(train["input_ids"]).to_numpy()))
        built.supervised_lengths.update(_powers(np.add.reduceat(sizes, starts)))


def _powers(lengths: np.ndarray[Any, Any]) -> dict[int, int]:
    powers, counts = np.unique(np.ceil(np.log2(np.maximum(lengths, 1))).astype(int), return_counts=True)
    return dict(zip(powers.tolist(), counts.tolist(), strict=True))


def _lineage(place: Place, places: pa.RecordBatch) -> pa.RecordBatch:
    same = {"source": place.name, "object": place.uri, "etag": place.etag}
    columns = {
        **{name: pa.repeat(value, len(places)) for name, value in same.items()},
        **{name: places[name] for name in ("key", "offset", "time", "tenant")},
        "split": pc.if_else(places["held"], "holdout", "train"),
    }
    return pa.RecordBatch.from_arrays([columns[name] for name in LINEAGE.names], schema=LINEAGE)


def rows_digest(hashes: Iterable[bytes]) -> str:
    """Digest over the content hashes of all rows in order of their keys."""
    hasher = hashlib.sha256()
    for found in hashes:
        hasher.update(found)
    return f"sha256:{hasher.hexdigest()}"
