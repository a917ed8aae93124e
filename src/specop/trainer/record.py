"""The record of a run, kept beside it: its events in storage, and what its trackers are told.

Minds that a run is neither stopped nor slowed: all that goes over the network is sent from a thread of its own, in
order; only the end waits for it.
"""

import time
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from specop.api.training_job import TrainingProgress
from specop.trainer.checkpoint import Progress
from specop.trainer.events import Events
from specop.trainer.meter import Meter
from specop.trainer.trackers import Trackers

SECONDS = 10.0
"""Time between two points of the training curve."""


class Record:
    """A listener of `Display`."""

    def __init__(self, events: Events, trackers: Trackers) -> None:
        self._events = events
        self._trackers = trackers
        self._recorded = float("-inf")
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="record")
        self._writing: Future[None] | None = None

    def measured(self, meter: Meter) -> None:
        """Log that training begins, and on what."""
        self._events.add(
            "started",
            attempt=self._events.attempt,
            device=device_name(meter.device),
            peakTflops=round(meter.peak / 1e12, 2),
            mflopsPerToken=round(meter.flops_per_token / 1e6, 2),
        )

    def stage(self, name: str) -> None:
        """Log it."""
        self._events.add("stage", stage=name)

    def training(self, shown: TrainingProgress, progress: Progress) -> None:
        """Log a point of the curve, now and then."""
        now = time.monotonic()
        if now - self._recorded < SECONDS:
            return
        figures = {
            "loss": round(progress.loss or 0.0, 4),
            "tokensPerSecond": shown.tokens_per_second,
            "mfuPercent": shown.mfu_percent,
            "memoryMib": shown.memory_mib,
        }
        if self._events.training(progress.step, tokens=progress.tokens, **figures):
            self._recorded = now
            self._tell(progress.step, figures)

    def evaluated(self, progress: Progress) -> None:
        """Log new evaluations, and write all events."""
        found = self._events.evaluations(progress)
        for point in found:
            self._tell(point["step"], {"acceptanceLength": point["acceptanceLength"], "expected": point["expected"]})
        if found and (self._writing is None or self._writing.done()):
            self._writing = self._pool.submit(self._write)

    def ended(self, reason: str) -> None:
        """Write everything, and wait for it."""
        self._events.add("ended", reason=reason)
        self._pool.submit(self._events.write)
        self._pool.submit(self._trackers.close)
        self._pool.shutdown()

    def _tell(self, step: int, figures: dict[str, float | None]) -> None:
        told = {name: value for name, value in figures.items() if value is not None}
        self._pool.submit(self._trackers.log, step, told)

    def _write(self) -> None:
        self._events.write()
        self._trackers.flush()


def device_name(device: torch.device) -> str:
    """Name a device for people."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
