"""How `benchmarks.quality` judges: our evaluator one request at a time, and a ratio over requests with its interval.

Accepted tokens per draft are counted in two ways. Joint: a draft at every position, as acceptance length is defined for
a holdout. Walked: drafts only where an engine would make them, each where its last one ended; a worse drafter ends
more often at the hard places, behind which text is easy, so the two ways differ.
"""

import random
import sys
import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from specop.trainer.batches import Row, read_rows
from specop.trainer.config import Recipe
from specop.trainer.judgement import serving_temperature, variant_of
from specop.trainer.loop import Course, judge
from specop.trainer.model import Eagle3
from specop.trainer.states import Sizes, States
from specop.trainer.teacher import Teacher

RESAMPLES = 2000
CONFIDENCE = 0.95
Counts = list[tuple[float, float]]
"""Of each request: drafts, and tokens accepted of them."""


class Judge:
    """Our evaluator over requests that no run has seen, one request at a time."""

    def __init__(self, target: Path, file: Path, folder: Path) -> None:
        self._target, self._folder = target, folder
        rows = read_rows([file], 8192, self.teacher.config.vocab_size)
        self.rows = self.teacher.grammars.known(rows)  # judged against what the grammar allowed, as an engine verifies

    @cached_property
    def teacher(self) -> Teacher:
        """The target."""
        return Teacher(self._target, torch.float32, torch.device("cpu"))

    @cached_property
    def states(self) -> States:
        """Its states on those requests."""
        sizes = Sizes(self.teacher.config.hidden_size, len(self.teacher.layers))
        states = States(self._folder / "states", self.rows, self.teacher, sizes, self.teacher.grammars.masks)
        states.fit(sys.maxsize)
        states.make(states.missing(), lambda _: None)
        return states

    def counts(self, model: Eagle3, vocabulary_D: Tensor, knobs: Recipe) -> dict[str, Counts]:
        """Judge a drafter, in both ways."""
        head_DH = self.teacher.head_VH[vocabulary_D]
        found: dict[str, Counts] = {"joint": [], "walked": []}
        for index in range(len(self.rows)):
            one = One(self.states, index)
            course = Course(
                recipe=knobs,
                digest="",
                train=one,  # type: ignore[arg-type]
                holdout=one,  # type: ignore[arg-type]
                vocabulary_D=vocabulary_D,
                teacher=lambda last_CH: self.teacher.logits(last_CH, head_DH),
                device=torch.device("cpu"),
                variant=variant_of(serving_temperature(self.rows), knobs.draft_sample_method),
            )
            judged = judge(model, course, threading.Event())
            found["joint"].append((judged.anchors, round((judged.acceptance_length - 1) * judged.anchors, 6)))
            found["walked"].append(judged.walked)
        return found


class One:
    """States of a single row of many."""

    def __init__(self, states: States, index: int) -> None:
        self.rows: Sequence[Row] = [states.rows[index]]
        self._states, self._index = states, index

    def pack(self, members: Sequence[int], device: torch.device) -> Any:
        """Assemble it."""
        return self._states.pack([self._index for _ in members], device)


def bootstrap(ours: Sequence[Counts], theirs: Sequence[Counts]) -> tuple[float, float, float]:
    """Ratio of accepted tokens per draft, and its interval: requests are drawn, the same ones for both arms."""
    requests = range(len(ours[0]))
    chance = random.Random(0)

    def ratio(drawn: Sequence[int]) -> float:
        mine, others = (
            sum(accepted_length([counts[request] for request in drawn]) for counts in side) / len(side)
            for side in (ours, theirs)
        )
        return mine / max(others, 1e-9)

    found = sorted(ratio(chance.choices(requests, k=len(requests))) for _ in range(RESAMPLES))
    edge = round((1 - CONFIDENCE) / 2 * RESAMPLES)
    return ratio(requests), found[edge], found[-edge - 1]


def accepted_length(counts: Counts) -> float:
    """Return accepted tokens per draft."""
    return sum(accepted for _, accepted in counts) / max(sum(drafts for drafts, _ in counts), 1)
