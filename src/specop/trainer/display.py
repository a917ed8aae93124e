"""What a run shows of itself while it works: stages, counts and rates, never content.

`Display` makes the figures: for `/progress` (from where they get into status, so they are rounded), for `/metrics`, and
for its listeners: the progress bar of a terminal (`bar.py`) and the record of the run (`record.py`).
"""

import logging
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

from prometheus_client import Gauge

from specop.api.jobs import TrainingConfig
from specop.api.training_job import TrainingProgress
from specop.common.clock import format_duration
from specop.common.errors import Terminal
from specop.storage.job import Job, Preempted
from specop.trainer.checkpoint import Progress
from specop.trainer.meter import Meter

log = logging.getLogger(__name__)

FIGURES = {
    "step": "Optimiser steps done.",
    "total_steps": "Optimiser steps of the whole run.",
    "tokens_per_second": "Tokens trained per second, lately.",
    "mfu_percent": "Share of the device's peak that the drafter's matrix products take, lately.",
    "memory_mib": "Peak memory in MiB: of the GPU, else of the process.",
    "loss": "Training loss, smoothed.",
    "acceptance_length": "Newest held-out mean tokens per target step.",
    "eta_seconds": "Estimate of the time that is left.",
}


class Listener(Protocol):
    """Follows a run."""

    def measured(self, meter: Meter) -> None:
        """Learn what a token costs and what the device could do."""

    def stage(self, name: str) -> None:
        """Follow into a stage that begins."""

    def training(self, shown: TrainingProgress, progress: Progress) -> None:
        """Follow a step that is done."""

    def evaluated(self, progress: Progress) -> None:
        """`progress.curve` may have grown."""

    def ended(self, reason: str) -> None:
        """End with the run: Completed, Preempted, the reason of a user's error, or Failed."""


class Display:
    """The page of one run; as a context manager it tells its listeners how the run ended."""

    def __init__(self, job: Job[TrainingConfig], listeners: Sequence[Listener] = ()) -> None:
        self._job = job
        self._listeners = listeners
        self._meter: Meter | None = None
        self._shown = TrainingProgress()
        self._gauges = {
            name: Gauge(f"specop_training_{name}", text, registry=job.registry) for name, text in FIGURES.items()
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        """Say how it ended."""
        match error:
            case None:
                reason = "Completed"
            case Preempted():
                reason = "Preempted"
            case Terminal():
                reason = error.reason
            case _:
                reason = "Failed"
        for listener in self._listeners:
            listener.ended(reason)

    def stage(self, name: str) -> None:
        """Begin a stage; raises Preempted once SIGTERM has come."""
        self._job.check()
        log.info("stage: %s", name)
        self._show(stage=name, eta_seconds=None)
        for listener in self._listeners:
            listener.stage(name)

    def measure_by(self, meter: Meter) -> None:
        """Show MFU and memory from now on."""
        self._meter = meter
        for listener in self._listeners:
            listener.measured(meter)

    def training(self, progress: Progress, total_steps: int, tokens_per_second: float) -> None:
        """Show where training stands."""
        self._show(
            step=progress.step,
            total_steps=total_steps,
            tokens_per_second=round(tokens_per_second),
            mfu_percent=self._meter.mfu_percent(tokens_per_second) if self._meter else None,
            memory_mib=self._meter.memory_mib() if self._meter else None,
            loss=f"{progress.loss or 0:.4f}",
            acceptance_length=_newest(progress),
            eta_seconds=round((total_steps - progress.step) * progress.seconds / max(progress.step, 1)),
        )
        for listener in self._listeners:
            listener.training(self._shown, progress)
            listener.evaluated(progress)

    def trained(self, progress: Progress) -> None:
        """Show the last evaluation."""
        self._show(acceptance_length=_newest(progress), eta_seconds=None)
        for listener in self._listeners:
            listener.evaluated(progress)

    def _show(self, **changed: object) -> None:
        shown = self._shown.model_copy(update=changed)
        left = shown.eta_seconds
        self._shown = shown.model_copy(update={"eta": None if left is None else format_duration(left)})
        self._job.report(self._shown)
        for name, gauge in self._gauges.items():
            gauge.set(float(getattr(self._shown, name) or 0))


def _newest(progress: Progress) -> str | None:
    return f"{progress.curve[-1]['acceptanceLength']:.3f}" if progress.curve else None
