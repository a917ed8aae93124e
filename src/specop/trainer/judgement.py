"""What the sums over the holdout say of a drafter: one acceptance length to choose by, and figures for people.

Which rows count. Figures of acceptance hold for text that the target itself wrote, at that temperature (on-policy). A
dataset does not say who wrote a row, so the target is asked: in `n` labels of its own text its most likely token occurs
as often as it says, the sum of p(argmax), give or take the root of the sum of p (1 - p). A greedy row is the target's
own if nearly all labels are its argmax: arithmetic in other dtypes and batch sizes turns a few near-ties. Where a
grammar was in force that is not known, p is not what the engine verified against: a sampled row then says nothing, and
of a greedy one, which is the masked argmax, agreement with what was served is all that counts; it is taken at its word.
A row whose text privacy changed is nobody's sample.

Rows that are not on-policy are shown apart, and decide only where there are no others. That there is an anchor at all
with a label at every draft step was seen before the training began (`inputs.py`).
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from specop.api.shared import Evaluation, EvaluationSlice
from specop.trainer.batches import Row
from specop.trainer.evaluate import VARIANTS, Sums, Variant

GREEDY_SHARE = 0.9
"""Of the labels of a greedy row, the least that are the target's argmax in text of its own."""
DEVIATIONS = 4.0
"""Standard deviations that a sampled row may lie from what the target says."""
LENGTHS = ((1024, "length/1k"), (4096, "length/4k"))
"""Buckets of rows by their tokens; longer ones are `length/over`."""
SHOWN_SOURCES = 8
"""Sources with the most anchors that are shown: figures travel in a termination message of 4 KiB."""


def serving_temperature(rows: Sequence[Row]) -> float:
    """Temperature that most rows were sampled at: what requests are expected to ask for."""
    return Counter(row.temperature for row in rows).most_common(1)[0][0]


def variant_of(temperature: float, draft_sample_method: str) -> Variant:
    """Return how an engine at that temperature verifies what a drafter proposes by that method."""
    if temperature <= 0:
        return "Greedy"
    return "Probabilistic" if draft_sample_method == "Probabilistic" else "OneHot"


@dataclass(frozen=True)
class Judgement:
    """A drafter on a holdout, by the variant in which it will be served."""

    rows: Sequence[Row]
    sums: Sums
    variant: Variant

    @cached_property
    def on_policy_R(self) -> Tensor:
        """Rows that the target itself wrote, as far as can be told."""
        s = self.sums
        greedy_R = _mask(row.temperature <= 0 for row in self.rows)
        unknown_R = _mask(row.unknown for row in self.rows)
        close_R = (s.argmax_R - s.peak_R).abs() <= DEVIATIONS * s.variance_R.sqrt() + 1
        own_R = torch.where(greedy_R, unknown_R | (s.argmax_R >= GREEDY_SHARE * s.labels_R), close_R & ~unknown_R)
        return own_R & ~_mask(row.altered for row in self.rows)

    @cached_property
    def judged_R(self) -> Tensor:
        """Rows that decide: on-policy ones that were sampled as the variant has it; else the next best."""
        sampled_R = self._of_variant(self.variant)
        for candidate_R in (sampled_R & self.on_policy_R, sampled_R):
            if self.sums.anchors_R[candidate_R].sum() > 0:
                return candidate_R
        return torch.ones_like(sampled_R)

    @property
    def anchors(self) -> int:
        """Anchors that decide."""
        return round(float(self.sums.anchors_R[self.judged_R].sum()))

    @property
    def acceptance_length(self) -> float:
        """Mean tokens per target step over all anchors that decide; 1 where there is none."""
        return 1 + sum(self.accepted_K)

    @property
    def accepted_K(self) -> list[float]:
        """Probability that the first k drafts are all accepted, k = 1…K."""
        return self._accepted(self.variant, self.judged_R)

    @cached_property
    def walked(self) -> tuple[float, float]:
        """Draft calls of an engine that walks through the rows that decide, and the drafts that it accepts; expected.

        What was served at temperature 0 is the target's choice, also where rounding has the teacher prefer another.
        """
        v = VARIANTS.index("OneHot" if self.variant == "Greedy" else self.variant)
        calls, drafted = (float(x[v, self.judged_R].sum()) for x in (self.sums.calls_VR, self.sums.drafted_VR))
        return calls, drafted

    @property
    def served_length(self) -> float:
        """Mean tokens per target step as an engine walks through the text."""
        calls, drafted = self.walked
        return 1 + drafted / max(calls, 1)

    def evaluation(self) -> Evaluation:
        """As status shows it."""
        judged_R, s = self.judged_R, self.sums
        anchors, labels = s.anchors_R[judged_R].sum().clamp_min(1), s.labels_R[judged_R].sum().clamp_min(1)
        return Evaluation(
            acceptance_length=f"{self.acceptance_length:.3f}",
            served_length=f"{self.served_length:.3f}",
            variant=self.variant,
            per_position=_decimals(self.accepted_K),
            positions=self.anchors,
            in_vocabulary=f"{float(s.known_R[judged_R].sum() / labels):.4f}",
            vocabulary_mass=f"{float(s.mass_R[judged_R].sum() / labels):.4f}",
            tau_t0=self._tau("Greedy"),
            tau_t1_one_hot=self._tau("OneHot"),
            tau_t1_probabilistic=self._tau("Probabilistic"),
            alpha=_decimals((s.alpha_RK[judged_R].sum(0) / anchors).tolist()),
            argmax_match=_decimals((s.match_RK[judged_R].sum(0) / anchors).tolist()),
            slices=self._slices(),
        )

    def _tau(self, variant: Variant) -> str | None:
        """Return a variant's acceptance length over the rows that it holds for; None where there are none."""
        rows_R = self._of_variant(variant) & self.on_policy_R
        if self.sums.anchors_R[rows_R].sum() == 0:
            return None
        return f"{1 + sum(self._accepted(variant, rows_R)):.3f}"

    def _slices(self) -> list[EvaluationSlice]:
        """Parts of the rows that decide, by source, length, grammar and novelty; and the rows not on-policy."""
        parts = {name: _mask(_length(row) == name for row in self.rows) for name in _LENGTH_NAMES}
        parts["constrained"] = _mask(row.constrained for row in self.rows)
        parts["novel"] = _mask(row.novel for row in self.rows)
        found = [self._slice(name, part_R & self.judged_R) for name, part_R in parts.items()]
        found.append(self._slice("offPolicy", ~self.on_policy_R))
        names = sorted({row.source for row in self.rows})
        sources = [
            self._slice(f"source/{name}", _mask(row.source == name for row in self.rows) & self.judged_R)
            for name in names
        ]
        sources = sorted(sources, key=lambda part: -part.positions)[:SHOWN_SOURCES]
        return [part for part in (*sources, *found) if part.positions]

    def _slice(self, name: str, rows_R: Tensor) -> EvaluationSlice:
        positions = round(float(self.sums.anchors_R[rows_R].sum()))
        length = 1 + sum(self._accepted(self.variant, rows_R))
        return EvaluationSlice(name=name, acceptance_length=f"{length:.3f}", positions=positions)

    def _accepted(self, variant: Variant, rows_R: Tensor) -> list[float]:
        """Means over the anchors of these rows, one a draft step."""
        sums_K = self.sums.accepted_VRK[VARIANTS.index(variant), rows_R].sum(0)
        found: list[float] = (sums_K / self.sums.anchors_R[rows_R].sum().clamp_min(1)).tolist()
        return found

    def _of_variant(self, variant: Variant) -> Tensor:
        """Rows sampled as this variant has it."""
        return _mask((row.temperature <= 0) == (variant == "Greedy") for row in self.rows)


_LENGTH_NAMES = (*(name for _, name in LENGTHS), "length/over")


def _length(row: Row) -> str:
    """Bucket of a row."""
    return next((name for limit, name in LENGTHS if len(row.ids) <= limit), "length/over")


def _mask(chosen: Iterable[bool]) -> Tensor:
    return torch.tensor(list(chosen), dtype=torch.bool)


def _decimals(values: Sequence[float]) -> list[str]:
    return [f"{value:.3f}" for value in values]
