"""Checkpoints: everything that a run needs to go on, as one file on disk and in object storage.

    <work>/checkpoints/step-00000123.safetensors
    <output>/runs/<uid>/checkpoints/step-00000123.safetensors

A file holds the drafter's weights, the optimiser's state, the best weights so far and `Progress`: steps done (the order
of packs is a function of the step number, see `batches.py`), tokens, LKHybrid's acceptance, the curve. There is no
random state: nothing in training draws random numbers.

One file, written by the leader, serves any number of processes, whether their weights are cut or whole.

Races and failures: a file appears under its name when it is complete, on disk and in storage. A damaged one, or one of
a run with other inputs, is never used: the one before it is. Uploads run beside the training, which waits for none of
them: while storage does not answer it goes on, the newest checkpoint is tried next and those before it are given up,
and the disk holds no more of them than ever. `flush` (at SIGTERM) waits for the newest, and raises.
"""

import logging
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

from torch import Tensor

from specop.api.shared import Json
from specop.storage.base import NotFound, StorageUnreachable, Store, download
from specop.storage.uri import join
from specop.trainer.tensors import read_tensors, write_tensors

log = logging.getLogger(__name__)

KEPT = 2
"""Newest checkpoints that stay in storage: the last, and the one before it should that be damaged."""


@dataclass(slots=True)
class Progress:
    """Where a run stands."""

    step: int = 0
    """Optimiser steps done."""
    tokens: int = 0
    seconds: float = 0.0
    resumes: int = 0
    loss: float | None = None
    """Smoothed."""
    first_loss: float | None = None
    beyond: int = 0
    """Optimiser steps in a row, up to the last, whose loss was that of a lost run (`divergence.py`)."""
    alpha_K: list[float] | None = None
    """Mean acceptance per draft step at the last optimiser step (LKHybrid)."""
    evaluated: int = 0
    """Step of the last evaluation."""
    best_step: int = 0
    best_length: float = 0.0
    curve: list[dict[str, float]] = field(default_factory=list)
    """One entry an evaluation: step, tokens, seconds, loss, acceptanceLength."""


class Checkpoints:
    """Checkpoints of one run."""

    def __init__(self, folder: Path, store: Store, uri: str, inputs: str) -> None:
        """`uri`: folder in storage. `inputs`: digest over everything that decides the run's course."""
        self._folder = folder
        self._store = store
        self._uri = uri
        self._inputs = inputs
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="upload")
        self._uploading: Future[None] | None = None
        self._newest: Path | None = None

    def save(self, progress: Progress, tensors: dict[str, Tensor]) -> None:
        """Write a checkpoint to disk and begin its upload; raises OSError where the disk is full."""
        path = self._folder / f"step-{progress.step:08d}.safetensors"
        write_tensors(path, tensors, {"inputs": self._inputs, "progress": asdict(progress)})
        for old in sorted(self._folder.glob("step-*.safetensors"))[:-KEPT]:
            old.unlink()
        self._newest = path
        self._uploading = self._pool.submit(self._upload, path)

    def flush(self) -> None:
        """Wait for the upload; raises what it raised."""
        if self._uploading is not None:
            self._uploading.result()
            self._uploading = None

    def newest(self) -> tuple[Progress, dict[str, Tensor]] | None:
        """Return the newest checkpoint that is whole and belongs to these inputs, from disk or storage."""
        for path in self._candidates():
            found = read_tensors(path)
            if found is None:
                continue
            tensors, info = found
            if info.get("inputs") == self._inputs:
                return _progress(info), tensors
            log.warning("%s belongs to a run with other inputs and is ignored", path.name)
        return None

    def _candidates(self) -> Iterator[Path]:
        """Files from the newest on; where disk and storage both have one, that on disk comes first."""
        here = {path.name for path in self._folder.glob("step-*.safetensors")}
        there = {uri.rpartition("/")[2]: uri for uri in self._stored()}
        for name in sorted(here | set(there), reverse=True):
            if name in here:
                yield self._folder / name
            if name in there:
                try:
                    download(self._store, there[name], self._folder / name)
                except NotFound:  # an older pod of this run removed it
                    continue
                yield self._folder / name

    def _upload(self, path: Path) -> None:
        if path != self._newest:
            return  # it waited behind an upload that took long
        try:
            self._store.upload(path, join(self._uri, path.name))
            for uri in self._stored()[:-KEPT]:
                self._store.delete(uri)
        except (StorageUnreachable, FileNotFoundError) as error:
            log.warning("%s was not uploaded: %s", path.name, error)
            if path == self._newest:
                raise

    def _stored(self) -> list[str]:
        """URIs of the checkpoints in storage, oldest first."""
        found = (info.uri for info in self._store.list(f"{self._uri}/step-"))
        return sorted(uri for uri in found if uri.endswith(".safetensors"))


def _progress(info: Json) -> Progress:
    return Progress(**info["progress"])
