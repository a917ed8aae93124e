"""A progress bar for whoever runs the trainer in a terminal; nothing where stderr is no terminal, as in a pod."""

import logging
from typing import TextIO

from specop.api.training_job import TrainingProgress
from specop.trainer.checkpoint import Progress
from specop.trainer.meter import Meter

WIDTH = 24
CLEAR = "\r\x1b[2K"


class Bar:
    """One line at the bottom of a terminal; lines of the log go above it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._line = ""
        for handler in logging.getLogger().handlers:
            handler.addFilter(self._make_way)

    def measured(self, meter: Meter) -> None:
        """Nothing: the next step shows it."""

    def stage(self, name: str) -> None:
        """Take the bar away: only training has a length that is known."""
        del name
        self._draw("")

    def training(self, shown: TrainingProgress, progress: Progress) -> None:
        """Draw it."""
        del progress
        self._draw(line(shown))

    def evaluated(self, progress: Progress) -> None:
        """Nothing: the next step shows it."""

    def ended(self, reason: str) -> None:
        """Take it away."""
        del reason
        self._draw("")

    def _draw(self, text: str) -> None:
        if text != self._line:
            self._line = text
            self._stream.write(CLEAR + text)
            self._stream.flush()

    def _make_way(self, record: logging.LogRecord) -> bool:
        del record
        self._draw("")
        return True


def line(shown: TrainingProgress) -> str:
    """Write one line of figures."""
    done = shown.step / max(shown.total_steps, 1)
    filled = round(done * WIDTH)
    parts = [
        f"{done:4.0%} |{'█' * filled}{'·' * (WIDTH - filled)}| {shown.step}/{shown.total_steps}",
        f"{shown.tokens_per_second:,} tok/s",
        f"loss {shown.loss}",
    ]
    if shown.acceptance_length is not None:
        parts.append(f"accepts {shown.acceptance_length}")
    if shown.mfu_percent is not None:
        parts.append(f"MFU {shown.mfu_percent} %")
    if shown.eta_seconds is not None:
        minutes, seconds = divmod(shown.eta_seconds, 60)
        parts.append(f"{minutes // 60}:{minutes % 60:02}:{seconds:02} left")
    return "  ".join(parts)
