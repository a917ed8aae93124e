"""Held-out acceptance length at temperature 0, joint over the draft steps.

An anchor is judged if all K labels lie in its span. Its first k drafts count as accepted if each of them is the served
token and the target's most likely one; then

    acceptance length = 1 + sum over k = 1…K of P(first k drafts accepted)

Drafting is teacher forced, which is exact here: step k is fed the served tokens, and as long as all drafts before it
agree they are what the drafter itself proposed. Products of marginals, by contrast, would be biased. Under a grammar
the engine verifies against the masked target, whose choice is the served token, so there agreement with it alone
decides.

`expected` weighs each anchor by how often serving would draft there: an engine that accepted j drafts goes on j + 1
tokens further. It is what the engine's counters will show on this text.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from specop.api.shared import Evaluation
from specop.trainer.batches import Pack
from specop.trainer.model import Eagle3


@dataclass(frozen=True, slots=True)
class Judgement:
    """Counts over the holdout."""

    anchors: int
    agreed_K: tuple[int, ...]
    """Anchors whose first k drafts are all accepted, k = 1…K."""
    labels: int
    known: int
    """Labels of step 0 inside the draft vocabulary."""
    drafts: int
    drafted: int
    """Draft calls of a simulated engine, and the drafts that it accepted."""

    def __add__(self, other: "Judgement") -> "Judgement":
        """Judge two parts of a holdout as one."""
        return Judgement(
            anchors=self.anchors + other.anchors,
            agreed_K=tuple(a + b for a, b in zip(self.agreed_K, other.agreed_K, strict=True)),
            labels=self.labels + other.labels,
            known=self.known + other.known,
            drafts=self.drafts + other.drafts,
            drafted=self.drafted + other.drafted,
        )

    @property
    def acceptance_length(self) -> float:
        """Mean tokens per target step over all anchors; 1 where there is none."""
        return 1 + sum(self.agreed_K) / max(self.anchors, 1)

    @property
    def expected(self) -> float:
        """Mean tokens per target step as an engine walks through the text."""
        return 1 + self.drafted / max(self.drafts, 1)

    def evaluation(self) -> Evaluation:
        """As status shows it."""
        return Evaluation(
            acceptance_length=f"{self.acceptance_length:.3f}",
            per_position=[f"{agreed / max(self.anchors, 1):.3f}" for agreed in self.agreed_K],
            positions=self.anchors,
            in_vocabulary=f"{self.known / max(self.labels, 1):.4f}",
        )


@torch.no_grad()
def evaluate(model: Eagle3, packs: Iterable[Pack], vocabulary_D: Tensor, steps: int, compute: torch.dtype) -> Judgement:
    """Judge a drafter over packs of the holdout; `compute` is the dtype of the matrix products."""
    anchors = labels = known = drafts = drafted = 0
    agreed_K = torch.zeros(steps, dtype=torch.long)
    for pack in packs:
        accepted_KA = _accepted(model, pack, vocabulary_D, steps, compute)
        whole_A = torch.arange(len(pack.end_A), device=pack.end_A.device) + steps <= pack.end_A
        anchors += int(whole_A.sum())
        agreed_K += (accepted_KA & whole_A).sum(1).cpu()
        labels += len(pack.served_A)
        known += int(torch.isin(pack.served_A, vocabulary_D).sum())
        calls, taken = _walk(accepted_KA.sum(0).tolist(), pack.end_A.tolist())
        drafts, drafted = drafts + calls, drafted + taken
    return Judgement(anchors, tuple(agreed_K.tolist()), labels, known, drafts, drafted)


def _accepted(model: Eagle3, pack: Pack, vocabulary_D: Tensor, steps: int, compute: torch.dtype) -> Tensor:
    """Whether the first k + 1 drafts of an anchor are all accepted, KA."""
    device = pack.served_A.device
    right_A = pack.constrained_A | (pack.argmax_A == pack.served_A)
    position_A = torch.arange(len(pack.end_A), device=device)
    alive_A, found = torch.ones_like(right_A), []
    with torch.autocast(device.type, compute, enabled=compute == torch.bfloat16):
        for k, hidden_AH in enumerate(model.unroll(pack, steps)):
            draft_A = vocabulary_D[model.propose(hidden_AH)]
            served_A = pack.later(pack.served_A, k)
            alive_A = alive_A & (draft_A == served_A) & pack.later(right_A, k) & (position_A + k < pack.end_A)
            found.append(alive_A)
    return torch.stack(found)


def _walk(accepted_A: list[int], end_A: list[int]) -> tuple[int, int]:
    """Return (draft calls, accepted drafts) of an engine that goes through every segment from its first anchor."""
    calls = taken = anchor = 0
    while anchor < len(end_A):
        calls, taken = calls + 1, taken + accepted_A[anchor]
        anchor = min(anchor + accepted_A[anchor] + 1, end_A[anchor])
    return calls, taken
