"""Held-out figures: what an engine would accept of a drafter, from one teacher-forced pass over the holdout.

An anchor is judged if all K labels lie in its span. At its draft step k let x be the served token, p the target's
distribution over all tokens (masked, where the row's grammar is known) and q the drafter's, zero outside the draft
vocabulary, both at the temperature of the row. Acceptance lengths are 1 + a sum over k = 1…K, joint over the steps:

    Greedy         P(for all j <= k: argmax q_j = argmax p_j = x_j)
    OneHot         E[prod_{j<k} 1[x_j = argmax q_j] p_k(argmax q_k)]                   drafts greedy, target sampled
    Probabilistic  E[prod_{j<k} min(1, q_j(x_j) / p_j(x_j)) sum_v min(p_k(v), q_k(v))]  both sampled

Teacher forcing is exact here where the text is the target's own at that temperature: step k is fed the served tokens,
and a factor before k is the probability that, given what was served, the draft was that token and was accepted. The
last factor is an expectation over what would be served, which has less variance than what was. Products of marginals,
by contrast, would be biased. `judgement.py` says which rows the figures hold for.

`calls` and `accepted` weigh each anchor by how often serving would draft there: an engine that accepted j drafts goes
on j + 1 tokens further. They are what the engine's counters will show on this text, in expectation.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Literal, Self

import torch
from torch import Tensor

from specop.trainer.batches import Pack, Row
from specop.trainer.exponentials import exp_
from specop.trainer.losses import BLOCK_ELEMENTS, GPU_BLOCK_ELEMENTS
from specop.trainer.model import Eagle3
from specop.trainer.vocabulary import draft_ids

Variant = Literal["Greedy", "OneHot", "Probabilistic"]
VARIANTS: tuple[Variant, ...] = ("Greedy", "OneHot", "Probabilistic")


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums over each row of the holdout, float64: R rows, K draft steps, V variants. Those of disjoint packs add up."""

    anchors_R: Tensor
    """Anchors with all K labels in their span."""
    accepted_VRK: Tensor
    """Over those: probability that the first k drafts are accepted."""
    match_RK: Tensor
    """Over those: the draft is the target's most likely token."""
    alpha_RK: Tensor
    """Over those: sum of min(p, q)."""
    labels_R: Tensor
    known_R: Tensor
    """Labels of step 0 inside the draft vocabulary."""
    mass_R: Tensor
    """The target's probability inside the draft vocabulary at them."""
    argmax_R: Tensor
    """Labels that are the target's most likely token,"""
    peak_R: Tensor
    """the probability of that token, so what `argmax_R` is in expectation if the target has written the row,"""
    variance_R: Tensor
    """and the variance of that."""
    calls_VR: Tensor
    """Draft calls of an engine that walks through the row,"""
    drafted_VR: Tensor
    """and the drafts that it accepts."""

    @classmethod
    def zeros(cls, rows: int, steps: int) -> Self:
        """Return sums over nothing."""
        size = {"R": rows, "K": steps, "V": len(VARIANTS)}
        shapes = ([size[letter] for letter in field.name.partition("_")[2]] for field in fields(cls))
        return cls(*(torch.zeros(shape, dtype=torch.float64) for shape in shapes))

    def __add__(self, other: "Sums") -> "Sums":
        """Add up; both are of the same rows and judged disjoint packs."""
        return Sums(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(Sums)))


@torch.no_grad()
def evaluate(
    model: Eagle3,
    rows: Sequence[Row],
    packs: Iterable[tuple[Sequence[int], Pack]],
    *,
    vocabulary_D: Tensor,
    teacher: Callable[[Tensor], Tensor],
    steps: int,
    compute: torch.dtype,
) -> Sums:
    """Judge a drafter over packs of the holdout, each with the indices of its rows.

    `teacher` maps the target's final states (C, H) to its logits on the draft vocabulary (C, D); `compute` is the dtype
    of the matrix products.
    """
    sums = Sums.zeros(len(rows), steps)
    draft_ids_V = draft_ids(vocabulary_D.cpu(), model.config.vocab_size).to(vocabulary_D.device)
    for members, pack in packs:
        row_A = torch.tensor([member for member in members for _ in range(rows[member].labels(1)[0])])
        device = pack.served_A.device.type
        with torch.autocast(device, compute, enabled=compute == torch.bfloat16):
            hidden_KAH = torch.stack(list(model.unroll(pack, steps)))
            found = _compare(model, pack, hidden_KAH, (vocabulary_D, draft_ids_V[pack.served_A]), teacher)
        _add(sums, row_A, pack, vocabulary_D, found)
    return sums


@dataclass(frozen=True, slots=True)
class _Compared:
    """p against q for each anchor at each draft step."""

    draft_KA: Tensor
    """Draft id of argmax q."""
    peak_KA: Tensor
    """p(argmax q)."""
    ratio_KA: Tensor
    """min(1, q(x) / p(x))."""
    alpha_KA: Tensor
    mass_A: Tensor


def _compare(
    model: Eagle3,
    pack: Pack,
    hidden_KAH: Tensor,
    tokens: tuple[Tensor, Tensor],
    teacher: Callable[[Tensor], Tensor],
) -> _Compared:
    """Walk blocks of anchors, as the losses do. `tokens`: the draft vocabulary's, and draft ids of served ones."""
    vocabulary_D, served_A = tokens
    steps, anchors, _ = hidden_KAH.shape
    masks = pack.masks(vocabulary_D)
    draft_KA = torch.empty(steps, anchors, dtype=torch.long, device=hidden_KAH.device)
    peak_KA, ratio_KA, alpha_KA = (draft_KA.new_zeros(steps, anchors, dtype=torch.float32) for _ in range(3))
    mass_A = peak_KA.new_zeros(anchors)
    elements = GPU_BLOCK_ELEMENTS if hidden_KAH.is_cuda else BLOCK_ELEMENTS
    size = max(1, elements // (steps * model.config.draft_vocab_size))
    for a0 in range(0, anchors, size):
        a1 = min(a0 + size, anchors)
        row_R = torch.arange(a0, a1 + steps - 1, device=hidden_KAH.device).clamp_(max=anchors - 1)
        logits_RD = teacher(pack.last_AH[row_R]).float() / pack.temperature_A[row_R, None]
        p_RD = exp_(logits_RD - pack.lse_A[row_R, None])
        if masks:
            p_RD *= masks.allowed(row_R)
        mass_A[a0:a1] = p_RD[: a1 - a0].sum(-1)
        for k in range(steps):
            p_CD, served_C = p_RD[k : k + a1 - a0], served_A[row_R[k : k + a1 - a0]]
            logits_CD = model.lm_head(hidden_KAH[k, a0:a1]).float()
            draft_KA[k, a0:a1] = logits_CD.argmax(-1)
            q_CD = (logits_CD / pack.temperature_A[a0:a1, None]).softmax(-1)
            peak_KA[k, a0:a1] = p_CD.gather(1, draft_KA[k, a0:a1, None]).squeeze(1)
            alpha_KA[k, a0:a1] = torch.minimum(p_CD, q_CD).sum(-1)
            px_C, qx_C = (x.gather(1, served_C.clamp_min(0)[:, None]).squeeze(1) for x in (p_CD, q_CD))
            ratio_KA[k, a0:a1] = (qx_C / px_C.clamp_min(torch.finfo(px_C.dtype).tiny)).clamp_max(1) * (served_C >= 0)
    return _Compared(draft_KA, peak_KA, ratio_KA, alpha_KA, mass_A)


def _add(sums: Sums, row_A: Tensor, pack: Pack, vocabulary_D: Tensor, found: _Compared) -> None:
    """Add what was found of a pack to the sums of its rows."""
    steps, anchors = found.draft_KA.shape
    served_KA = torch.stack([pack.later(pack.served_A, k) for k in range(steps)])
    argmax_KA = torch.stack([pack.later(pack.argmax_A, k) for k in range(steps)])
    unknown_KA = torch.stack([pack.later(pack.unknown_A, k) for k in range(steps)])
    draft_KA = vocabulary_D[found.draft_KA]
    hit_KA = draft_KA == served_KA
    greedy_KA = hit_KA & ((argmax_KA == served_KA) | unknown_KA)
    step_K1 = torch.arange(steps, device=hit_KA.device)[:, None]
    valid_KA = torch.arange(anchors, device=hit_KA.device) + step_K1 < pack.end_A
    accept_VKA = torch.stack([greedy_KA, hit_KA, found.ratio_KA]) * valid_KA
    last_VKA = torch.stack([greedy_KA, found.peak_KA, found.alpha_KA])
    before_VKA = torch.cat([torch.ones_like(accept_VKA[:, :1]), accept_VKA.cumprod(1)[:, :-1]], dim=1)
    whole_A = valid_KA[-1].double().cpu()
    drawn_A = pack.peak_A.double().cpu().exp()

    def add(total: Tensor, values: Tensor) -> None:
        """Add values, whose last dimension is the anchors, into a total whose first is the rows."""
        total.index_add_(0, row_A, values.movedim(-1, 0).double().cpu())

    add(sums.anchors_R, whole_A)
    for v in range(len(VARIANTS)):
        add(sums.accepted_VRK[v], (before_VKA[v] * last_VKA[v]).cpu() * whole_A)
    add(sums.match_RK, (draft_KA == argmax_KA).cpu() * whole_A)
    add(sums.alpha_RK, found.alpha_KA.cpu() * whole_A)
    add(sums.labels_R, torch.ones(anchors))
    add(sums.known_R, torch.isin(pack.served_A, vocabulary_D))
    add(sums.mass_R, found.mass_A)
    add(sums.argmax_R, pack.argmax_A == pack.served_A)
    add(sums.peak_R, drawn_A)
    add(sums.variance_R, drawn_A * (1 - drawn_A))
    ends = pack.end_A.tolist()
    for v in range(len(VARIANTS)):
        calls, drafted = _walk(accept_VKA[v].T.tolist(), ends)
        starts = torch.tensor([a for a in range(anchors) if a == 0 or ends[a] != ends[a - 1]])
        sums.calls_VR[v].index_add_(0, row_A[starts], torch.tensor(calls, dtype=torch.float64)[starts])
        sums.drafted_VR[v].index_add_(0, row_A[starts], torch.tensor(drafted, dtype=torch.float64)[starts])


def _walk(accept_AK: list[list[float]], ends: list[int]) -> tuple[list[float], list[float]]:
    """Return the expected draft calls and accepted drafts of an engine from each anchor to the end of its segment.

    `accept_AK`: probability that draft k is accepted if all before it are; 0 where there is no label.
    """
    calls, drafted = [0.0] * len(ends), [0.0] * len(ends)
    for a in reversed(range(len(ends))):
        calls[a], reached = 1.0, 1.0
        for j, accept in enumerate([*accept_AK[a], 0.0]):  # accepts j drafts, and no more
            stops, onwards = reached * (1 - accept), a + j + 1
            drafted[a] += stops * j
            if stops and onwards < ends[a]:
                calls[a] += stops * calls[onwards]
                drafted[a] += stops * drafted[onwards]
            reached *= accept
    return calls, drafted
