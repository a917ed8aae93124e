"""The attention of unrolled draft steps against one softmax over an explicit mask, values and gradients."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from specop.trainer import attention
from specop.trainer.attention import Segment, Sight, ttt_attention

HEADS, GROUPS, SIZE = 4, 2, 8
SEGMENTS = (Segment(0, 3, 0, 5), Segment(3, 5, 0, 9), Segment(5, 12, 9, 17))
"""Two spans of one document, and one of a second."""
ANCHORS, TOKENS = 12, 17
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def sight(segments: Sequence[Segment], tokens: int, device: str = "cpu") -> Sight:
    anchor_A = torch.cat([torch.arange(s.n1 - (s.a1 - s.a0), s.n1) for s in segments])
    return Sight.of(segments, anchor_A.to(device), tokens)


def naive(
    q_AHd: Tensor,
    k_NGd: Tensor,
    v_NGd: Tensor,
    diagonals: Sequence[tuple[Tensor, Tensor]],
    segments: Sequence[Segment] = SEGMENTS,
) -> Tensor:
    """Write every anchor's keys out and take one softmax."""
    rows, (_, heads, size) = [], q_AHd.shape
    for segment in segments:
        for a in range(segment.a0, segment.a1):
            seen = slice(segment.n0, segment.n1 - (segment.a1 - 1 - a))
            k_TGd = torch.cat([k_NGd[seen], *(k[a : a + 1] for k, _ in diagonals)])
            v_TGd = torch.cat([v_NGd[seen], *(v[a : a + 1] for _, v in diagonals)])
            k_THd, v_THd = (x.repeat_interleave(heads // k_TGd.shape[1], dim=1) for x in (k_TGd, v_TGd))
            scores_HT = torch.einsum("hd,thd->ht", q_AHd[a], k_THd) * size**-0.5
            rows.append(torch.einsum("ht,thd->hd", scores_HT.softmax(-1), v_THd))
    return torch.stack(rows)


# Torch's flash kernel for documents of different lengths, written out: the same arguments, any dtype.


def kernel_scores(q_NHd: Tensor, k_NHd: Tensor, bound_D: Tensor) -> Tensor:
    position_N = torch.arange(len(q_NHd))
    document_N = torch.bucketize(position_N, bound_D, right=True)
    seen_NN = (document_N[:, None] == document_N) & (position_N[:, None] >= position_N)
    scores_HNN = torch.einsum("qhd,khd->hqk", q_NHd, k_NHd) * q_NHd.shape[-1] ** -0.5
    masked_HNN: Tensor = scores_HNN.masked_fill(~seen_NN, float("-inf"))
    return masked_HNN


def kernel_forward(q: Tensor, k: Tensor, v: Tensor, bound: Tensor, *_: object) -> list[Tensor]:
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    scores_HNN = kernel_scores(q, k, bound)
    return [torch.einsum("hqk,khd->qhd", scores_HNN.softmax(-1), v), scores_HNN.logsumexp(-1)]


def kernel_backward(grad: Tensor, q: Tensor, *rest: Any) -> list[Tensor]:
    k, v, out, lse, bound = rest[:5]
    shared, scale = q.shape[1] // k.shape[1], q.shape[-1] ** -0.5
    k, v = (x.repeat_interleave(shared, dim=1) for x in (k, v))
    probs_HNN = (kernel_scores(q, k, bound) - lse[..., None]).exp()
    delta_HN1 = (grad * out).sum(-1).T[..., None]
    dscores_HNN = probs_HNN * (torch.einsum("qhd,khd->hqk", grad, v) - delta_HN1) * scale
    dk, dv = (torch.einsum("hqk,qhd->khd", x, y) for x, y in ((dscores_HNN, q), (probs_HNN, grad)))
    dq = torch.einsum("hqk,khd->qhd", dscores_HNN, k)
    return [dq, *(x.reshape(len(x), -1, shared, x.shape[-1]).sum(2) for x in (dk, dv))]


@pytest.mark.parametrize("way", ["blocks of 2", "blocks of 256", "kernel"])
@pytest.mark.parametrize("later", [0, 1, 3])
def test_equals_one_softmax_over_all_keys(later: int, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if way == "kernel":
        monkeypatch.setattr(attention, "_has_kernel", lambda _: True)
        monkeypatch.setattr(attention, "FLASH_FORWARD", kernel_forward)
        monkeypatch.setattr(attention, "FLASH_BACKWARD", kernel_backward)
    else:
        monkeypatch.setattr(attention, "QUERY_BLOCK", int(way.rpartition(" ")[2]))

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, requires_grad=True)

    q, k, v = random(ANCHORS, HEADS, SIZE), random(TOKENS, GROUPS, SIZE), random(TOKENS, GROUPS, SIZE)
    diagonals = [(random(ANCHORS, GROUPS, SIZE), random(ANCHORS, GROUPS, SIZE)) for _ in range(later)]
    inputs = [q, k, v, *(x for pair in diagonals for x in pair)]
    weight = torch.randn(ANCHORS, HEADS, SIZE, dtype=torch.float64)
    ours, theirs = ttt_attention(q, k, v, diagonals, sight(SEGMENTS, TOKENS)), naive(q, k, v, diagonals)
    torch.testing.assert_close(ours, theirs)
    for mine, autograd in zip(
        torch.autograd.grad((ours * weight).sum(), inputs),
        torch.autograd.grad((theirs * weight).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(mine, autograd)
