"""The teacher's states on disk: made once, read at random by every epoch.

One file a block of rows, in bfloat16: captured states of every token that the drafter reads, and per anchor the final
state (together 2(3n + a)H bytes for n tokens and a anchors) and 12 bytes of scalars: log-sum-exp, argmax and its
log-probability. The first epoch, too, trains on these rounded states, so that a run does not depend on whether its
cache was there.

The folder's name is a digest over everything that the states depend on. Each file carries a checksum of its tensors;
one that is missing or damaged is made again, never an error. Files appear under their names when they are complete, so
a killed process leaves nothing that could be mistaken for a block.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from specop.api import reasons
from specop.common.errors import UserError
from specop.trainer.attention import Segment
from specop.trainer.batches import Pack, Row
from specop.trainer.teacher import RowStates, Teacher
from specop.trainer.tensors import read_tensors, write_tensors

BLOCK_TOKENS = 4096
"""Tokens that the teacher sees at once."""
SPARE_BYTES = 1 << 30
"""Left free on disk for checkpoints and the export."""


class States:
    """The states of a list of rows, by index."""

    def __init__(self, folder: Path, rows: Sequence[Row]) -> None:
        """`folder` is named after everything that the states depend on; `rows` are the same rows in the same order."""
        self.rows = rows
        self._folder = folder
        self._blocks = list(_blocks(rows))
        self._place: dict[int, tuple[int, int, int]] = {}
        for block, members in enumerate(self._blocks):
            token = anchor = 0
            for row in members:
                self._place[row] = (block, token, anchor)
                token += rows[row].length
                anchor += rows[row].labels(1)[0]
        self._open: dict[int, dict[str, Tensor]] = {}

    def missing(self) -> list[int]:
        """Blocks that are absent or damaged; opens the others."""
        for block in range(len(self._blocks)):
            found = read_tensors(self._file(block))
            if found and len(found[0]["aux"]) == sum(self.rows[row].length for row in self._blocks[block]):
                self._open[block] = found[0]
        return [block for block in range(len(self._blocks)) if block not in self._open]

    def make(self, blocks: Sequence[int], teacher: Teacher, before_each: Callable[[int], None]) -> None:
        """Let the teacher make these blocks; `before_each` gets the tokens done so far (and may raise to stop).

        Raises UserError DiskFull before it starts where they will not fit.
        """
        self._check_disk([row for block in blocks for row in self._blocks[block]], teacher)
        done = 0
        for block in blocks:
            before_each(done)
            found = teacher.states([self.rows[row] for row in self._blocks[block]])
            _write(self._file(block), _joined(found))
            self._open[block] = _require(self._file(block))
            done += sum(self.rows[row].length for row in self._blocks[block])

    def pack(self, members: Sequence[int], device: torch.device) -> Pack:
        """Assemble a pack of these rows."""
        rows, parts = [self.rows[member] for member in members], [self._row(member) for member in members]
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
        anchor_A = torch.cat(anchors)
        pack = Pack(
            next_N=torch.cat([torch.tensor(row.ids[1 : row.length + 1]) for row in rows]),
            position_N=torch.cat([torch.arange(row.length) for row in rows]),
            aux_NCH=torch.cat([part.aux_nCH for part in parts]),
            anchor_A=anchor_A,
            segments=tuple(segments),
            served_A=torch.cat([torch.tensor(row.ids[2 : row.length + 2]) for row in rows])[anchor_A],
            end_A=torch.cat(ends),
            constrained_A=torch.cat(
                [torch.full((len(p.lse_a),), r.constrained) for r, p in zip(rows, parts, strict=True)]
            ),
            temperature_A=torch.cat(
                [torch.full((len(p.lse_a),), r.temperature or 1.0) for r, p in zip(rows, parts, strict=True)]
            ),
            last_AH=torch.cat([part.last_aH for part in parts]),
            lse_A=torch.cat([part.lse_a for part in parts]),
            argmax_A=torch.cat([part.argmax_a for part in parts]),
            peak_A=torch.cat([part.peak_a for part in parts]),
        )
        return pack.to(device)

    def _row(self, row: int) -> RowStates:
        block, token, anchor = self._place[row]
        tensors = self._open[block]
        anchors = slice(anchor, anchor + self.rows[row].labels(1)[0])
        return RowStates(
            tensors["aux"][token : token + self.rows[row].length],
            *(tensors[name][anchors] for name in ("last", "lse", "argmax", "peak")),
        )

    def _check_disk(self, rows: Sequence[int], teacher: Teacher) -> None:
        hidden, captured = teacher.config.hidden_size, len(teacher.layers)
        tokens = sum(self.rows[row].length for row in rows)
        anchors = sum(self.rows[row].labels(1)[0] for row in rows)
        need = 2 * hidden * (captured * tokens + anchors) + 12 * anchors + SPARE_BYTES
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self._folder.parent).free
        if need > free:
            raise UserError(
                reasons.DISK_FULL,
                f"The teacher's states and a checkpoint need {need >> 20} MiB of scratch space, {free >> 20} MiB are "
                "free: give the pods more ephemeral storage, or train on a smaller dataset.",
            )

    def _file(self, block: int) -> Path:
        return self._folder / f"block-{block:06d}.safetensors"


def _blocks(rows: Sequence[Row]) -> Iterator[list[int]]:
    """Order rows by length and cut them so that a padded block has at most `BLOCK_TOKENS` tokens."""
    block: list[int] = []
    for row in sorted(range(len(rows)), key=lambda index: (rows[index].length, index)):
        if block and (len(block) + 1) * (rows[row].length + 1) > BLOCK_TOKENS:
            yield block
            block = []
        block.append(row)
    if block:
        yield block


def _joined(found: Sequence[RowStates]) -> dict[str, Tensor]:
    return {
        "aux": torch.cat([states.aux_nCH for states in found]),
        "last": torch.cat([states.last_aH for states in found]),
        "lse": torch.cat([states.lse_a for states in found]),
        "argmax": torch.cat([states.argmax_a for states in found]),
        "peak": torch.cat([states.peak_a for states in found]),
    }


def _write(file: Path, tensors: dict[str, Tensor]) -> None:
    if not all(bool(torch.isfinite(tensors[name]).all()) for name in ("aux", "last", "lse")):
        raise UserError(reasons.WEIGHTS_INVALID, "The target's own hidden states are not finite: check its weights.")
    write_tensors(file, tensors, {})


def _require(file: Path) -> dict[str, Tensor]:
    found = read_tensors(file)
    if found is None:
        raise OSError(f"{file} cannot be read back after it was written")
    return found[0]
