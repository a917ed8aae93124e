"""The losses and their hand-derived gradients against autograd of the formulas as written, in float64."""

import math
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from specop.api.hyperparameters import LossName, LossTerm
from specop.trainer import losses
from specop.trainer.config import TERMS, LossWeights
from specop.trainer.losses import Labels, StepWeights, head_loss, step_weights

STEPS, ANCHORS, HIDDEN, DRAFT, VOCAB = 3, 9, 6, 7, 11
END_A = torch.tensor([4] * 4 + [9] * 5)
COUNT_K = [9, 7, 5]

FORMULAS: dict[str, Callable[[Tensor, Tensor, int, int], Tensor]] = {
    # p over the draft vocabulary but not renormalised, q, served, argmax: as the papers write them
    "kl": lambda p, q, *_: (p / p.sum() * (p / p.sum() / q).log()).sum(),
    "rkl": lambda p, q, *_: (q * (q / (p / p.sum())).log()).sum(),
    "jsd": lambda p, q, *_: (kullback(p / p.sum(), q) + kullback(q, p / p.sum())) / 2,
    "tv": lambda p, q, *_: 1 - torch.minimum(p, q).sum(),
    "lk_alpha": lambda p, q, *_: -torch.minimum(p, q).sum().log(),
    "ce": lambda p, q, served, _: -q[served].log() if served >= 0 else 0 * q.sum(),
    "ce_argmax": lambda p, q, _, argmax: -q[argmax].log() if argmax >= 0 else 0 * q.sum(),
}


def kullback(a: Tensor, b: Tensor) -> Tensor:
    """KL of a to the mean of both."""
    return (a * (2 * a / (a + b)).log()).sum()


class Case:
    """Random states, head, target and labels."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        self.hidden = torch.randn(STEPS, ANCHORS, HIDDEN, dtype=dtype, requires_grad=True)
        self.head = torch.randn(DRAFT, HIDDEN, dtype=dtype, requires_grad=True)
        last, self.target = torch.randn(ANCHORS, HIDDEN).to(dtype), 2 * torch.randn(VOCAB, HIDDEN).to(dtype)
        self.full = last @ self.target.T
        argmax = self.full.argmax(-1)
        argmax[argmax >= DRAFT] = -1
        assert -1 in argmax
        self.labels = Labels(last, self.full.logsumexp(-1), argmax, torch.randint(-1, DRAFT, (ANCHORS,)), END_A)

    def loss(self, weights: list[StepWeights], compute: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
        def teacher(last: Tensor) -> Tensor:
            return last @ self.target[:DRAFT].T

        return head_loss(self.hidden, self.head, self.labels, teacher=teacher, weights=weights, compute=compute)

    def formulas(self, weights: list[StepWeights]) -> Tensor:
        total = self.hidden.new_zeros(())
        for k in range(STEPS):
            for a in range(ANCHORS):
                if a + k >= END_A[a]:
                    continue
                q = (self.head @ self.hidden[k, a]).softmax(-1)
                p = self.full[a + k].softmax(-1)[:DRAFT]
                tokens = int(self.labels.served_A[a + k]), int(self.labels.argmax_A[a + k])
                for name, formula in FORMULAS.items():
                    total = total + getattr(weights[k], name) * formula(p, q, *tokens)
        return total


@pytest.mark.parametrize("block", [1, 1 << 22])
@pytest.mark.parametrize(
    "loss",
    [*({name: 1.0} for name in TERMS.values()), {"kl": 0.3, "ce": 0.7}, dict.fromkeys(TERMS.values(), 0.5)],
    ids=[*TERMS, "CE+KL", "all"],
)
def test_values_and_gradients(loss: dict[str, float], block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "BLOCK_ELEMENTS", block)
    case, weights = Case(), step_weights(LossWeights(**loss), 0.8, COUNT_K, [0.2, 0.5, 0.7])
    value, alpha_K = case.loss(weights)
    expected = case.formulas(weights)
    torch.testing.assert_close(value, expected)
    for mine, autograd in zip(
        torch.autograd.grad(value, [case.hidden, case.head]),
        torch.autograd.grad(expected, [case.hidden, case.head]),
        strict=True,
    ):
        torch.testing.assert_close(mine, autograd)
    for k in range(STEPS):
        q_AD = functional.linear(case.hidden[k].detach(), case.head.detach()).softmax(-1)
        rows = [a for a in range(ANCHORS) if a + k < END_A[a]]
        alpha = sum(float(torch.minimum(case.full[a + k].softmax(-1)[:DRAFT], q_AD[a]).sum()) for a in rows)
        assert float(alpha_K[k]) == pytest.approx(alpha)


def test_every_loss_can_be_named() -> None:
    assert {LossTerm(name=name).name for name in TERMS} == set(LossName.__args__)  # type: ignore[attr-defined]
    assert set(TERMS.values()) == {field.name for field in fields(LossWeights)} - {"lk_eta"}


def gradient(loss: str, p: Tensor, z: Tensor) -> Tensor:
    """Gradient by the logits of one draft of one loss; p may be less than all mass."""
    head = torch.eye(len(z), dtype=z.dtype)
    inside = Labels(p.log()[None], z.new_zeros(1), p.argmax()[None], torch.tensor([0]), torch.tensor([1]))
    hidden = z[None, None].clone().requires_grad_()
    value, _ = head_loss(
        hidden, head, inside, teacher=lambda x: x, weights=[StepWeights(**{loss: 1.0})], compute=z.dtype
    )
    (found,) = torch.autograd.grad(value, hidden)
    return found[0, 0]


def test_gradients_are_those_derived_by_hand() -> None:
    """Against the closed forms of arXiv 2602.23881, appendix A, and their kin; p here lacks a fifth of its mass."""
    z, p = torch.randn(DRAFT).double(), 0.8 * torch.randn(DRAFT).double().softmax(-1)
    q, inside = z.softmax(-1), p / p.sum()
    alpha = torch.minimum(p, q).sum()
    sign = (q - p).sign()
    variation = q * (sign - (q * sign).sum()) / 2
    middle = (inside + q) / 2
    reverse, symmetric = (q / inside).log(), (q / middle).log() / 2
    one_hot = functional.one_hot(p.argmax(), DRAFT)
    served = functional.one_hot(torch.tensor(0), DRAFT)
    for loss, expected in {
        "kl": q - inside,
        "tv": variation,
        "lk_alpha": variation / alpha,
        "rkl": q * (reverse - (q * reverse).sum()),
        "jsd": q * (symmetric - (q * symmetric).sum()),
        "ce": q - served,
        "ce_argmax": q - one_hot,
    }.items():
        torch.testing.assert_close(gradient(loss, p, z), expected, msg=loss)


def test_the_gradient_of_lk_alpha_does_not_vanish_where_that_of_tv_does() -> None:
    """Drafts that spread over many tokens: norms of O(1 / sqrt k) against O(sqrt k / V)."""
    size, few = 4096, 4
    z, p = torch.zeros(size).double(), torch.zeros(size).double()
    p[:few] = 1 / few
    tv, lk, kl = (float(gradient(loss, p.clamp_min(1e-300), z).norm()) for loss in ("tv", "lk_alpha", "kl"))
    assert tv < 2 * math.sqrt(few) / size
    assert lk == pytest.approx(kl, rel=0.01) == pytest.approx(1 / math.sqrt(few), rel=0.01)


@pytest.mark.parametrize("loss", ["kl", "rkl", "jsd"])
def test_divergences_end_at_zero_where_the_drafter_is_all_it_can_be(loss: str) -> None:
    """Against p~, not p: mass outside the draft vocabulary is no fault of the drafter."""
    z = torch.randn(DRAFT).double()
    p = 0.6 * z.softmax(-1)
    torch.testing.assert_close(gradient(loss, p, z), torch.zeros_like(z), atol=1e-12, rtol=0)


def test_nothing_overflows_where_the_target_gives_nothing() -> None:
    p = torch.zeros(DRAFT)
    p[0] = 1.0
    for loss in FORMULAS:
        assert torch.isfinite(gradient(loss, p, 60 * torch.randn(DRAFT))).all(), loss


def test_lambda_follows_the_acceptance_of_the_step_before() -> None:
    loss = LossWeights(lk_hybrid=1.0, lk_eta=3.0)
    first, later = step_weights(loss, 0.5, [2, 4], None), step_weights(loss, 0.5, [2, 4], [0.0, 1.0])
    assert [(w.kl, w.tv) for w in first] == [(0.5, 0.0), (0.125, 0.0)]
    assert [w.kl for w in later] == pytest.approx([0.5, 0.125 * math.exp(-3)])
    assert [w.tv for w in later] == pytest.approx([0.0, 0.125 * (1 - math.exp(-3))])


def peak_bytes(anchors: int, draft: int, weights: list[StepWeights]) -> int:
    """Most memory that forward and backward hold at once beyond what they are given, as the allocator counts it."""
    hidden = torch.randn(STEPS, anchors, HIDDEN, requires_grad=True)
    head = torch.randn(draft, HIDDEN, requires_grad=True)
    last, served = torch.randn(anchors, HIDDEN), torch.zeros(anchors, dtype=torch.long)
    labels = Labels(last, torch.full((anchors,), 9.0), served, served, torch.full((anchors,), anchors))
    rows = torch.randn(draft, HIDDEN)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        value, _ = head_loss(
            hidden, head, labels, teacher=lambda x: x @ rows.T, weights=weights, compute=torch.bfloat16
        )
        value.backward()  # type: ignore[no-untyped-call]
    events: Any = found.profiler.kineto_results.events()
    now = most = 0
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


def test_memory_does_not_grow_with_anchors_times_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "BLOCK_ELEMENTS", 1 << 15)
    block = 4 * losses.BLOCK_ELEMENTS
    weights = step_weights(LossWeights(kl=1, lk_alpha=1, rkl=1, jsd=1, ce=1), 0.8, [1] * STEPS, None)
    anchors, draft = 256, 2048
    # gradients of states and head, and twice that for what they are made of; all the rest lies within a few blocks
    linear = 4 * (STEPS * anchors * HIDDEN + draft * HIDDEN) * 3
    assert peak_bytes(anchors, draft, weights) < linear + 8 * block < 4 * STEPS * anchors * draft / 4


def test_weights_are_sums_over_the_global_count() -> None:
    """Halves of a batch, each with the weights of the whole, add up to the whole, whatever their sizes."""
    case = Case()
    weights = step_weights(LossWeights(kl=0.5, lk_alpha=0.5), 0.8, COUNT_K, None)
    whole, _ = case.loss(weights)
    hidden, labels = case.hidden, case.labels
    total = torch.zeros_like(whole)
    for a0, a1 in ((0, 4), (4, 9)):
        part = {name: getattr(labels, name)[a0:a1] for name in ("last_AH", "lse_A", "argmax_A", "served_A")}
        case.labels, case.hidden = Labels(**part, end_A=END_A[a0:a1] - a0), hidden[:, a0:a1]
        total += case.loss(weights)[0]
    torch.testing.assert_close(total, whole)
