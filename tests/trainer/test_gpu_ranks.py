"""What only a GPU shows of training on several: FSDP2 over NCCL.

One GPU is one rank, so this is the smallest group; that sums over ranks are right is shown on CPUs (`test_ranks.py`).
Runs by itself on a machine with little more than torch, as `test_gpu.py` does.
"""

from collections.abc import Iterator
from functools import partial

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from specop.trainer.group import Group
from specop.trainer.losses import StepWeights
from specop.trainer.objective import Objective
from specop.trainer.replicas import Replicas, Shards, copies
from tests.trainer.test_gpu import DOCUMENTS, SMALL, STEPS, apart, cuda_pack, make_model

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")]

CUDA = torch.device("cuda", 0)


@pytest.fixture
def _nccl() -> Iterator[None]:
    store = dist.HashStore()  # type: ignore[attr-defined]
    dist.init_process_group("cpu:gloo,cuda:nccl", store=store, rank=0, world_size=1, device_id=CUDA)
    yield
    dist.destroy_process_group()


def logits(head_DH: Tensor, last_CH: Tensor) -> Tensor:
    found: Tensor = last_CH.float() @ head_DH.T
    return found


@pytest.mark.usefixtures("_nccl")
def test_what_is_cut_by_fsdp2_gets_the_gradients_of_what_is_whole() -> None:
    pack, found = cuda_pack(SMALL, DOCUMENTS), []
    weights = [StepWeights(kl=0.001, ce=0.001)] * STEPS
    for kind in (Replicas, Shards):
        model = make_model(SMALL)
        head_DH = model.lm_head.weight.detach().clone()
        objective = Objective(
            model,
            vocabulary_D=torch.arange(SMALL.draft_vocab_size),
            teacher=partial(logits, head_DH),
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
