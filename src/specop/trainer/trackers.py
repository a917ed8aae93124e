"""Experiment trackers: TensorBoard, Weights & Biases, MLflow, for teams that compare runs there.

None is needed and none is installed with the trainer. The pod's environment names those that are wanted,
`TRACKERS=TensorBoard,WandB,MLflow`, and configures them by their own variables (`WANDB_PROJECT`, `MLFLOW_TRACKING_URI`,
…); only then their packages are imported, and one that is absent is refused before a GPU is used. A tracker that fails
later never stops a run: it is told nothing more.

TensorBoard's files are copied to `<output>/runs/<uid>/tensorboard/`, from where `tensorboard --logdir` reads them.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from specop.api import reasons
from specop.api.jobs import RunConfig
from specop.common.errors import UserError
from specop.storage.base import Store
from specop.storage.uri import join

log = logging.getLogger(__name__)

VARIABLE = "TRACKERS"
"""Environment variable that names the trackers that are wanted."""


class Tracker(Protocol):
    """One run in one tracker. Any exception of it is taken as that the tracker is out of order."""

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Figures at an optimiser step."""

    def flush(self) -> None:
        """Make visible what was logged."""

    def close(self) -> None:
        """End the run in the tracker."""


class TensorBoard:
    """Event files, copied to object storage."""

    def __init__(self, config: RunConfig, work_dir: Path, store: Store) -> None:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - only where it is wanted

        self._folder = work_dir / "tensorboard"
        self._store = store
        self._uri = join(config.output, "runs", config.uid, "tensorboard")
        self._writer: Any = SummaryWriter(str(self._folder))

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Write scalars."""
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def flush(self) -> None:
        """Copy the files."""
        self._writer.flush()
        for file in self._folder.iterdir():
            self._store.upload(file, join(self._uri, file.name))

    def close(self) -> None:
        """Close and copy the files."""
        self._writer.close()
        self.flush()


class WandB:
    """A run of Weights & Biases, the same over all attempts."""

    def __init__(self, config: RunConfig, work_dir: Path, _store: Store) -> None:
        import wandb  # noqa: PLC0415 - only where it is wanted

        self._run: Any = wandb.init(id=config.uid, name=_name(config), dir=str(work_dir), resume="allow")

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Log figures."""
        self._run.log(dict(figures), step=step)

    def flush(self) -> None:
        """Do nothing: it sends by itself."""

    def close(self) -> None:
        """Wait until all is sent."""
        self._run.finish()


class MLflow:
    """A run of MLflow, one an attempt, tagged with the job's uid."""

    def __init__(self, config: RunConfig, _work_dir: Path, _store: Store) -> None:
        import mlflow  # noqa: PLC0415 - only where it is wanted

        self._mlflow: Any = mlflow
        mlflow.start_run(run_name=_name(config), tags={"specop.uid": config.uid})

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Log metrics."""
        self._mlflow.log_metrics(dict(figures), step=step)

    def flush(self) -> None:
        """Do nothing: it sends by itself."""

    def close(self) -> None:
        """End the run."""
        self._mlflow.end_run()


KNOWN: dict[str, Callable[[RunConfig, Path, Store], Tracker]] = {
    "TensorBoard": TensorBoard,
    "WandB": WandB,
    "MLflow": MLflow,
}


class Trackers:
    """All trackers of a run; one that fails is dropped."""

    def __init__(self, wanted: str, config: RunConfig, work_dir: Path, store: Store) -> None:
        """`wanted`: the variable's value. Raises UserError TrackerUnavailable for an unknown or absent one."""
        self._open: dict[str, Tracker] = {}
        for name in filter(None, (part.strip() for part in wanted.split(","))):
            if name not in KNOWN:
                raise UserError(
                    reasons.TRACKER_UNAVAILABLE, f"{VARIABLE} names {name}: what is known is {', '.join(KNOWN)}."
                )
            try:
                self._open[name] = KNOWN[name](config, work_dir, store)
            except ImportError as error:
                raise UserError(
                    reasons.TRACKER_UNAVAILABLE,
                    f"{VARIABLE} names {name}, which this image lacks: build one with specop[{name.lower()}], or take "
                    "the name out.",
                ) from error
            except Exception as error:  # noqa: BLE001 - as below
                _dropped(name, error)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Tell all of them."""
        self._each(lambda tracker: tracker.log(step, figures))

    def flush(self) -> None:
        """Flush all of them."""
        self._each(lambda tracker: tracker.flush())

    def close(self) -> None:
        """Close all of them."""
        self._each(lambda tracker: tracker.close())

    def _each(self, call: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._open.items()):
            try:
                call(tracker)
            except Exception as error:  # noqa: BLE001 - foreign code must not end a run of hours
                _dropped(name, error)
                del self._open[name]


def _dropped(name: str, error: Exception) -> None:
    log.warning("tracker %s failed and is told nothing more: %s", name, type(error).__name__)


def _name(config: RunConfig) -> str:
    return f"{config.namespace}/{config.name}"
