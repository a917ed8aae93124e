"""The training loop.

One optimiser step is the packs of one batch, their gradients added up and weighed by the counts of the whole batch,
then clipped and applied. Of N ranks each takes every N-th pack of a batch; which packs a batch has does not depend on
N, and every rank knows the counts of all. Before the gradients are reduced, the ranks add up a few figures: the loss,
the sums of alpha, and whether one of them is to stop or the leader wants a checkpoint. So all of them stop, and save,
at the same step. These figures are all that the CPU waits for on a GPU. The norm of the gradients comes with those of
the next step, by when the GPU has clipped and applied them; nothing is kept before it was looked at.

Between packs the loop looks whether it is to stop; a half-done step is thrown away, so a checkpoint always stands
between two steps and what follows it is what would have followed without the stop.

The best weights are those with the greatest held-out joint acceptance length, not those with the least loss:
over-trained drafters accept less while their loss still falls.
"""

import logging
import math
import operator
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from specop.storage.job import Preempted
from specop.trainer.batches import Batch, Pack, Plan, in_order, label_counts
from specop.trainer.checkpoint import Checkpoints, Progress
from specop.trainer.config import DTYPES, Recipe
from specop.trainer.divergence import check_finite, check_growth
from specop.trainer.evaluate import Sums, Variant, evaluate
from specop.trainer.feed import feed
from specop.trainer.group import Group, PeerLost
from specop.trainer.judgement import Judgement
from specop.trainer.losses import step_weights
from specop.trainer.model import Eagle3
from specop.trainer.objective import Objective
from specop.trainer.optim import Average, learning_rate, optimiser
from specop.trainer.replicas import Replicas, Shards, copies, gathered, placed
from specop.trainer.states import States

log = logging.getLogger(__name__)

SMOOTHING = 0.9
"""Share of the old value in the smoothed loss."""
SPEED_STEPS = 10
"""Optimiser steps over which the speed is averaged."""


@dataclass(frozen=True, slots=True)
class Course:
    """What a run is made of."""

    recipe: Recipe
    digest: str
    """Of the dataset."""
    train: States
    holdout: States
    vocabulary_D: Tensor
    """Ids of the draft vocabulary's tokens."""
    teacher: Callable[[Tensor], Tensor]
    """From the target's final states (C, H) to its logits on the draft vocabulary (C, D)."""
    device: torch.device
    sharded: bool = False
    """Weights, gradients and optimiser state are cut over the ranks."""
    variant: Variant = "Greedy"
    """By which the best weights are chosen."""


Show = Callable[[Progress, int, float], None]
"""Gets progress, total steps and tokens per second, after every step."""


class Loop:
    """A drafter in training: model, optimiser, progress, and the best weights so far."""

    def __init__(
        self,
        model: Eagle3,
        course: Course,
        checkpoints: Checkpoints,
        stopping: threading.Event,
        group: Group | None = None,
    ) -> None:
        self.model = model
        self.course = course
        self.progress = Progress()
        self._group = group or Group()
        self._plan = Plan([row.length for row in course.train.rows], course.digest, course.recipe)
        objective = Objective(
            model,
            vocabulary_D=course.vocabulary_D,
            teacher=course.teacher,
            steps=course.recipe.decoding_heads,
            compute=DTYPES[course.recipe.compute_dtype],
        )
        cut = course.sharded and not self._group.alone
        self._replicas = Shards(objective, self._group) if cut else Replicas(objective, self._group)
        self._optimiser = optimiser(model, course.recipe, self._group)
        decay = course.recipe.ema_decay
        self._average = None if decay is None else Average(model, decay)
        self._checkpoints = checkpoints
        self._stopping = stopping
        self._saved = 0.0
        self._norm = torch.zeros((), device=course.device)
        """Of the last step's gradients, on the device: nothing waits for it but the next step's figures."""
        self.best = self._copies(model.state_dict())
        """The weights to keep; the leader has them."""

    def run(self, show: Show) -> None:
        """Train to the end, from the newest checkpoint if there is one.

        Raises Preempted at SIGTERM to any rank, with everything saved; UserError TrainingDiverged.
        """
        self._restore()
        try:
            self._train(show)
        except PeerLost:
            raise
        except Preempted:
            self._save()
            self._checkpoints.flush()
            raise
        self._save()

    def _train(self, show: Show) -> None:
        progress, recipe, total = self.progress, self.course.recipe, self._plan.total
        marks = evaluation_steps(total, recipe.evaluations)
        recent: deque[float] = deque(maxlen=SPEED_STEPS)
        began, self._saved = time.monotonic() - progress.seconds, time.monotonic()
        with closing(feed(self.course.train, self._mine(progress.step), self.course.device)) as packs:
            while True:
                if progress.step in marks and progress.evaluated < progress.step:
                    self._evaluate()
                if progress.step >= total or past_its_best(progress, recipe.early_stop_evaluations):
                    break
                before, tokens = time.monotonic(), progress.tokens
                save = self._step(self._plan.batch(progress.step), packs, learning_rate(progress.step, total, recipe))
                progress.seconds = time.monotonic() - began
                recent.append((progress.tokens - tokens) / (time.monotonic() - before))
                show(progress, total, sum(recent) / len(recent))
                if save:
                    self._save()

    def _mine(self, first_step: int) -> Iterator[list[int]]:
        """Packs of this rank, from a step on to the end of the run."""
        for step in range(first_step, self._plan.total):
            yield from self._group.share(self._plan.batch(step))

    def _step(self, batch: Batch, packs: Iterator[Pack], rate: float) -> bool:
        """One optimiser step over a batch, this rank's packs of which come next; returns whether a checkpoint is due.

        Leaves everything as it was where it is stopped.
        """
        recipe, rows, progress = self.course.recipe, self.course.train.rows, self.progress
        count_K, known_K = label_counts((rows[row] for pack in batch for row in pack), recipe.decoding_heads)
        weights = step_weights(recipe.loss, recipe.step_decay, count_K, progress.alpha_K)
        sums_J = torch.zeros(1 + recipe.decoding_heads, dtype=torch.float64, device=self.course.device)
        self._replicas.begin()
        for _ in self._group.share(batch):
            if self._stopping.is_set():
                break
            value, alpha_K = self._replicas.add(next(packs), weights)
            sums_J += torch.cat([value[None], alpha_K])
        due = self._group.leader and time.monotonic() - self._saved >= recipe.checkpoint_seconds
        flags = torch.tensor([self._stopping.is_set(), due], dtype=torch.float64)
        figures = torch.cat([sums_J, self._norm[None]]).cpu()  # here, once a step, the CPU waits for a GPU
        stop, save, loss, *alphas, norm = self._group.sum(torch.cat([flags, figures])).tolist()
        check_finite(norm, progress.step)
        if stop:
            raise Preempted
        check_finite(loss, progress.step)
        check_growth(progress, loss, recipe, len(self.course.vocabulary_D))
        self._replicas.reduce()
        self._norm = gathered(torch.nn.utils.clip_grad_norm_(self.model.parameters(), recipe.max_grad_norm))
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        self._optimiser.step()
        if self._average:
            self._average.update(progress.step + 1)
        progress.loss = loss if progress.loss is None else SMOOTHING * progress.loss + (1 - SMOOTHING) * loss
        progress.step += 1
        progress.tokens += sum(rows[row].length for pack in batch for row in pack)
        progress.alpha_K = [alpha / max(count, 1) for alpha, count in zip(alphas, known_K, strict=True)]
        return bool(save)

    def _evaluate(self) -> None:
        check_finite(float(self._norm), self.progress.step)
        progress = self.progress
        with self._average.applied() if self._average else nullcontext():
            with self._replicas.whole():
                judgement = judge(self.model, self.course, self._stopping, self._group)
            progress.evaluated = progress.step
            if judgement.acceptance_length >= progress.best_length:
                progress.best_step, progress.best_length = progress.step, judgement.acceptance_length
                self.best = self._copies(self.model.state_dict())
        progress.curve.append(
            {
                "step": progress.step,
                "tokens": progress.tokens,
                "seconds": round(progress.seconds, 1),
                "loss": round(progress.loss or 0.0, 4),
                "acceptanceLength": round(judgement.acceptance_length, 4),
                "expected": round(judgement.served_length, 4),
            }
        )
        log.info("held out: %s", progress.curve[-1])

    def _save(self) -> None:
        """Let the leader write a checkpoint. Collective where weights are cut."""
        check_finite(float(self._norm), self.progress.step)
        moments, average = self._optimiser.state_dict()["state"], self._average.tensors if self._average else {}
        tensors = self._copies(
            {
                **{f"model.{name}": tensor for name, tensor in self.model.state_dict().items()},
                **{f"average.{name}": tensor for name, tensor in average.items()},
                **{f"optimiser.{i}.{name}": tensor for i, state in moments.items() for name, tensor in state.items()},
            }
        )
        if self._group.leader:
            self._checkpoints.save(
                self.progress, {**tensors, **{f"best.{name}": tensor for name, tensor in self.best.items()}}
            )
        self._saved = time.monotonic()

    def _restore(self) -> None:
        """Go on from the leader's newest checkpoint: it reads, all others get what they need of it. Collective."""
        found = self._checkpoints.newest() if self._group.leader else None
        progress, tensors = found or (None, dict[str, Tensor]())
        progress = self._group.tell(progress)
        if progress is None:
            return
        self.progress = progress
        self.progress.resumes += 1
        self.best = {name: tensor.clone() for name, tensor in _named(tensors, "best.").items()}
        parameters, average = dict(self.model.named_parameters()), self._average.tensors if self._average else {}
        trained = [parameter for group in self._optimiser.param_groups for parameter in group["params"]]
        moments: dict[int, dict[str, Tensor]] = {}
        kinds = {name: (x.shape, x.dtype) for name, x in tensors.items() if not name.startswith("best.")}
        for name, (shape, dtype) in self._group.tell(kinds).items():
            whole = torch.empty(shape, dtype=dtype, device=self.course.device)
            if self._group.leader:
                whole.copy_(tensors[name])
            self._group.copy(whole)
            what, _, rest = name.partition(".")
            if what == "model":
                with torch.no_grad():
                    parameters[rest].copy_(placed(whole, parameters[rest]))
            elif what == "average":
                average[rest].copy_(placed(whole, parameters[rest]))
            else:
                index, _, key = rest.partition(".")
                moments.setdefault(int(index), {})[key] = placed(whole, trained[int(index)])
        groups = self._optimiser.state_dict()["param_groups"]
        self._optimiser.load_state_dict({"state": moments, "param_groups": groups})
        log.info("goes on after step %d", self.progress.step)

    def _copies(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return copies(tensors, keep=self._group.leader)


def judge(model: Eagle3, course: Course, stopping: threading.Event, group: Group | None = None) -> Judgement:
    """Judge a drafter on the holdout, each rank its share; raises Preempted on all ranks where one is to stop."""
    group = group or Group()
    rows = course.holdout.rows
    batch = group.share(in_order([row.length for row in rows]))
    mine: Sums | None = None
    with suppress(Preempted):
        mine = evaluate(
            model,
            rows,
            zip(batch, packs(course.holdout, batch, course.device, stopping), strict=True),
            vocabulary_D=course.vocabulary_D.to(course.device),
            teacher=course.teacher,
            steps=course.recipe.decoding_heads,
            compute=DTYPES[course.recipe.compute_dtype],
        )
    found = [part for part in group.gather(mine) if part is not None]
    if len(found) < group.place.size:
        raise Preempted
    return Judgement(rows, reduce(operator.add, found), course.variant)


def packs(states: States, batch: Batch, device: torch.device, stopping: threading.Event) -> Generator[Pack, None, None]:
    """Packs of a batch, one after another; raises Preempted between two of them."""
    with closing(feed(states, batch, device)) as ready:
        for pack in ready:
            if stopping.is_set():
                raise Preempted
            yield pack


def evaluation_steps(total: int, evaluations: int) -> frozenset[int]:
    """Numbers of steps after which the holdout is judged: evenly spread, the last step among them."""
    return frozenset(math.ceil(total * (i + 1) / evaluations) for i in range(evaluations))


def past_its_best(progress: Progress, patience: int | None) -> bool:
    """Whether the last `patience` evaluations were all worse than the best before them."""
    return patience is not None and sum(point["step"] > progress.best_step for point in progress.curve) >= patience


def _named(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
