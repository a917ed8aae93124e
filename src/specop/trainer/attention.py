"""Attention of the unrolled draft steps (training-time test, TTT), exact and without an L x kL matrix.

At draft step k the query of anchor i sees the keys of step 0 at all positions up to i of its document, and, of each
later step 1…k, only the key of its own chain. So a step is causal attention on the keys of step 0 plus k single keys, a
"diagonal" each, and both are merged by log-sum-exp. Only anchors have queries: a position that supervises nothing
contributes keys and values at step 0 and costs nothing more.

Step 0 is made in one of two ways. On CUDA in half precision by the flash kernel for documents of different lengths, in
one launch a pack: anchors' queries are laid among the tokens, those between stay zero and have no gradient. Elsewhere
block by block of `QUERY_BLOCK` queries; memory is one block by one document's keys.

Numerics: scores, softmax and sums are float32 or wider whatever the inputs are. The backward pass recomputes the
probabilities from the merged log-sum-exp; the part that belongs to step 0 then needs no special case, because a
softmax over a union of keys is the same softmax seen piece by piece. The flash kernel adds gradients of queries in an
order that differs from run to run.

Not here: rotary embedding (the caller applies it), dropout (drafters are trained without), sliding windows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from specop.trainer.exponentials import exp_
from specop.trainer.fusion import fused

QUERY_BLOCK = 128
"""Queries that are scored at once; bounds the memory of long documents."""
FLASH_FORWARD = torch.ops.aten._flash_attention_forward  # noqa: SLF001 - no public form has a backward pass that takes
FLASH_BACKWARD = torch.ops.aten._flash_attention_backward  # noqa: SLF001 - another log-sum-exp than its own
KERNEL_SIZES = frozenset({64, 96, 128, 256})
"""Sizes of heads with which the flash kernel is used."""

Inputs = tuple[Tensor, Tensor, Tensor]
"""Queries AHd, keys and values NGd of step 0."""


class Segment(NamedTuple):
    """One generated span inside a pack.

    Anchors `a0…a1` stand on consecutive tokens of one document; its keys begin at token `n0`, and the last anchor
    stands on token `n1 - 1`. An anchor sees the keys up to and with its own token.
    """

    a0: int
    a1: int
    n0: int
    n1: int


@dataclass(frozen=True, slots=True)
class Sight:
    """What the anchors of a pack see, laid out once for all draft steps."""

    segments: Sequence[Segment]
    anchor_A: Tensor
    """The token on which each anchor stands."""
    bound_D: Tensor
    """Where documents begin, in order, and where the last one ends (int32)."""
    longest: int
    """Tokens of the longest document."""

    @classmethod
    def of(cls, segments: Sequence[Segment], anchor_A: Tensor, tokens: int) -> "Sight":
        """Lay out a pack of `tokens` tokens; each document has a segment."""
        bounds = [*sorted({segment.n0 for segment in segments}), tokens]
        longest = max(end - begin for begin, end in pairwise(bounds))
        bound_D = torch.tensor(bounds, dtype=torch.int32).to(anchor_A.device, non_blocking=True)
        return cls(segments, anchor_A, bound_D, longest)


def ttt_attention(
    q_AHd: Tensor, k_NGd: Tensor, v_NGd: Tensor, diagonals: Sequence[tuple[Tensor, Tensor]], sight: Sight
) -> Tensor:
    """Attend from anchors to the tokens of step 0 and to the anchors' own later keys.

    `q_AHd`: queries of A anchors, H heads. `k_NGd`, `v_NGd`: step 0, N tokens, G key-value heads (G divides H).
    `diagonals`: for each later step its (k_AGd, v_AGd). Returns o_AHd in the dtype of `q_AHd`.
    """
    flat = [tensor for pair in diagonals for tensor in pair]
    return _TTTAttention.apply(q_AHd, k_NGd, v_NGd, sight, *flat)  # type: ignore[no-any-return, no-untyped-call]


class _TTTAttention(torch.autograd.Function):
    """Forward merges step 0 and the m diagonals, backward recomputes."""

    @staticmethod
    def forward(ctx: Any, q_AHd: Tensor, k_NGd: Tensor, v_NGd: Tensor, sight: Sight, *later: Tensor) -> Tensor:
        forward = _flash_forward if _has_kernel(q_AHd) else _block_forward
        with torch.autocast(q_AHd.device.type, enabled=False):  # it would round the scores
            out_AHd, lse_AH = forward((q_AHd, k_NGd, v_NGd), sight)
        if later:
            k_mAGd, v_mAGd = torch.stack(later[0::2]), torch.stack(later[1::2])
            out_AHd, lse_AH = _merge(q_AHd, k_mAGd, v_mAGd, out_AHd, lse_AH)
        ctx.sight = sight
        ctx.save_for_backward(q_AHd, k_NGd, v_NGd, out_AHd, lse_AH, *later)
        return out_AHd.to(q_AHd.dtype)

    @staticmethod
    def backward(ctx: Any, grad_AHd: Tensor) -> tuple[Tensor | None, ...]:
        q_AHd, k_NGd, v_NGd, out_AHd, lse_AH, *later = ctx.saved_tensors
        backward = _flash_backward if _has_kernel(q_AHd) else _block_backward
        dq_AHd, dk_NGd, dv_NGd = backward(grad_AHd, (q_AHd, k_NGd, v_NGd), out_AHd, lse_AH, ctx.sight)
        grads: list[Tensor] = []
        if later:
            own = torch.stack(later[0::2]), torch.stack(later[1::2])
            more_AHd, dk_mAGd, dv_mAGd = _merge_backward(grad_AHd, q_AHd, own, out_AHd, lse_AH)
            dq_AHd = dq_AHd + more_AHd
            grads = [grad_AGd for pair in zip(dk_mAGd, dv_mAGd, strict=True) for grad_AGd in pair]
        return dq_AHd.to(q_AHd.dtype), dk_NGd.to(k_NGd.dtype), dv_NGd.to(v_NGd.dtype), None, *grads


def wide(tensor: Tensor) -> Tensor:
    """float64 stays, everything narrower becomes float32."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _grouped(x_AHd: Tensor, groups: int) -> Tensor:
    """Heads by the key-value head that they share: AGRd."""
    return x_AHd.reshape(x_AHd.shape[0], groups, -1, x_AHd.shape[-1])


@fused
def _merge(q_AHd: Tensor, k_mAGd: Tensor, v_mAGd: Tensor, out_AHd: Tensor, lse_AH: Tensor) -> tuple[Tensor, Tensor]:
    """Add the diagonals to what step 0 gave: (out in its dtype, log-sum-exp)."""
    groups = k_mAGd.shape[2]
    q_AGRd, lse_AGR = _grouped(wide(q_AHd), groups), lse_AH.view(len(lse_AH), groups, -1)
    score_mAGR = (q_AGRd * wide(k_mAGd)[:, :, :, None]).sum(-1) * q_AHd.shape[-1] ** -0.5
    merged_AGR = torch.logaddexp(lse_AGR, score_mAGR.logsumexp(0))
    own_AGRd = ((score_mAGR - merged_AGR).exp()[..., None] * wide(v_mAGd)[:, :, :, None]).sum(0)
    out_AGRd = _grouped(wide(out_AHd), groups) * (lse_AGR - merged_AGR).exp()[..., None] + own_AGRd
    return out_AGRd.flatten(1, 2).to(out_AHd.dtype), merged_AGR.flatten(1)


@fused
def _merge_backward(
    grad_AHd: Tensor, q_AHd: Tensor, own: tuple[Tensor, Tensor], out_AHd: Tensor, lse_AH: Tensor
) -> Inputs:
    """Gradients through the diagonals, `own` keys and values mAGd: queries AHd (float32 or wider), keys, values."""
    k_mAGd, v_mAGd = own
    groups, scale = k_mAGd.shape[2], q_AHd.shape[-1] ** -0.5
    q_AGRd, grad_AGRd, out_AGRd = (_grouped(wide(x), groups) for x in (q_AHd, grad_AHd, out_AHd))
    k_mAG1d, v_mAG1d = wide(k_mAGd)[:, :, :, None], wide(v_mAGd)[:, :, :, None]
    probs_mAGR = ((q_AGRd * k_mAG1d).sum(-1) * scale - lse_AH.view(len(lse_AH), groups, -1)).exp()
    delta_AGR = (grad_AGRd * out_AGRd).sum(-1)
    dscore_mAGR1 = (probs_mAGR * ((grad_AGRd * v_mAG1d).sum(-1) - delta_AGR) * scale)[..., None]
    dq_AHd = (dscore_mAGR1 * k_mAG1d).sum(0).flatten(1, 2)
    dk_mAGd, dv_mAGd = (dscore_mAGR1 * q_AGRd).sum(3), (probs_mAGR[..., None] * grad_AGRd).sum(3)
    return dq_AHd, dk_mAGd.to(k_mAGd.dtype), dv_mAGd.to(v_mAGd.dtype)


# Step 0 by the flash kernel.


def _has_kernel(q_AHd: Tensor) -> bool:
    """Whether the flash kernel takes these queries."""
    return q_AHd.is_cuda and q_AHd.dtype in {torch.bfloat16, torch.float16} and q_AHd.shape[-1] in KERNEL_SIZES


def _flash_forward(inputs: Inputs, sight: Sight) -> tuple[Tensor, Tensor]:
    """Return out AHd in half precision, and the log-sum-exp AH."""
    q_AHd, k_NGd, v_NGd = inputs
    q_NHd = _among_tokens(q_AHd, sight, len(k_NGd))
    varied = (sight.bound_D, sight.bound_D, sight.longest, sight.longest)
    out_NHd, lse_HN, *_ = FLASH_FORWARD(q_NHd, k_NGd, v_NGd, *varied, 0.0, True, False)
    return out_NHd[sight.anchor_A], lse_HN.T[sight.anchor_A]


def _flash_backward(grad_AHd: Tensor, inputs: Inputs, out_AHd: Tensor, lse_AH: Tensor, sight: Sight) -> Inputs:
    """Gradients through the keys of step 0. Where no anchor stands all is zero: probability 1, gradient none."""
    q_AHd, k_NGd, v_NGd = inputs
    tokens = len(k_NGd)
    grad_NHd, q_NHd, out_NHd = (_among_tokens(x, sight, tokens) for x in (grad_AHd, q_AHd, out_AHd))
    lse_HN = _among_tokens(lse_AH, sight, tokens).T.contiguous()
    varied = (sight.bound_D, sight.bound_D, sight.longest, sight.longest)
    unused = torch.zeros(2, dtype=torch.uint64, device=q_AHd.device)  # the state of a dropout that there is none of
    given = (grad_NHd, q_NHd, k_NGd, v_NGd, out_NHd, lse_HN)
    dq_NHd, dk_NGd, dv_NGd = FLASH_BACKWARD(*given, *varied, 0.0, True, unused, unused)
    return dq_NHd[sight.anchor_A], dk_NGd, dv_NGd


def _among_tokens(x_A: Tensor, sight: Sight, tokens: int) -> Tensor:
    """Lay anchors' values among the tokens; the others are zero."""
    return x_A.new_zeros(tokens, *x_A.shape[1:]).index_copy_(0, sight.anchor_A, x_A)


# Step 0 block by block. Heads that share keys lie together, GARd: a block of anchors is rows of one product, Q = c R,
# without a copy.


def _block_forward(inputs: Inputs, sight: Sight) -> tuple[Tensor, Tensor]:
    """Return out AHd and the log-sum-exp AH, float32 or wider."""
    q_GARd, k_GNd, v_GNd = _laid_out(inputs)
    out_GARd, lse_GAR = torch.empty_like(q_GARd), q_GARd.new_empty(q_GARd.shape[:-1])
    future_QQ = _future(q_GARd)
    for c0, c1, n0, n1 in _blocks(sight.segments):
        scores_GQT = _scores(q_GARd[:, c0:c1], k_GNd[:, n0:n1], future_QQ)
        top_GQ1 = scores_GQT.amax(-1, keepdim=True)
        powers_GQT = exp_(scores_GQT.sub_(top_GQ1))
        total_GQ1 = powers_GQT.sum(-1, keepdim=True)
        out_GARd[:, c0:c1] = (powers_GQT @ v_GNd[:, n0:n1]).div_(total_GQ1).view_as(out_GARd[:, c0:c1])
        lse_GAR[:, c0:c1] = top_GQ1.add_(total_GQ1.log_()).view_as(lse_GAR[:, c0:c1])
    return _by_anchor(out_GARd), _by_anchor(lse_GAR)


def _block_backward(grad_AHd: Tensor, inputs: Inputs, out_AHd: Tensor, lse_AH: Tensor, sight: Sight) -> Inputs:
    """Gradients through the keys of step 0, float32 or wider."""
    q_GARd, k_GNd, v_GNd = _laid_out(inputs)
    groups = len(k_GNd)
    grad_GARd, out_GARd = _by_group(wide(grad_AHd), groups), _by_group(wide(out_AHd), groups)
    delta_GAR1 = (grad_GARd * out_GARd).sum(-1, keepdim=True)
    lse_GAR1 = _by_group(lse_AH[..., None], groups)
    dq_GARd, dk_GNd, dv_GNd = torch.empty_like(q_GARd), *(torch.zeros_like(x.contiguous()) for x in (k_GNd, v_GNd))
    future_QQ = _future(q_GARd)
    for c0, c1, n0, n1 in _blocks(sight.segments):
        q_GcRd, k_GTd = q_GARd[:, c0:c1], k_GNd[:, n0:n1]
        lse_GQ1, delta_GQ1, grad_GQd = (x[:, c0:c1].flatten(1, 2) for x in (lse_GAR1, delta_GAR1, grad_GARd))
        probs_GQT = exp_(_scores(q_GcRd, k_GTd, future_QQ).sub_(lse_GQ1))
        dv_GNd[:, n0:n1].baddbmm_(probs_GQT.transpose(1, 2), grad_GQd)
        dscores_GQT = (grad_GQd @ v_GNd[:, n0:n1].transpose(1, 2)).sub_(delta_GQ1).mul_(probs_GQT)
        dq_GARd[:, c0:c1] = (dscores_GQT @ k_GTd).view_as(q_GcRd)
        dk_GNd[:, n0:n1].baddbmm_(dscores_GQT.transpose(1, 2), q_GcRd.flatten(1, 2))
    scale = q_GARd.shape[-1] ** -0.5
    return _by_anchor(dq_GARd.mul_(scale)), dk_GNd.transpose(0, 1), dv_GNd.transpose(0, 1)


def _laid_out(inputs: Inputs) -> Inputs:
    """Scaled queries GARd; keys and values GNd."""
    q_AHd, k_NGd, v_NGd = map(wide, inputs)
    return _by_group(q_AHd * q_AHd.shape[-1] ** -0.5, k_NGd.shape[1]), k_NGd.transpose(0, 1), v_NGd.transpose(0, 1)


def _by_group(x_AHd: Tensor, groups: int) -> Tensor:
    """Anchors by the key-value head that their heads share: GARd, one after another in memory."""
    return _grouped(x_AHd, groups).transpose(0, 1).contiguous()


def _by_anchor(x_GAR: Tensor) -> Tensor:
    """Inverse of `_by_group`, with or without a last dimension."""
    return x_GAR.transpose(0, 1).flatten(1, 2)


def _blocks(segments: Sequence[Segment]) -> list[tuple[int, int, int, int]]:
    """(first anchor, end, first key, end of keys) of each block; its last anchor stands on its last key."""
    return [
        (c0, min(c0 + QUERY_BLOCK, s.a1), s.n0, s.n1 - s.a1 + min(c0 + QUERY_BLOCK, s.a1))
        for s in segments
        for c0 in range(s.a0, s.a1, QUERY_BLOCK)
    ]


def _future(like: Tensor) -> Tensor:
    """Minus infinity where a key lies after a query, for queries that stand on the last keys."""
    size = min(QUERY_BLOCK, like.shape[1])
    return torch.full((size, size), float("-inf"), dtype=like.dtype, device=like.device).triu_(1)


def _scores(q_GcRd: Tensor, k_GTd: Tensor, future_QQ: Tensor) -> Tensor:
    """Scores GQT with what lies after a query's own token at minus infinity."""
    groups, queries, heads, _ = q_GcRd.shape
    scores_GQT = q_GcRd.flatten(1, 2) @ k_GTd.transpose(1, 2)
    own_GcRc = scores_GQT.view(groups, queries, heads, -1)[..., -queries:]
    own_GcRc += future_QQ[:queries, None, :queries]
    return scores_GQT
