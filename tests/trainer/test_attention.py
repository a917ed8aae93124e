"""The attention of unrolled draft steps against one softmax over an explicit mask, values and gradients, in float64."""

import pytest
import torch
from torch import Tensor

from specop.trainer import attention
from specop.trainer.attention import Segment, ttt_attention

HEADS, GROUPS, SIZE = 4, 2, 8
SEGMENTS = (Segment(0, 3, 0, 5), Segment(3, 5, 0, 9), Segment(5, 12, 9, 17))
"""Two spans of one document, and one of a second."""
ANCHORS, TOKENS = 12, 17


def naive(q_AHd: Tensor, k_NGd: Tensor, v_NGd: Tensor, diagonals: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Write every anchor's keys out and take one softmax."""
    rows = []
    for segment in SEGMENTS:
        for a in range(segment.a0, segment.a1):
            seen = slice(segment.n0, segment.n1 - (segment.a1 - 1 - a))
            k_TGd = torch.cat([k_NGd[seen], *(k[a : a + 1] for k, _ in diagonals)])
            v_TGd = torch.cat([v_NGd[seen], *(v[a : a + 1] for _, v in diagonals)])
            k_THd, v_THd = (x.repeat_interleave(HEADS // GROUPS, dim=1) for x in (k_TGd, v_TGd))
            scores_HT = torch.einsum("hd,thd->ht", q_AHd[a], k_THd) * SIZE**-0.5
            rows.append(torch.einsum("ht,thd->hd", scores_HT.softmax(-1), v_THd))
    return torch.stack(rows)


@pytest.mark.parametrize("block", [2, 256])
@pytest.mark.parametrize("later", [0, 1, 3])
def test_equals_one_softmax_over_all_keys(later: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "QUERY_BLOCK", block)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, requires_grad=True)

    q, k, v = random(ANCHORS, HEADS, SIZE), random(TOKENS, GROUPS, SIZE), random(TOKENS, GROUPS, SIZE)
    diagonals = [(random(ANCHORS, GROUPS, SIZE), random(ANCHORS, GROUPS, SIZE)) for _ in range(later)]
    inputs = [q, k, v, *(x for pair in diagonals for x in pair)]
    weight = torch.randn(ANCHORS, HEADS, SIZE, dtype=torch.float64)
    ours, theirs = ttt_attention(q, k, v, diagonals, SEGMENTS), naive(q, k, v, diagonals)
    torch.testing.assert_close(ours, theirs)
    for mine, autograd in zip(
        torch.autograd.grad((ours * weight).sum(), inputs),
        torch.autograd.grad((theirs * weight).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(mine, autograd)
