"""The losses, with gradients derived by hand, fused with the drafter's head.

At draft step k, for an anchor with the target's distribution p and the draft's q = softmax(z) over draft tokens:

    CE        -log q(x)                     x: the token that was served; no loss where it cannot be drafted
    KL        KL(p~ || q)                   p~: p renormalised inside the draft vocabulary
    LKHybrid  lambda KL + (1 - lambda) TV   TV = 1 - alpha, alpha = sum_v min(p(v), q(v)), p over all tokens;
                                            lambda = exp(-eta alpha), alpha from the previous optimiser step, one per k

Gradients by z: CE q - 1[x];  KL q - p~;  TV q sum(m) - m with m = q 1[q < p].

`head_loss` walks blocks of anchors: logits, losses and all gradients of a block are made in the forward pass, so no
tensor of anchors x vocabulary outlives a block, and the target's probabilities are made once for all K steps: the row
of anchor a at step k is the row of anchor a + k at step 0. Every loss is a sum, and the weights divide it by the global
count of labels of the optimiser step; there is no mean of means.

Numerics: products are made in `compute` (bfloat16 or float32), softmax and sums in float32 or wider always. p is
exp(z - logsumexp) with the full-vocabulary log-sum-exp that the teacher stored.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from specop.trainer.config import LossWeights

BLOCK_ELEMENTS = 1 << 22
"""Steps x anchors x draft vocabulary of one block: bounds the memory, whatever the pack and the vocabulary."""


@dataclass(frozen=True, slots=True)
class Labels:
    """What the anchors of a pack are taught: A anchors, H hidden, D draft vocabulary."""

    last_AH: Tensor
    """The target's final state that predicts the label of step 0."""
    lse_A: Tensor
    """Its full-vocabulary log-sum-exp."""
    served_A: Tensor
    """Draft id of the served token of step 0; -1 outside the draft vocabulary."""
    end_A: Tensor
    """End of the anchor's segment: draft step k has a label where a + k < end."""

    def valid_KA(self, steps: int) -> Tensor:
        """Which anchors have a label at which draft step."""
        position_A = torch.arange(len(self.end_A), device=self.end_A.device)
        return position_A + torch.arange(steps, device=self.end_A.device)[:, None] < self.end_A


@dataclass(frozen=True, slots=True)
class StepWeights:
    """Weights of the gradients of one optimiser step, per draft step, divided by that step's count of labels."""

    kl_K: Sequence[float]
    tv_K: Sequence[float]
    ce_K: Sequence[float]


def step_weights(
    loss: LossWeights, decay: float, count_K: Sequence[int], alpha_K: Sequence[float] | None
) -> StepWeights:
    """Turn the recipe's weights into those of one optimiser step.

    `count_K`: labels of each draft step over the whole batch, all ranks. `alpha_K`: mean acceptance at the previous
    optimiser step; None at the first, where lambda is 1.
    """
    scale = [decay**k / max(count, 1) for k, count in enumerate(count_K)]
    lam = [1.0] * len(scale) if alpha_K is None else [math.exp(-loss.lk_eta * alpha) for alpha in alpha_K]
    return StepWeights(
        kl_K=[s * (loss.kl + loss.lk_hybrid * x) for s, x in zip(scale, lam, strict=True)],
        tv_K=[s * loss.lk_hybrid * (1 - x) for s, x in zip(scale, lam, strict=True)],
        ce_K=[s * loss.ce for s in scale],
    )


def head_loss(
    hidden_KAH: Tensor,
    head_DH: Tensor,
    labels: Labels,
    *,
    teacher: Callable[[Tensor], Tensor],
    weights: StepWeights,
    compute: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Return the weighted loss, a scalar, and per draft step the sum of alpha over its labels (no gradient).

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
        weights: StepWeights,
        compute: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        steps, anchors, hidden = hidden_KAH.shape
        wide = torch.promote_types(compute, torch.float32)
        computed_DH = head_DH.to(compute)
        grad_KAH, grad_DH = torch.empty_like(hidden_KAH), torch.zeros_like(head_DH, dtype=wide)
        loss, alpha_K = grad_DH.new_zeros(()), grad_DH.new_zeros(steps)
        valid_KA = labels.valid_KA(steps)
        size = max(1, BLOCK_ELEMENTS // (steps * len(head_DH)))
        for a0 in range(0, anchors, size):
            a1 = min(a0 + size, anchors)
            row_R = torch.arange(a0, a1 + steps - 1, device=head_DH.device).clamp_(max=anchors - 1)
            p_RD = (teacher(labels.last_AH[row_R]).to(wide) - labels.lse_A[row_R, None]).exp_()
            hidden_EH = hidden_KAH[:, a0:a1].to(compute).reshape(-1, hidden)
            logits_KCD = (hidden_EH @ computed_DH.T).view(steps, a1 - a0, -1)
            grad_KCD = torch.empty_like(logits_KCD)
            for k in range(steps):
                value, alpha_C, grad_CD = _losses(
                    logits_KCD[k].to(wide),
                    p_RD[k : k + a1 - a0],
                    labels.served_A[row_R[k : k + a1 - a0]],
                    valid_KA[k, a0:a1].to(wide),
                    (weights.kl_K[k], weights.tv_K[k], weights.ce_K[k]),
                )
                loss += value
                alpha_K[k] += alpha_C.sum()
                grad_KCD[k] = grad_CD
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


def _losses(
    logits_CD: Tensor, p_CD: Tensor, served_C: Tensor, valid_C: Tensor, weights: tuple[float, float, float]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (weighted sum of losses, alpha C, gradient by the logits CD) of one block at one draft step."""
    kl, tv, ce = weights
    known_C = (served_C >= 0).to(valid_C.dtype) * ce
    lse_C = logits_CD.logsumexp(-1)
    mass_C = p_CD.sum(-1).clamp_min(torch.finfo(p_CD.dtype).tiny)
    q_CD = (logits_CD - lse_C[:, None]).exp_()
    label_C1 = served_C.clamp_min(0)[:, None]
    cross_entropy_C = lse_C - logits_CD.gather(1, label_C1).squeeze(1)
    kl_C = (
        lse_C + (torch.special.xlogy(p_CD, p_CD).sum(-1) - torch.linalg.vecdot(p_CD, logits_CD)) / mass_C - mass_C.log()
    )
    alpha_C = torch.minimum(p_CD, q_CD).sum(-1)
    value = (valid_C * (kl * kl_C + tv * (1 - alpha_C) + known_C * cross_entropy_C)).sum()
    if tv:
        below_CD = torch.where(q_CD < p_CD, q_CD, 0)
        pull_C = kl + known_C + tv * below_CD.sum(-1)
        grad_CD = (q_CD * pull_C[:, None]).addcmul_(p_CD, (kl / mass_C)[:, None], value=-1).sub_(below_CD, alpha=tv)
    else:
        grad_CD = q_CD.mul_((kl + known_C)[:, None]).addcmul_(p_CD, (kl / mass_C)[:, None], value=-1)
    grad_CD.scatter_add_(1, label_C1, -known_C[:, None])
    return value, alpha_C * valid_C, grad_CD.mul_(valid_C[:, None])
