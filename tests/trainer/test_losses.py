"""The losses and their hand-derived gradients against autograd of the formulas as written, in float64."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from specop.trainer import losses
from specop.trainer.config import LossWeights
from specop.trainer.losses import Labels, StepWeights, head_loss, step_weights

STEPS, ANCHORS, HIDDEN, DRAFT, VOCAB = 3, 9, 6, 7, 11
END_A = torch.tensor([4] * 4 + [9] * 5)
COUNT_K = [9, 7, 5]


def formulas(hidden_KAH: Tensor, head_DH: Tensor, labels: Labels, full_AV: Tensor, weights: StepWeights) -> Tensor:
    total = hidden_KAH.new_zeros(())
    for k in range(STEPS):
        for a in range(ANCHORS):
            if a + k >= END_A[a]:
                continue
            q = (head_DH @ hidden_KAH[k, a]).softmax(-1)
            p = full_AV[a + k].softmax(-1)[:DRAFT]
            inside = p / p.sum()
            served = int(labels.served_A[a + k])
            total = total + weights.kl_K[k] * (inside * (inside / q).log()).sum()
            total = total + weights.tv_K[k] * (1 - torch.minimum(p, q).sum())
            if served >= 0:
                total = total - weights.ce_K[k] * q[served].log()
    return total


@pytest.mark.parametrize("block", [1, 1 << 22])
@pytest.mark.parametrize(
    "loss",
    [
        LossWeights(kl=1.0),
        LossWeights(ce=1.0),
        LossWeights(lk_hybrid=1.0),
        LossWeights(kl=0.3, ce=0.7),
        LossWeights(kl=0.2, lk_hybrid=0.5, ce=0.3),
    ],
    ids=["KL", "CE", "LKHybrid", "CE+KL", "all"],
)
def test_values_and_gradients(loss: LossWeights, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "BLOCK_ELEMENTS", block)
    hidden = torch.randn(STEPS, ANCHORS, HIDDEN, dtype=torch.float64, requires_grad=True)
    head = torch.randn(DRAFT, HIDDEN, dtype=torch.float64, requires_grad=True)
    last, target = torch.randn(ANCHORS, HIDDEN).double(), 2 * torch.randn(VOCAB, HIDDEN).double()
    full = last @ target.T
    served = torch.randint(-1, DRAFT, (ANCHORS,))
    labels = Labels(last, full.logsumexp(-1), served, END_A)
    weights = step_weights(loss, 0.8, COUNT_K, [0.2, 0.5, 0.7])

    value, alpha_K = head_loss(
        hidden, head, labels, teacher=lambda x: x @ target[:DRAFT].T, weights=weights, compute=torch.float64
    )
    expected = formulas(hidden, head, labels, full, weights)
    torch.testing.assert_close(value, expected)
    for mine, autograd in zip(
        torch.autograd.grad(value, [hidden, head]), torch.autograd.grad(expected, [hidden, head]), strict=True
    ):
        torch.testing.assert_close(mine, autograd)
    for k in range(STEPS):
        q_AD = functional.linear(hidden[k].detach(), head.detach()).softmax(-1)
        rows = [a for a in range(ANCHORS) if a + k < END_A[a]]
        alpha = sum(float(torch.minimum(full[a + k].softmax(-1)[:DRAFT], q_AD[a]).sum()) for a in rows)
        assert float(alpha_K[k]) == pytest.approx(alpha)


def test_lambda_follows_the_acceptance_of_the_step_before() -> None:
    loss = LossWeights(lk_hybrid=1.0, lk_eta=3.0)
    first, later = step_weights(loss, 0.5, [2, 4], None), step_weights(loss, 0.5, [2, 4], [0.0, 1.0])
    assert (first.kl_K, first.tv_K) == ([0.5, 0.125], [0.0, 0.0])
    assert later.kl_K == pytest.approx([0.5, 0.125 * math.exp(-3)])
    assert later.tv_K == pytest.approx([0.0, 0.125 * (1 - math.exp(-3))])
