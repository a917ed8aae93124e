"""Rows of a dataset, the packs and optimiser batches made of them, and a pack's tensors.

The plan is a pure function of (dataset digest, seed, epoch, batch tokens) and the rows' lengths, never of how many
processes train: epoch by epoch the rows are shuffled, packs are filled in that order up to `PACK_TOKENS`, batches up to
`batch_tokens`. So a checkpoint needs no more than the number of optimiser steps done.

A pack is flat: documents one after another, no padding, boundaries kept by `segments`. Of a row only the tokens up to
its last anchor are used. The label rule: for anchor i and draft step k the label is x[i+2+k], if x[i+1] … x[i+2+k] all
lie in one generated span. The anchors of a span therefore stand on consecutive tokens, and everything that step k needs
of anchor a is what step 0 needs of anchor a + k.
"""

import random
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from specop.api.training_job import TrainingRows
from specop.common.hashing import sha256_hex
from specop.trainer.attention import Segment
from specop.trainer.config import Recipe
from specop.trainer.shards import corrupt, read_records

PACK_TOKENS = 4096
"""Tokens of one forward and backward pass; a longer row is a pack of its own."""
WORD = 32
"""Tokens of a word of a mask."""
FREE = -1
"""Index of the mask that allows everything."""


@dataclass(frozen=True)
class Row:
    """One conversation: token ids and where its generated tokens lie."""

    key: str
    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    """Half-open, in order, disjoint."""
    constrained: bool
    """A grammar masked the target's distribution when it was generated."""
    temperature: float
    """At which it was sampled; 0 is greedy."""
    source: str = ""
    grammar: str | None = None
    """That grammar, as JSON, where it is known."""
    altered: bool = False
    """Privacy changed its text, so it is not what the target wrote."""
    novel: bool = False
    """Held out, and like nothing to train on."""

    @property
    def unknown(self) -> bool:
        """A grammar was in force that is not known: what the target says of the row is not what it was served by."""
        return self.constrained and self.grammar is None

    @cached_property
    def anchors(self) -> tuple[tuple[int, int], ...]:
        """Half-open ranges of tokens i with a label at draft step 0: x[i+1] and x[i+2] in one span."""
        return tuple((max(start - 1, 0), end - 2) for start, end in self.spans if end - 2 > max(start - 1, 0))

    @cached_property
    def length(self) -> int:
        """Tokens up to and with the last anchor: what the drafter reads."""
        return self.anchors[-1][1] if self.anchors else 0

    def labels(self, steps: int) -> list[int]:
        """Count the labels of each draft step."""
        return [sum(max(end - k - start, 0) for start, end in self.anchors) for k in range(steps)]


def label_counts(rows: Iterable[Row], steps: int) -> tuple[list[int], list[int]]:
    """Labels of each draft step in these rows; and those among them whose distribution is known."""
    count_K, known_K = [0] * steps, [0] * steps
    for row in rows:
        for k, count in enumerate(row.labels(steps)):
            count_K[k] += count
            known_K[k] += 0 if row.unknown else count
    return count_K, known_K


def read_rows(files: Sequence[Path], max_length: int, vocab_size: int) -> list[Row]:
    """Read the rows that have an anchor, cut at the right end to `max_length` tokens.

    Raises UserError DatasetCorrupt for files or rows that break the dataset's contract.
    """
    return read_counted(files, max_length, vocab_size, drop=False)[0]


def read_counted(
    files: Sequence[Path], max_length: int, vocab_size: int, *, drop: bool
) -> tuple[list[Row], TrainingRows]:
    """Read rows as `read_rows` does, or without the longer ones (`drop`), and say what became of all."""
    rows, cut, dropped, unlabelled = list[Row](), 0, 0, 0
    for file in files:
        for record in read_records(file):
            row = _row(record, max_length)
            longer = len(record["input_ids"] or ()) > max_length
            last = 0
            for start, end in row.spans:
                if not last <= start < end <= len(row.ids):
                    raise corrupt(f"{file.name}: a row's spans are out of order or beyond its tokens")
                last = end
            if row.ids and not 0 <= min(row.ids) <= max(row.ids) < vocab_size:
                raise corrupt(f"{file.name}: a row has token ids that the target's vocabulary does not have")
            if longer and drop:
                dropped += 1
            elif row.anchors:
                rows.append(row)
                cut += longer
            else:
                unlabelled += 1
    return rows, TrainingRows(learned=len(rows), cut=cut, dropped=dropped, unlabelled=unlabelled)


def _row(record: dict[str, Any], max_length: int) -> Row:
    ids = tuple(record["input_ids"] or ())[:max_length]
    spans = [(span["start"], min(span["end"], max_length)) for span in record["spans"] or ()]
    return Row(
        key=str(record["key"]),
        ids=ids,
        spans=tuple((start, end) for start, end in spans if start < max_length),
        constrained=bool(record["constrained"]),
        temperature=float(record["temperature"] or 0),
        source=str(record["source"] or ""),
        grammar=record.get("grammar"),
        altered=bool(record.get("altered")),
        novel=bool(record.get("novel")),
    )


Batch = list[list[int]]
"""Packs of one optimiser step, each a list of indices of rows."""


def epoch_batches(lengths: Sequence[int], digest: str, seed: int, epoch: int, batch_tokens: int) -> list[Batch]:
    """Return one epoch's optimiser steps in order; every row is in exactly one pack."""
    order = list(range(len(lengths)))
    random.Random(sha256_hex(f"{digest}/{seed}/{epoch}".encode())).shuffle(order)  # noqa: S311 - an order, no secret
    packs = list(_filled(order, lengths, min(PACK_TOKENS, batch_tokens)))
    sizes = [sum(lengths[row] for row in pack) for pack in packs]
    return [[packs[index] for index in batch] for batch in _filled(range(len(packs)), sizes, batch_tokens)]


class Plan:
    """All optimiser steps of a run, in order."""

    def __init__(self, lengths: Sequence[int], digest: str, recipe: Recipe) -> None:
        """`lengths`: tokens of each row; `digest`: the dataset's."""
        # Two, because packs are fetched ahead: around the end of an epoch both sides of it are asked for.
        self._epoch = lru_cache(maxsize=2)(
            lambda epoch: epoch_batches(lengths, digest, recipe.seed, epoch, recipe.batch_tokens)
        )
        sizes = [len(self._epoch(epoch)) for epoch in range(recipe.epochs)]
        self._ends = list(accumulate(sizes))
        self.total = min(self._ends[-1], recipe.max_steps or self._ends[-1])
        """Optimiser steps of the run."""

    def batch(self, step: int) -> Batch:
        """Packs of optimiser step `step`, from 0."""
        epoch = bisect_right(self._ends, step)
        return self._epoch(epoch)[step - (self._ends[epoch - 1] if epoch else 0)]


def in_order(lengths: Sequence[int]) -> Batch:
    """All rows, packed in their own order."""
    return list(_filled(range(len(lengths)), lengths, PACK_TOKENS))


def _filled(items: Sequence[int], sizes: Sequence[int], limit: int) -> Iterator[list[int]]:
    """Cut items, in order, into groups of at most `limit`; an item over it is a group of its own."""
    group: list[int] = []
    total = 0
    for item in items:
        if group and total + sizes[item] > limit:
            yield group
            group, total = [], 0
        group.append(item)
        total += sizes[item]
    if group:
        yield group


@dataclass(frozen=True, slots=True)
class Pack:
    """Tensors of one forward pass: N tokens of several documents, A anchors, C captured layers, H hidden."""

    next_N: Tensor
    """Id of the token after each token: what the drafter is fed at step 0."""
    position_N: Tensor
    """Position of each token in its document."""
    aux_NCH: Tensor
    """The target's captured states."""
    anchor_A: Tensor
    """Index among the N tokens of each anchor."""
    segments: tuple[Segment, ...]
    served_A: Tensor
    """Id of the label of step 0: x[i+2]."""
    end_A: Tensor
    """End of each anchor's segment."""
    unknown_A: Tensor
    """A grammar that is not known masked the distribution (`Row.unknown`)."""
    mask_A: Tensor
    """Which mask a grammar that is known lays over the distribution: an index into `words_MW`, or `FREE`."""
    words_MW: Tensor
    """M distinct masks, bits of `WORD` tokens a word."""
    temperature_A: Tensor
    """Of the distribution that is compared: that of the row, or 1 where the row is greedy."""
    last_AH: Tensor
    """The target's final state that predicts the label of step 0."""
    lse_A: Tensor
    """Full-vocabulary log-sum-exp of its logits, divided by the temperature."""
    argmax_A: Tensor
    """Id of its most likely token."""
    peak_A: Tensor
    """Log-probability of that token, among all tokens."""

    def to(self, device: torch.device) -> "Pack":
        """Move all tensors. To a GPU that is only enqueued, on the current stream: what uses another waits for it."""
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {k: _moved(x, device) if isinstance(x, Tensor) else x for k, x in values.items()}
        return Pack(**moved)

    def masks(self, token_D: Tensor) -> "Masks | None":
        """Return the masks for these tokens; None where all labels are free."""
        return Masks(self.mask_A, self.words_MW, token_D) if len(self.words_MW) else None

    def later(self, values_A: Tensor, step: int) -> Tensor:
        """Values of the anchors `step` further; the last ones repeat (they have no label there)."""
        index_A = torch.arange(len(values_A), device=values_A.device) + step
        return values_A[index_A.clamp_(max=len(values_A) - 1)]


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    """Move a tensor; to a GPU from pinned memory, which torch keeps until the copy is done."""
    if device.type == "cuda" and not tensor.is_cuda:
        return tensor.pin_memory().to(device, non_blocking=True)  # what is pinned already is not copied here
    return tensor.to(device)


@dataclass(frozen=True, slots=True)
class Masks:
    """Grammar masks of A labels, for D tokens."""

    index_A: Tensor
    words_MW: Tensor
    token_D: Tensor

    def allowed(self, row_R: Tensor) -> Tensor:
        """Whether label r allows token d, RD."""
        index_R = self.index_A[row_R]
        words_RD = self.words_MW[index_R.clamp_min(0)][:, self.token_D // WORD]
        return ((words_RD >> (self.token_D % WORD)) & 1).bool() | (index_R == FREE)[:, None]
