"""What only a GPU shows of the feed: packs that come from another stream, out of pinned memory, ahead of their use.

Runs by itself on a machine with little more than torch, as `test_gpu.py` does.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from torch import Tensor

from specop.trainer.batches import Pack, Row
from specop.trainer.feed import feed
from specop.trainer.states import NAMES, Sizes, States
from specop.trainer.teacher import RowStates

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")]

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
SIZES = Sizes(hidden=1024, captured=3)
TOKENS = 2000
"""Of a row: its captured states weigh 12 MB, so that a copy takes longer than a launch."""
ROWS = [Row(str(i), tuple(range(i, i + TOKENS)), ((2, TOKENS),), constrained=False, temperature=0.0) for i in range(24)]
PACKS = [[2 * i, 2 * i + 1] for i in range(12)] * 2


class Drawn:
    """A source whose states are random and those of the row; it takes its time on the GPU."""

    def states(self, rows: Sequence[Row]) -> list[RowStates]:
        occupy(20)
        return [self._states(row) for row in rows]

    def _states(self, row: Row) -> RowStates:
        a, random = row.labels(1)[0], torch.Generator().manual_seed(int(row.key))
        full = torch.randn(row.length, 3, 1024, generator=random), torch.randn(a, 1024, generator=random)
        on_gpu = [x.bfloat16().to(CUDA) for x in full]
        return RowStates(*(x.cpu() for x in on_gpu), *(torch.rand(a, generator=random) for _ in NAMES[2:]))


@pytest.fixture
def states(tmp_path: Path) -> States:
    """States of which half are kept on disk."""
    found = States(tmp_path, ROWS, Drawn(), SIZES)
    found.fit(sum(map(SIZES.of, ROWS[: len(ROWS) // 2])))
    found.make(found.missing(), lambda _: None)
    assert 0 < found.kept < found.blocks
    return found


def occupy(products: int) -> None:
    """Give the current stream something to do."""
    x = torch.randn(4096, 4096, device=CUDA)
    for _ in range(products):
        x = (x @ x).clamp_(-1, 1)


def tensors(pack: Pack) -> dict[str, Tensor]:
    found = {field.name: getattr(pack, field.name) for field in fields(Pack)}
    return {name: value for name, value in found.items() if isinstance(value, Tensor)}


@contextmanager
def waiting_refused() -> Iterator[None]:
    """Let every operation that would wait for the GPU fail, in all threads."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_packs_that_were_fetched_ahead_are_the_plain_ones(states: States) -> None:
    """The consumer is slow, uses each pack late on its own stream, and drops it at once: nothing may be overwritten."""
    found = []
    with closing(feed(states, PACKS, CUDA)) as packs:
        for pack in packs:
            occupy(5)
            found.append({name: tensor.clone() for name, tensor in tensors(pack).items()})
            del pack
    assert len(found) == len(PACKS)
    for members, got in zip(PACKS, found, strict=True):
        for name, tensor in tensors(states.pack(members, CPU)).items():
            assert got[name].device == CUDA
            assert torch.equal(got[name].cpu(), tensor), (members, name)


def test_what_is_on_disk_is_fetched_without_waiting_for_the_gpu(states: States) -> None:
    kept = [row for row in range(len(ROWS)) if states._place[row][0] < states.kept]
    plan = [[row] for row in kept]
    list(feed(states, plan, CUDA))  # pinned memory is made the first time that it is wanted
    with waiting_refused():
        occupy(50)
        found = list(feed(states, plan, CUDA))
    assert len(found) == len(plan)
