"""What `/progress` and `/metrics` show of a run: stages, counts and rates, never content."""

import logging

from prometheus_client import Gauge

from specop.api.jobs import TrainingConfig
from specop.api.training_job import TrainingProgress
from specop.storage.job import Job
from specop.trainer.checkpoint import Progress

log = logging.getLogger(__name__)

FIGURES = {
    "step": "Optimiser steps done.",
    "tokens_per_second": "Tokens trained per second, lately.",
    "loss": "Training loss, smoothed.",
    "acceptance_length": "Newest held-out mean tokens per target step.",
}


class Display:
    """The page of one run."""

    def __init__(self, job: Job[TrainingConfig]) -> None:
        self._job = job
        self._shown = TrainingProgress()
        self._gauges = {
            name: Gauge(f"specop_training_{name}", text, registry=job.registry) for name, text in FIGURES.items()
        }

    def stage(self, name: str) -> None:
        """Begin a stage; raises Preempted once SIGTERM has come."""
        self._job.check()
        log.info("stage: %s", name)
        self._show(stage=name, eta_seconds=None)

    def training(self, progress: Progress, total_steps: int, tokens_per_second: float) -> None:
        """Show where training stands."""
        self._show(
            step=progress.step,
            total_steps=total_steps,
            tokens_per_second=round(tokens_per_second),
            loss=f"{progress.loss or 0:.4f}",
            acceptance_length=f"{progress.curve[-1]['acceptanceLength']:.3f}" if progress.curve else None,
            eta_seconds=round((total_steps - progress.step) * progress.seconds / max(progress.step, 1)),
        )

    def _show(self, **changed: object) -> None:
        self._shown = self._shown.model_copy(update=changed)
        self._job.report(self._shown)
        for name, gauge in self._gauges.items():
            gauge.set(float(getattr(self._shown, name) or 0))
