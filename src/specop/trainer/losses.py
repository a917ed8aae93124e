"""The losses, with gradients derived by hand, fused with the drafter's head.

At draft step k, for an anchor with the target's distribution p over all tokens and the draft's q = softmax(z) over the
draft vocabulary; p~ is p renormalised inside the draft vocabulary, alpha = sum_v min(p(v), q(v)) the acceptance rate:

    CE        -log q(x)             x: the token that was served; no loss where it cannot be drafted
    CEArgmax  -log q(y)             y: the target's most likely token of all; likewise
    KL        KL(p~ || q)
    RKL       KL(q || p~)
    JSD       Jensen-Shannon divergence of p~ and q
    TV        1 - alpha             half the L1 distance where p has no mass outside
    LKAlpha   -log alpha            at each position, as the likelihood of being accepted; not the log of a mean
    LKHybrid  lambda KL + (1 - lambda) TV, lambda = exp(-eta alpha), alpha from the previous optimiser step, one per k

The LK losses are those of arXiv 2602.23881, §4: alpha takes p as it is, because mass outside the draft vocabulary is
never accepted, and KL takes p~. So do RKL and JSD: against p they would end above zero by the mass outside (RKL by a
constant, JSD with weaker gradients where that mass is large), which no draft can mend.

Gradients. All of them depend on z through q alone, so with r = -q dL/dq the gradient by z is q sum(r) - r:

    CE 1[x]    KL p~    TV q 1[q < p]    LKAlpha q 1[q < p] / alpha    RKL q log(p~ / q)    JSD q log(m / q) / 2

with m = (p~ + q) / 2; sum(r) is 1 for CE and KL, and a constant in dL/dq drops out.

Under a grammar p is the target's distribution over the tokens that the grammar allows. Where it is not known which, or
the recipe has it so, the served token alone teaches: CE with the weight of all losses together.

`head_loss` walks blocks of anchors: logits, losses and all gradients of a block are made in the forward pass, so no
tensor of anchors x vocabulary outlives a block, and the target's probabilities are made once for all K steps: the row
of anchor a at step k is the row of anchor a + k at step 0. Every loss is a sum, and the weights divide it by the global
count of labels of the optimiser step; there is no mean of means.

Numerics: products are made in `compute` (bfloat16 or float32), softmax and sums in float32 or wider always. p is
exp(z - logsumexp) with the full-vocabulary log-sum-exp that the teacher stored. RKL and JSD take no logarithm of less
than the smallest normal number, so they stay finite where the target gives a token nothing at all.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from specop.trainer.batches import Masks
from specop.trainer.config import LossWeights
from specop.trainer.exponentials import exp_, softmax_
from specop.trainer.fusion import fused

BLOCK_ELEMENTS = 1 << 22
"""Steps x anchors x draft vocabulary of one block: bounds the memory, whatever the pack and the vocabulary."""
GPU_BLOCK_ELEMENTS = 1 << 28
"""The same on a GPU, which needs larger products: about 1.5 GB in bfloat16."""


@dataclass(frozen=True, slots=True)
class Labels:
    """What the anchors of a pack are taught: A anchors, H hidden, D draft vocabulary."""

    last_AH: Tensor
    """The target's final state that predicts the label of step 0."""
    lse_A: Tensor
    """Its full-vocabulary log-sum-exp."""
    argmax_A: Tensor
    """Draft id of its most likely token; -1 outside the draft vocabulary."""
    served_A: Tensor
    """Draft id of the served token of step 0; -1 outside the draft vocabulary."""
    end_A: Tensor
    """End of the anchor's segment: draft step k has a label where a + k < end."""
    unknown_A: Tensor | None = None
    """Where True, only the served token teaches, with the weight of all losses: the distribution is not known."""
    masks: Masks | None = None
    """What the distribution is restricted to, on the draft vocabulary; `lse_A` and `argmax_A` are of that."""

    def valid_KA(self, steps: int) -> Tensor:
        """Which anchors have a label at which draft step."""
        position_A = torch.arange(len(self.end_A), device=self.end_A.device)
        return position_A + torch.arange(steps, device=self.end_A.device)[:, None] < self.end_A


@dataclass(frozen=True, slots=True)
class StepWeights:
    """Factors of the losses at one draft step of one optimiser step, divided by its global count of labels."""

    kl: float = 0.0
    rkl: float = 0.0
    jsd: float = 0.0
    tv: float = 0.0
    lk_alpha: float = 0.0
    ce: float = 0.0
    ce_argmax: float = 0.0
    served: float = 0.0
    """Of CE where the served token alone teaches."""


def step_weights(
    loss: LossWeights, decay: float, count_K: Sequence[int], alpha_K: Sequence[float] | None
) -> list[StepWeights]:
    """Turn the recipe's weights into those of one optimiser step, one entry a draft step.

    `count_K`: labels of each draft step over the whole batch, all ranks. `alpha_K`: mean acceptance at the previous
    optimiser step; None at the first, where lambda is 1.
    """
    found = []
    for k, count in enumerate(count_K):
        scale = decay**k / max(count, 1)
        lam = 1.0 if alpha_K is None else math.exp(-loss.lk_eta * alpha_K[k])
        found.append(
            StepWeights(
                kl=scale * (loss.kl + loss.lk_hybrid * lam),
                rkl=scale * loss.rkl,
                jsd=scale * loss.jsd,
                tv=scale * (loss.tv + loss.lk_hybrid * (1 - lam)),
                lk_alpha=scale * loss.lk_alpha,
                ce=scale * loss.ce,
                ce_argmax=scale * loss.ce_argmax,
                served=scale * loss.total,
            )
        )
    return found


def head_loss(
    hidden_KAH: Tensor,
    head_DH: Tensor,
    labels: Labels,
    *,
    teacher: Callable[[Tensor], Tensor],
    weights: Sequence[StepWeights],
    compute: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Return the weighted loss, a scalar, and per draft step the sum of alpha over its labels (no gradient).

    Labels whose distribution is not known have no alpha.

    `teacher` maps the target's final states (C, H) to its logits on the draft vocabulary (C, D).
    """
    return _HeadLoss.apply(hidden_KAH, head_DH, labels, teacher, weights, compute)  # type: ignore[no-any-return, no-untyped-call]


class _HeadLoss(torch.autograd.Function):
    """Head, losses and their gradients, block by block; the backward pass only scales."""

    @staticmethod
    def forward(  # noqa: PLR0917 - torch hands arguments over by position
        ctx: Any,
        hidden_KAH: Tensor,
        head_DH: Tensor,
        labels: Labels,
        teacher: Callable[[Tensor], Tensor],
        weights: Sequence[StepWeights],
        compute: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        steps, anchors, hidden = hidden_KAH.shape
        wide = torch.promote_types(compute, torch.float32)
        computed_DH = head_DH.to(compute)
        grad_KAH, grad_DH = torch.empty_like(hidden_KAH), torch.zeros_like(head_DH, dtype=wide)
        loss, alpha_K = grad_DH.new_zeros(()), grad_DH.new_zeros(steps)
        valid_KA, factors = labels.valid_KA(steps), _factors(weights, grad_DH)
        size = max(1, (GPU_BLOCK_ELEMENTS if head_DH.is_cuda else BLOCK_ELEMENTS) // (steps * len(head_DH)))
        for a0 in range(0, anchors, size):
            a1 = min(a0 + size, anchors)
            row_R = torch.arange(a0, a1 + steps - 1, device=head_DH.device).clamp_(max=anchors - 1)
            logits_RD = teacher(labels.last_AH[row_R])
            allowed_RD = labels.masks.allowed(row_R) if labels.masks else None
            soft_R = None if labels.unknown_A is None else ~labels.unknown_A[row_R]
            p_RD, mass_R, plogp_R = _probabilities(logits_RD, labels.lse_A[row_R], allowed_RD, wide)
            soft_R = torch.ones_like(mass_R) if soft_R is None else soft_R.to(wide)
            taught = _Taught(p_RD, mass_R, plogp_R, labels.argmax_A[row_R], labels.served_A[row_R], soft_R)
            hidden_EH = hidden_KAH[:, a0:a1].to(compute).reshape(-1, hidden)
            logits_KCD = (hidden_EH @ computed_DH.T).view(steps, a1 - a0, -1)
            grad_KCD = torch.empty_like(logits_KCD)
            for k in range(steps):
                part = _Taught(*(x[k : k + a1 - a0] for x in taught))
                value, alpha, grad_KCD[k] = _losses(logits_KCD[k], part, valid_KA[k, a0:a1], factors[k])
                loss += value
                alpha_K[k] += alpha
            grad_ED = grad_KCD.view(-1, len(head_DH))
            grad_KAH[:, a0:a1] = (grad_ED @ computed_DH).view(steps, a1 - a0, hidden)
            grad_DH += grad_ED.T @ hidden_EH
        ctx.save_for_backward(grad_KAH, grad_DH.to(head_DH.dtype))
        ctx.mark_non_differentiable(alpha_K)
        return loss, alpha_K

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        grad_KAH, grad_DH = ctx.saved_tensors
        return grad_KAH * grad_loss, grad_DH * grad_loss, None, None, None, None


class _Taught(NamedTuple):
    """What C consecutive labels teach."""

    p_CD: Tensor
    """The target's probabilities, over all tokens, of the draft vocabulary's."""
    mass_C: Tensor
    """Their sums."""
    plogp_C: Tensor
    """Sums of p log p."""
    argmax_C: Tensor
    served_C: Tensor
    soft_C: Tensor
    """1, or 0 where the served token alone teaches."""


class _Factors(NamedTuple):
    """`StepWeights` as scalars on the device; None where the recipe has no such loss."""

    kl: Tensor | None
    rkl: Tensor | None
    jsd: Tensor | None
    tv: Tensor | None
    lk_alpha: Tensor | None
    ce: Tensor | None
    ce_argmax: Tensor | None
    served: Tensor | None


def _factors(weights: Sequence[StepWeights], like: Tensor) -> list[_Factors]:
    """Bring all factors to the device at once; scalars there do not make a compiled kernel another one."""
    rows = [astuple(step) for step in weights]
    wanted = [any(column) for column in zip(*rows, strict=True)]
    return [
        _Factors(*(x if want else None for x, want in zip(row, wanted, strict=True)))
        for row in torch.tensor(rows, dtype=like.dtype).to(like.device, non_blocking=True)
    ]


@fused
def _probabilities(
    logits_CD: Tensor, lse_C: Tensor, allowed_CD: Tensor | None, wide: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the target's probabilities on the draft vocabulary, their sums, and the sums of p log p."""
    logp_CD = logits_CD.to(wide) - lse_C[:, None]
    p_CD = exp_(logp_CD.clone())
    if allowed_CD is not None:
        p_CD *= allowed_CD
    return p_CD, p_CD.sum(-1).clamp_min(torch.finfo(wide).tiny), torch.linalg.vecdot(p_CD, logp_CD)


@fused
def _losses(narrow_CD: Tensor, taught: _Taught, valid_C: Tensor, w: _Factors) -> tuple[Tensor, Tensor, Tensor]:
    """Return (weighted sum of losses, sum of alpha, gradient by the logits CD) of one block at one draft step."""
    p_CD, mass_C = taught.p_CD, taught.mass_C
    logits_CD = narrow_CD.to(p_CD.dtype)
    q_CD, lse_C = softmax_(logits_CD.clone())
    alpha_C = torch.minimum(p_CD, q_CD).sum(-1)
    value_C, sum_C, r_CD = torch.zeros_like(mass_C), torch.zeros_like(mass_C), None
    inside_C = taught.soft_C * (mass_C > torch.finfo(mass_C.dtype).tiny)  # where none of p can be drafted is no p~
    if w.kl is not None:
        cross_C = lse_C + (taught.plogp_C - torch.linalg.vecdot(p_CD, logits_CD)) / mass_C
        value_C, sum_C = inside_C * w.kl * (cross_C - mass_C.log()), sum_C + inside_C * w.kl
    if w.tv is not None or w.lk_alpha is not None:
        acceptance_C, pull_C = _acceptance(alpha_C, w)
        value_C = value_C + inside_C * acceptance_C
        r_CD = torch.where(q_CD < p_CD, q_CD, 0).mul_((inside_C * pull_C)[:, None])
    if w.rkl is not None or w.jsd is not None:
        divergence_C, more_CD = _divergences(logits_CD - lse_C[:, None], q_CD, p_CD / mass_C[:, None], w)
        value_C = value_C + inside_C * divergence_C
        more_CD.mul_(inside_C[:, None])
        r_CD = more_CD if r_CD is None else r_CD.add_(more_CD)
    if r_CD is not None:
        sum_C = sum_C + r_CD.sum(-1)
    tokens = []
    hard_C = 1 - taught.soft_C
    for token_C, weight, where_C in (
        (taught.served_C, w.ce, taught.soft_C),
        (taught.served_C, w.served, hard_C),
        (taught.argmax_C, w.ce_argmax, taught.soft_C),
    ):
        if weight is not None:
            label_C1, weight_C = token_C.clamp_min(0)[:, None], (token_C >= 0) * where_C * weight
            value_C = value_C + weight_C * (lse_C - logits_CD.gather(1, label_C1).squeeze(1))
            sum_C = sum_C + weight_C
            tokens.append((label_C1, -weight_C[:, None]))
    grad_CD = q_CD.mul_(sum_C[:, None])
    if w.kl is not None:
        grad_CD.addcmul_(p_CD, (inside_C * w.kl / mass_C)[:, None], value=-1)
    if r_CD is not None:
        grad_CD.sub_(r_CD)
    for label_C1, gradient_C1 in tokens:
        grad_CD.scatter_add_(1, label_C1, gradient_C1)
    grad_CD.mul_(valid_C[:, None])
    return (valid_C * value_C).sum(), (valid_C * taught.soft_C * alpha_C).sum(), grad_CD.to(narrow_CD.dtype)


def _acceptance(alpha_C: Tensor, w: _Factors) -> tuple[Tensor, Tensor]:
    """TV and LKAlpha: (weighted losses C, their r where q < p, by q)."""
    value_C, pull_C = torch.zeros_like(alpha_C), torch.zeros_like(alpha_C)
    if w.tv is not None:
        value_C, pull_C = value_C + w.tv * (1 - alpha_C), pull_C + w.tv
    if w.lk_alpha is not None:
        accepted_C = alpha_C.clamp_min(torch.finfo(alpha_C.dtype).tiny)
        value_C, pull_C = value_C - w.lk_alpha * accepted_C.log(), pull_C + w.lk_alpha / accepted_C
    return value_C, pull_C


def _divergences(logq_CD: Tensor, q_CD: Tensor, inside_CD: Tensor, w: _Factors) -> tuple[Tensor, Tensor]:
    """RKL and JSD: (weighted losses C, their r CD). `inside_CD`: p~."""
    tiny = torch.finfo(q_CD.dtype).tiny
    value_C, r_CD = q_CD.new_zeros(len(q_CD)), torch.zeros_like(q_CD)
    if w.rkl is not None:
        ratio_CD = inside_CD.clamp_min(tiny).log() - logq_CD
        value_C = value_C - w.rkl * torch.linalg.vecdot(q_CD, ratio_CD)
        r_CD.addcmul_(q_CD, ratio_CD * w.rkl)
    if w.jsd is not None:
        logm_CD = ((inside_CD + q_CD) / 2).clamp_min(tiny).log()
        towards_CD = logm_CD - logq_CD
        entropies_C = torch.special.xlogy(inside_CD, inside_CD).sum(-1) - torch.linalg.vecdot(inside_CD, logm_CD)
        value_C = value_C + w.jsd / 2 * (entropies_C - torch.linalg.vecdot(q_CD, towards_CD))
        r_CD.addcmul_(q_CD, towards_CD * (w.jsd / 2))
    return value_C, r_CD
