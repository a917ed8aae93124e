"""Attention of the unrolled draft steps (training-time test, TTT), exact and without an L x kL matrix.

At draft step k the query of anchor i sees the keys of step 0 at all positions up to i of its document, and, of each
later step 1…k, only the key of its own chain. So a step is causal attention on the keys of step 0 plus k single keys, a
"diagonal" each, and both are merged by log-sum-exp. Only anchors have queries: a position that supervises nothing
contributes keys and values at step 0 and costs nothing more.

Numerics: scores, softmax and sums are float32 or wider whatever the inputs are. The backward pass recomputes the
probabilities from the merged log-sum-exp; the part that belongs to step 0 then needs no special case, because a
softmax over a union of keys is the same softmax seen piece by piece. Memory is one block of `QUERY_BLOCK` queries by
one document's keys.

Not here: rotary embedding (the caller applies it), dropout (drafters are trained without), sliding windows.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

QUERY_BLOCK = 256
"""Queries that are scored at once; bounds the memory of long documents."""


class Segment(NamedTuple):
    """One generated span inside a pack.

    Anchors `a0…a1` stand on consecutive tokens of one document; its keys begin at token `n0`, and the last anchor
    stands on token `n1 - 1`. An anchor sees the keys up to and with its own token.
    """

    a0: int
    a1: int
    n0: int
    n1: int


def ttt_attention(
    q_AHd: Tensor, k_NGd: Tensor, v_NGd: Tensor, diagonals: Sequence[tuple[Tensor, Tensor]], segments: Sequence[Segment]
) -> Tensor:
    """Attend from anchors to the tokens of step 0 and to the anchors' own later keys.

    `q_AHd`: queries of A anchors, H heads. `k_NGd`, `v_NGd`: step 0, N tokens, G key-value heads (G divides H).
    `diagonals`: for each later step its (k_AGd, v_AGd). Returns o_AHd in the dtype of `q_AHd`.
    """
    flat = [tensor for pair in diagonals for tensor in pair]
    return _TTTAttention.apply(q_AHd, k_NGd, v_NGd, segments, *flat)  # type: ignore[no-any-return, no-untyped-call]


class _TTTAttention(torch.autograd.Function):
    """Forward merges, backward recomputes; both walk blocks of queries."""

    @staticmethod
    def forward(
        ctx: Any, q_AHd: Tensor, k_NGd: Tensor, v_NGd: Tensor, segments: Sequence[Segment], *diagonals: Tensor
    ) -> Tensor:
        q, k, v, *later = (_wide(tensor) for tensor in (q_AHd, k_NGd, v_NGd, *diagonals))
        q_AGRd = _grouped(q, k.shape[1])
        out, lse_AGR = torch.empty_like(q_AGRd), q_AGRd.new_empty(q_AGRd.shape[:-1])
        for c0, c1, n0, n1 in _blocks(segments):
            scores_GQT = _scores(q_AGRd[c0:c1], k[n0:n1])
            lse_GQ = scores_GQT.logsumexp(-1)
            probs_GQT = scores_GQT.sub_(lse_GQ[..., None]).exp_()
            out[c0:c1] = _unblock(probs_GQT @ v[n0:n1].transpose(0, 1), c1 - c0)
            lse_AGR[c0:c1] = _unblock(lse_GQ[..., None], c1 - c0).squeeze(-1)
        if later:
            score_mAGR = torch.stack([_own_score(q_AGRd, k_AGd) for k_AGd in later[0::2]])
            merged = torch.logsumexp(torch.cat([lse_AGR[None], score_mAGR]), dim=0)
            out *= (lse_AGR - merged).exp_()[..., None]
            for score_AGR, v_AGd in zip(score_mAGR, later[1::2], strict=True):
                out += (score_AGR - merged).exp_()[..., None] * v_AGd[:, :, None]
            lse_AGR = merged
        ctx.segments = segments
        ctx.save_for_backward(q_AHd, k_NGd, v_NGd, out, lse_AGR, *diagonals)
        return out.view_as(q).to(q_AHd.dtype)

    @staticmethod
    def backward(ctx: Any, grad_AHd: Tensor) -> tuple[Tensor | None, ...]:
        q_AHd, k_NGd, v_NGd, out_AGRd, lse_AGR, *diagonals = ctx.saved_tensors
        q, k, v, *later = (_wide(tensor) for tensor in (q_AHd, k_NGd, v_NGd, *diagonals))
        q_AGRd, grad_AGRd = _grouped(q, k.shape[1]), _grouped(_wide(grad_AHd), k.shape[1])
        delta_AGR = (grad_AGRd * out_AGRd).sum(-1)
        scale = q.shape[-1] ** -0.5
        dq, dk, dv = torch.empty_like(q_AGRd), torch.zeros_like(k), torch.zeros_like(v)
        for c0, c1, n0, n1 in _blocks(ctx.segments):
            probs_GQT = _scores(q_AGRd[c0:c1], k[n0:n1]).sub_(_block(lse_AGR[c0:c1, ..., None])).exp_()
            grad_GQd, query_GQd = _block(grad_AGRd[c0:c1]), _block(q_AGRd[c0:c1])
            dv[n0:n1] += (probs_GQT.transpose(1, 2) @ grad_GQd).transpose(0, 1)
            dscores = grad_GQd @ v[n0:n1].permute(1, 2, 0)
            dscores = dscores.sub_(_block(delta_AGR[c0:c1, ..., None])).mul_(probs_GQT).mul_(scale)
            dq[c0:c1] = _unblock(dscores @ k[n0:n1].transpose(0, 1), c1 - c0)
            dk[n0:n1] += (dscores.transpose(1, 2) @ query_GQd).transpose(0, 1)
        grads: list[Tensor] = []
        for k_AGd, v_AGd in zip(later[0::2], later[1::2], strict=True):
            probs_AGR = (_own_score(q_AGRd, k_AGd) - lse_AGR).exp_()
            dscore = (probs_AGR * ((grad_AGRd * v_AGd[:, :, None]).sum(-1) - delta_AGR) * scale)[..., None]
            dq += dscore * k_AGd[:, :, None]
            grads += [(dscore * q_AGRd).sum(2), (probs_AGR[..., None] * grad_AGRd).sum(2)]
        like = (q_AHd, k_NGd, v_NGd, *diagonals)
        out = [grad.to(tensor.dtype) for grad, tensor in zip((dq.view_as(q), dk, dv, *grads), like, strict=True)]
        return (*out[:3], None, *out[3:])


def _wide(tensor: Tensor) -> Tensor:
    """float64 stays, everything narrower becomes float32."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _grouped(x_AHd: Tensor, groups: int) -> Tensor:
    """Heads by the key-value head that they share: AGRd."""
    return x_AHd.reshape(x_AHd.shape[0], groups, -1, x_AHd.shape[-1])


def _block(x_cGRd: Tensor) -> Tensor:
    """Lay out c queries of R heads as c*R rows of each group: GQd."""
    return x_cGRd.permute(1, 2, 0, 3).reshape(x_cGRd.shape[1], -1, x_cGRd.shape[-1])


def _unblock(x_GQd: Tensor, queries: int) -> Tensor:
    """Inverse of `_block`: cGRd."""
    return x_GQd.view(x_GQd.shape[0], -1, queries, x_GQd.shape[-1]).permute(2, 0, 1, 3)


def _blocks(segments: Sequence[Segment]) -> list[tuple[int, int, int, int]]:
    """(first anchor, end, first key, end of keys) of each block; its last anchor stands on its last key."""
    return [
        (c0, min(c0 + QUERY_BLOCK, s.a1), s.n0, s.n1 - s.a1 + min(c0 + QUERY_BLOCK, s.a1))
        for s in segments
        for c0 in range(s.a0, s.a1, QUERY_BLOCK)
    ]


def _scores(q_cGRd: Tensor, k_TGd: Tensor) -> Tensor:
    """Scaled scores GQT with what lies after a query's own token at minus infinity."""
    queries, keys = q_cGRd.shape[0], k_TGd.shape[0]
    scores = _block(q_cGRd * q_cGRd.shape[-1] ** -0.5) @ k_TGd.permute(1, 2, 0)
    future = torch.full((queries, queries), float("-inf"), dtype=scores.dtype, device=scores.device).triu_(1)
    scores.view(scores.shape[0], -1, queries, keys)[..., keys - queries :] += future
    return scores


def _own_score(q_AGRd: Tensor, k_AGd: Tensor) -> Tensor:
    """Scaled score of each query with its own chain's key: AGR."""
    scores: Tensor = (q_AGRd * k_AGd[:, :, None]).sum(-1) * q_AGRd.shape[-1] ** -0.5
    return scores
