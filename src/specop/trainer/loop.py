"""The training loop.

One optimiser step is the packs of one batch, their gradients added up and weighed by the counts of the whole batch,
then clipped and applied. Between steps, and between packs, the loop looks whether it is to stop; a half-done step is
thrown away, so a checkpoint always stands between two steps and what follows it is what would have followed without
the stop.

The best weights are those with the greatest held-out joint acceptance length, not those with the least loss:
over-trained drafters accept less while their loss still falls.
"""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from specop.api import reasons
from specop.common.errors import UserError
from specop.storage.job import Preempted
from specop.trainer.batches import Batch, Pack, Plan, in_order
from specop.trainer.checkpoint import Checkpoints, Progress
from specop.trainer.config import Recipe
from specop.trainer.evaluate import Judgement, evaluate
from specop.trainer.losses import Labels, StepWeights, head_loss, step_weights
from specop.trainer.model import Eagle3
from specop.trainer.optim import adamw, learning_rate
from specop.trainer.states import States
from specop.trainer.vocabulary import draft_ids

log = logging.getLogger(__name__)

SMOOTHING = 0.9
"""Share of the old value in the smoothed loss."""
SPEED_STEPS = 10
"""Optimiser steps over which the speed is averaged."""
DTYPES = {"Float32": torch.float32, "BFloat16": torch.bfloat16}


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


Show = Callable[[Progress, int, float], None]
"""Gets progress, total steps and tokens per second, after every step."""


class Loop:
    """A drafter in training: model, optimiser, progress, and the best weights so far."""

    def __init__(self, model: Eagle3, course: Course, checkpoints: Checkpoints, stopping: threading.Event) -> None:
        self.model = model
        self.course = course
        self.progress = Progress()
        self.best = _weights(model)
        """The weights to keep."""
        self._plan = Plan([row.length for row in course.train.rows], course.digest, course.recipe)
        self._optimiser = adamw(model, course.recipe)
        self._checkpoints = checkpoints
        self._stopping = stopping
        self._draft_ids_V = draft_ids(course.vocabulary_D, model.config.vocab_size).to(course.device)
        self._compute = DTYPES[course.recipe.compute_dtype]

    def run(self, show: Show) -> None:
        """Train to the end, from the newest checkpoint if there is one.

        Raises Preempted at SIGTERM, with everything saved; UserError TrainingDiverged.
        """
        self._restore()
        progress, recipe, total = self.progress, self.course.recipe, self._plan.total
        marks = evaluation_steps(total, recipe.evaluations)
        recent: deque[float] = deque(maxlen=SPEED_STEPS)
        began, saved = time.monotonic() - progress.seconds, time.monotonic()
        try:
            while True:
                if progress.step in marks and progress.evaluated < progress.step:
                    self._evaluate()
                if progress.step >= total:
                    break
                before, tokens = time.monotonic(), progress.tokens
                self._step(self._plan.batch(progress.step), learning_rate(progress.step, total, recipe))
                progress.seconds = time.monotonic() - began
                recent.append((progress.tokens - tokens) / (time.monotonic() - before))
                show(progress, total, sum(recent) / len(recent))
                if time.monotonic() - saved >= recipe.checkpoint_seconds:
                    self._save()
                    saved = time.monotonic()
        except Preempted:
            self._save()
            self._checkpoints.flush()
            raise
        self._save()
        self._checkpoints.flush()

    def _step(self, batch: Batch, rate: float) -> None:
        """One optimiser step. Leaves everything as it was where it is stopped."""
        steps, rows = self.course.recipe.decoding_heads, self.course.train.rows
        count_K = [
            sum(column) for column in zip(*(rows[row].labels(steps) for pack in batch for row in pack), strict=True)
        ]
        weights = step_weights(self.course.recipe.loss, self.course.recipe.step_decay, count_K, self.progress.alpha_K)
        loss, alpha_K, tokens = 0.0, torch.zeros(steps), 0
        self._optimiser.zero_grad()
        for pack in packs(self.course.train, batch, self.course.device, self._stopping):
            value, sums_K = self._loss(pack, weights)
            value.backward()  # type: ignore[no-untyped-call]
            loss, tokens = loss + float(value.detach()), tokens + len(pack.next_N)
            alpha_K += sums_K.cpu().float()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.course.recipe.max_grad_norm)
        if not math.isfinite(loss) or not bool(torch.isfinite(norm)):
            raise UserError(
                reasons.TRAINING_DIVERGED,
                f"The loss or its gradient is not finite at step {self.progress.step}: lower "
                "hyperparameters.learningRate or maxGradNorm, or use computeDtype Float32.",
            )
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        self._optimiser.step()
        old = self.progress.loss
        self.progress.loss = loss if old is None else SMOOTHING * old + (1 - SMOOTHING) * loss
        self.progress.step += 1
        self.progress.tokens += tokens
        self.progress.alpha_K = [float(a) / max(count, 1) for a, count in zip(alpha_K, count_K, strict=True)]

    def _loss(self, pack: Pack, weights: Sequence[StepWeights]) -> tuple[Tensor, Tensor]:
        device = self.course.device.type
        with torch.autocast(device, torch.bfloat16, enabled=self._compute == torch.bfloat16):
            hidden_KAH = torch.stack(list(self.model.unroll(pack, self.course.recipe.decoding_heads)))
        argmax_A, served_A = self._draft_ids_V[pack.argmax_A.long()], self._draft_ids_V[pack.served_A]
        labels = Labels(pack.last_AH, pack.lse_A, argmax_A, served_A, pack.end_A)
        teacher, head_DH = self.course.teacher, self.model.lm_head.weight
        return head_loss(hidden_KAH, head_DH, labels, teacher=teacher, weights=weights, compute=self._compute)

    def _evaluate(self) -> None:
        judgement, progress = judge(self.model, self.course, self._stopping), self.progress
        progress.evaluated = progress.step
        if judgement.acceptance_length >= progress.best_length:
            progress.best_step, progress.best_length = progress.step, judgement.acceptance_length
            self.best = _weights(self.model)
        progress.curve.append(
            {
                "step": progress.step,
                "tokens": progress.tokens,
                "seconds": round(progress.seconds, 1),
                "loss": round(progress.loss or 0.0, 4),
                "acceptanceLength": round(judgement.acceptance_length, 4),
                "expected": round(judgement.expected, 4),
            }
        )
        log.info("held out: %s", progress.curve[-1])

    def _save(self) -> None:
        moments = self._optimiser.state_dict()["state"]
        self._checkpoints.save(
            self.progress,
            {
                **{f"model.{name}": tensor for name, tensor in self.model.state_dict().items()},
                **{f"best.{name}": tensor for name, tensor in self.best.items()},
                **{f"optimiser.{i}.{name}": tensor for i, state in moments.items() for name, tensor in state.items()},
            },
        )

    def _restore(self) -> None:
        found = self._checkpoints.newest()
        if found is None:
            return
        self.progress, tensors = found
        self.progress.resumes += 1
        self.model.load_state_dict(_named(tensors, "model."))
        self.best = {name: tensor.clone() for name, tensor in _named(tensors, "best.").items()}
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _named(tensors, "optimiser.").items():
            index, _, key = name.partition(".")
            moments.setdefault(int(index), {})[key] = tensor.clone()
        groups = self._optimiser.state_dict()["param_groups"]
        self._optimiser.load_state_dict({"state": moments, "param_groups": groups})
        log.info("goes on after step %d", self.progress.step)


def judge(model: Eagle3, course: Course, stopping: threading.Event) -> Judgement:
    """Judge a drafter on the holdout."""
    batch = in_order([row.length for row in course.holdout.rows])
    steps, compute = course.recipe.decoding_heads, DTYPES[course.recipe.compute_dtype]
    vocabulary_D = course.vocabulary_D.to(course.device)
    return evaluate(model, packs(course.holdout, batch, course.device, stopping), vocabulary_D, steps, compute)


def packs(states: States, batch: Batch, device: torch.device, stopping: threading.Event) -> Iterator[Pack]:
    """Packs of a batch, one after another; raises Preempted between two of them."""
    for members in batch:
        if stopping.is_set():
            raise Preempted
        yield states.pack(members, device)


def evaluation_steps(total: int, evaluations: int) -> frozenset[int]:
    """Numbers of steps after which the holdout is judged: evenly spread, the last step among them."""
    return frozenset(math.ceil(total * (i + 1) / evaluations) for i in range(evaluations))


def _weights(model: Eagle3) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}


def _named(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
