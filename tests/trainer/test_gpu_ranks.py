"""What only a GPU shows of training on several: FSDP2 over NCCL, and packs that come from another stream.

One GPU is one rank, so this is the smallest group; that sums over ranks are right is shown on CPUs (`test_ranks.py`).
Runs by itself on a machine with little more than torch, as `test_gpu.py` does.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from specop.trainer.batches import Row
from specop.trainer.feed import feed
from specop.trainer.group import Group
from specop.trainer.losses import StepWeights
from specop.trainer.objective import Objective
from specop.trainer.replicas import Replicas, Shards, copies
from specop.trainer.states import NAMES, RowStates, Sizes, States
from tests.trainer.test_gpu import DOCUMENTS, SMALL, STEPS, apart, make_model, make_pack

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")]

CUDA = torch.device("cuda", 0)


@pytest.fixture
def _nccl() -> Iterator[None]:
    dist.init_process_group("cpu:gloo,cuda:nccl", store=dist.HashStore(), rank=0, world_size=1, device_id=CUDA)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("_nccl")
def test_what_is_cut_by_fsdp2_gets_the_gradients_of_what_is_whole() -> None:
    pack, found = make_pack(SMALL, DOCUMENTS), []
    weights = [StepWeights(kl=0.001, ce=0.001)] * STEPS
    for kind in (Replicas, Shards):
        model = make_model(SMALL)
        head_DH = model.lm_head.weight.detach().clone()
        objective = Objective(
            model,
            vocabulary_D=torch.arange(SMALL.draft_vocab_size),
            teacher=lambda last_CH, head_DH=head_DH: last_CH.float() @ head_DH.T,
            steps=STEPS,
            compute=torch.bfloat16,
        )
        replicas = kind(objective, Group())
        optimiser = torch.optim.AdamW(model.parameters(), fused=True)
        for _ in range(2):
            replicas.begin()
            losses = [replicas.add(pack, weights)[0] for _ in range(2)]
            replicas.reduce()
            optimiser.step()
        with replicas.whole():
            hidden_AH = next(iter(model.unroll(pack, 1)))
        gradients = copies({name: p.grad for name, p in model.named_parameters()}, keep=True)  # type: ignore[misc]
        found.append((losses[-1].cpu(), hidden_AH.detach().cpu(), gradients, copies(model.state_dict(), keep=True)))
    (loss, hidden, gradients, after), (their_loss, their_hidden, their_gradients, theirs) = found
    assert apart(their_loss, loss) < 1e-3
    assert apart(their_hidden, hidden) < 1e-2
    assert max(apart(their_gradients[name], gradients[name]) for name in gradients) < 2e-2
    assert max(apart(theirs[name], after[name]) for name in after) < 1e-2


class Numbered:
    """A source whose states say which row they are of; it takes its time on the GPU."""

    def states(self, rows: Sequence[Row]) -> list[RowStates]:
        busy = torch.randn(2048, 2048, device=CUDA)
        for _ in range(20):
            busy = (busy @ busy).clamp_(-1, 1)
        found = []
        for row in rows:
            value, a = float(row.key) + busy.sum() * 0, row.labels(1)[0]
            full: list[Tensor] = [torch.ones(row.length, 3, 64, device=CUDA), torch.ones(a, 64, device=CUDA)]
            scalars = (torch.ones(a) for _ in NAMES[2:])
            found.append(RowStates(*((x * value).bfloat16().cpu() for x in full), *scalars))
        return found


def test_packs_of_another_stream_are_whole_when_they_are_used(tmp_path: Path) -> None:
    rows = [Row(str(i), tuple(range(200)), ((2, 200),), constrained=False, temperature=0.0) for i in range(40)]
    states = States(tmp_path, rows, Numbered(), Sizes(hidden=64, captured=3))
    states.fit(sum(Sizes(64, 3).of(row) for row in rows[:20]))
    states.make(states.missing(), lambda _: None)
    sums = []
    with closing(feed(states, [[row] for row in range(40)], CUDA)) as packs:
        for pack in packs:
            assert pack.aux_NCH.device == CUDA
            busy = torch.randn(4096, 4096, device=CUDA)
            sums.append((busy @ busy).sum() * 0 + pack.aux_NCH.float().mean())
            del pack
    assert torch.stack(sums).round().tolist() == [float(row) for row in range(40)]
