"""The teacher's states of a list of rows: as many as there is room for on disk, the others made anew each time.

One file a block of rows, in bfloat16: captured states of every token that the drafter reads, and per anchor the final
state (together 2(3n + a)H bytes for n tokens and a anchors) and a few scalars. The first epoch, too, trains on these
rounded states, so that a run does not depend on whether its cache was there. Where the room ends, a prefix of the
blocks is kept, the same whatever is asked for first, and the rows of the others go through the teacher with every pack
that they are in: one epoch of that costs a forward pass of the target, the room costs disk.

The folder's name is a digest over everything that the states depend on. Each file carries a checksum of its tensors;
one that is missing or damaged is made again, never an error. Files appear under their names when they are complete, so
a killed process leaves nothing that could be mistaken for a block. The processes of a node share the folder: each makes
a part, and opens the others' when all are done.

The teacher is asked by one thread at a time: packs are assembled ahead of the training, while the holdout is judged.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import accumulate
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from specop.api import reasons
from specop.common.errors import UserError
from specop.trainer.attention import Segment
from specop.trainer.batches import FREE, Pack, Row
from specop.trainer.teacher import RowStates
from specop.trainer.tensors import read_tensors, write_tensors

log = logging.getLogger(__name__)

BLOCK_TOKENS = 4096
"""Tokens that the teacher sees at once."""
SCALAR_BYTES = 4
NAMES = tuple(field.name for field in fields(RowStates))
"""Names of a block's tensors."""


MasksOf = Callable[[Sequence[Row]], tuple[Tensor, Tensor]]
"""Grammar masks of the anchors of some rows: mask_A and words_MW, as `Pack` has them."""


def free_masks(rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
    """Masks of rows that no grammar constrains."""
    return torch.full((sum(row.labels(1)[0] for row in rows),), FREE), torch.empty(0, 1, dtype=torch.int32)


class Source(Protocol):
    """Who makes states: the target in this process (`Teacher`), or an engine that is asked for them."""

    def states(self, rows: Sequence[Row]) -> list[RowStates]:
        """States of some rows of similar length, in their order, on the CPU."""
        ...


@dataclass(frozen=True, slots=True)
class Sizes:
    """What states weigh on disk."""

    hidden: int
    captured: int
    """Captured layers."""

    def of(self, row: Row) -> int:
        """Bytes of one row."""
        scalars = SCALAR_BYTES * (len(NAMES) - 2)
        return 2 * self.hidden * self.captured * row.length + (2 * self.hidden + scalars) * row.labels(1)[0]


class States:
    """The states of a list of rows, by index."""

    def __init__(
        self, folder: Path, rows: Sequence[Row], source: Source, sizes: Sizes, masks: MasksOf = free_masks
    ) -> None:
        """`folder` is named after everything that the states depend on; `rows` are the same rows in the same order."""
        self.rows = rows
        self.kept = 0
        """How many blocks are kept on disk, from the first on."""
        self._folder = folder
        self._source = source
        self._masks = masks
        self._turn = threading.Lock()
        self._blocks = list(_blocks(range(len(rows)), rows))
        self._bytes = [sum(sizes.of(rows[row]) for row in block) for block in self._blocks]
        self._place: dict[int, tuple[int, int, int]] = {}
        for block, members in enumerate(self._blocks):
            token = anchor = 0
            for row in members:
                self._place[row] = (block, token, anchor)
                token += rows[row].length
                anchor += rows[row].labels(1)[0]
        self._open: dict[int, dict[str, Tensor]] = {}

    @property
    def blocks(self) -> int:
        """How many blocks there are, on disk or not."""
        return len(self._blocks)

    @property
    def complete(self) -> bool:
        """Whether all states are on disk, so that the teacher is wanted no more."""
        return len(self._open) == len(self._blocks)

    def fit(self, room: int) -> int:
        """Keep as many blocks as go into so many bytes; returns the bytes that are left."""
        self.kept = sum(end <= room for end in accumulate(self._bytes))
        return room - sum(self._bytes[: self.kept])

    def present(self) -> int:
        """Bytes that are on disk already."""
        return sum(file.stat().st_size for file in self._folder.glob("block-*.safetensors"))

    def missing(self, blocks: slice = slice(None)) -> list[int]:
        """Of these kept blocks, the ones that are absent or damaged; opens the others."""
        wanted = range(self.kept)[blocks]
        for block in wanted:
            found = read_tensors(self._file(block))
            if found and self._whole(block, found[0]):
                self._open[block] = found[0]
        return [block for block in wanted if block not in self._open]

    def make(self, blocks: Sequence[int], before_each: Callable[[int], None]) -> None:
        """Let the teacher make these blocks; `before_each` gets the tokens done so far (and may raise to stop)."""
        done = 0
        for block in blocks:
            before_each(done)
            rows = [self.rows[row] for row in self._blocks[block]]
            found = self._ask(rows)
            tensors = {name: torch.cat([getattr(states, name) for states in found]) for name in NAMES}
            write_tensors(self._file(block), tensors, {})
            self._load(block)
            done += sum(row.length for row in rows)

    def load(self) -> None:
        """Open what other processes of this node made just now; what one of them lost is made with its packs."""
        for block in range(self.kept):
            if block not in self._open:
                self._load(block)

    def pack(self, members: Sequence[int], device: torch.device) -> Pack:
        """Assemble a pack of these rows, asking the teacher for what is not kept."""
        rows, parts = [self.rows[member] for member in members], self._states(members)
        segments, anchors, ends = [], [], []
        n0 = a0 = 0
        for row in rows:
            for start, stop in row.anchors:
                a1 = a0 + stop - start
                segments.append(Segment(a0, a1, n0, n0 + stop))
                anchors.append(torch.arange(n0 + start, n0 + stop))
                ends.append(torch.full((a1 - a0,), a1))
                a0 = a1
            n0 += row.length
        anchor_A, (mask_A, words_MW) = torch.cat(anchors), self._masks(rows)
        pack = Pack(
            next_N=torch.cat([torch.tensor(row.ids[1 : row.length + 1]) for row in rows]),
            position_N=torch.cat([torch.arange(row.length) for row in rows]),
            aux_NCH=_joined([part.aux_nCH for part in parts], device),
            anchor_A=anchor_A,
            segments=tuple(segments),
            served_A=torch.cat([torch.tensor(row.ids[2 : row.length + 2]) for row in rows])[anchor_A],
            end_A=torch.cat(ends),
            unknown_A=torch.cat([torch.full((len(p.lse_a),), r.unknown) for r, p in zip(rows, parts, strict=True)]),
            mask_A=mask_A,
            words_MW=words_MW,
            temperature_A=torch.cat(
                [torch.full((len(p.lse_a),), r.temperature or 1.0) for r, p in zip(rows, parts, strict=True)]
            ),
            last_AH=_joined([part.last_aH for part in parts], device),
            lse_A=torch.cat([part.lse_a for part in parts]),
            argmax_A=torch.cat([part.argmax_a for part in parts]),
            peak_A=torch.cat([part.peak_a for part in parts]),
        )
        return pack.to(device)

    def _states(self, members: Sequence[int]) -> list[RowStates]:
        """States of rows: from disk, or from the teacher, in groups that depend on nothing but the rows."""
        found = {row: self._kept(row) for row in members if self._place[row][0] in self._open}
        for group in _blocks([row for row in members if row not in found], self.rows):
            found |= zip(group, self._ask([self.rows[row] for row in group]), strict=True)
        return [found[row] for row in members]

    def _kept(self, row: int) -> RowStates:
        block, token, anchor = self._place[row]
        tokens = slice(token, token + self.rows[row].length)
        anchors = slice(anchor, anchor + self.rows[row].labels(1)[0])
        tensors = self._open[block]
        return RowStates(*(tensors[name][tokens if name == "aux_nCH" else anchors] for name in NAMES))

    def _ask(self, rows: Sequence[Row]) -> list[RowStates]:
        with self._turn:
            found = self._source.states(rows)
        for states in found:
            if not all(bool(torch.isfinite(getattr(states, name)).all()) for name in NAMES):
                raise UserError(
                    reasons.TARGET_NOT_FINITE,
                    "Hidden states of the target itself are not finite: see whether it answers when it serves alone; "
                    "if it does, set hyperparameters.computeDtype to Float32, else mend its weights.",
                )
        return found

    def _load(self, block: int) -> None:
        found = read_tensors(self._file(block), check=False)
        if found and self._whole(block, found[0]):
            self._open[block] = found[0]

    def _whole(self, block: int, tensors: dict[str, Tensor]) -> bool:
        tokens = sum(self.rows[row].length for row in self._blocks[block])
        return set(tensors) == set(NAMES) and len(tensors["aux_nCH"]) == tokens

    def _file(self, block: int) -> Path:
        return self._folder / f"block-{block:06d}.safetensors"


def _joined(parts: list[Tensor], device: torch.device) -> Tensor:
    """Lay states end to end; on their way to a GPU in pinned memory, which is used again and so touched only once."""
    if device.type != "cuda":
        return torch.cat(parts)
    shape = (sum(len(part) for part in parts), *parts[0].shape[1:])
    return torch.cat(parts, out=torch.empty(shape, dtype=parts[0].dtype, pin_memory=True))


def _blocks(members: Sequence[int], rows: Sequence[Row]) -> Iterator[list[int]]:
    """Order rows by length and cut them so that a padded block has at most `BLOCK_TOKENS` tokens."""
    block: list[int] = []
    for row in sorted(members, key=lambda index: (rows[index].length, index)):
        if block and (len(block) + 1) * (rows[row].length + 1) > BLOCK_TOKENS:
            yield block
            block = []
        block.append(row)
    if block:
        yield block
