"""What a run reads: the target, the dataset made for it, and the drafter to start from.

Before any of it is downloaded its size, and that of the checkpoints to come, is held against what is free on disk.
Of several processes on a node the first one downloads, for all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from specop.api import reasons
from specop.api.estimate import drafter_shape
from specop.api.jobs import TrainingConfig
from specop.api.shared import Contract, TargetFacts, Weights
from specop.api.training_job import TrainingRows
from specop.common.errors import UserError
from specop.storage.blobs import FileEntry, Manifest, download_file, download_files, read_manifest
from specop.storage.job import Job
from specop.storage.stores import open_store
from specop.storage.target import download_target, target_facts, target_files
from specop.trainer.batches import Row, label_counts, read_counted, read_rows
from specop.trainer.config import Recipe
from specop.trainer.disk import check_room
from specop.trainer.group import Group


@dataclass(frozen=True, slots=True)
class Inputs:
    """Everything downloaded and checked."""

    facts: TargetFacts
    target: Path
    train: list[Row]
    holdout: list[Row]
    parent: Path | None
    """Folder of the drafter to start from."""
    counts: TrainingRows
    """What became of the rows to learn from."""


@dataclass(frozen=True, slots=True)
class _Files:
    """What lies on a node's disk."""

    facts: TargetFacts
    train: list[Path]
    holdout: list[Path]
    parent: Path | None

    def rows(self, recipe: Recipe) -> tuple[list[Row], TrainingRows, list[Row]]:
        """Read both splits. Held-out rows are cut whatever the policy: it changes what is learned, not the measure."""
        train, counts = read_counted(
            self.train, recipe.max_length, self.facts.vocab_size, drop=recipe.long_rows == "Drop"
        )
        return train, counts, read_rows(self.holdout, recipe.max_length, self.facts.vocab_size)


def download_inputs(config: TrainingConfig, job: Job[TrainingConfig], recipe: Recipe, group: Group) -> Inputs:
    """Download what the configuration names. Collective.

    Raises UserError: TargetMismatch, DatasetCorrupt, NoUsableRows, HoldoutTooShort, WarmStartMismatch, DiskFull, and
    what storage raises.
    """
    target = job.work_dir / "target"
    files, rows = None, None
    if group.place.local_rank == 0:
        files = _download(config, job, recipe)
        rows = files.rows(recipe)
        _check_rows(rows[1])
        _check_holdout(rows[2], recipe.decoding_heads)
        download_target(open_store(config.target, config.store), config.target, target)  # the largest: last
        job.check()
    group.meet("inputs")
    files = group.gather(files)[group.place.rank - group.place.local_rank]
    assert files is not None
    train, counts, holdout = rows or files.rows(recipe)
    return Inputs(files.facts, target, train, holdout, files.parent, counts)


def _check_rows(counts: TrainingRows) -> None:
    if counts.learned == 0:
        raise UserError(
            reasons.NO_USABLE_ROWS,
            f"No row is left to learn from: {counts.dropped} are longer than hyperparameters.maxLength and dropped, "
            f"{counts.unlabelled} have no generated token to learn within it. Raise maxLength, let longRows be Cut, or "
            "build a dataset of longer answers.",
        )


def _check_holdout(rows: Sequence[Row], steps: int) -> None:
    """Refuse a holdout without an anchor that has a label at every draft step: those alone are judged.

    All evaluations would be 1.0, and the last weights the best. To judge by fewer steps would choose weights, too, but
    by a figure that looks like an acceptance length and compares with no other drafter's.
    """
    if label_counts(rows, steps)[0][-1] == 0:
        raise UserError(
            reasons.HOLDOUT_TOO_SHORT,
            f"None of the {len(rows)} held-out rows has an answer of {steps + 1} tokens within hyperparameters."
            f"maxLength, which judging {steps} drafts takes: lower decodingHeads, raise maxLength, or build a dataset "
            "that holds out more.",
        )


def _download(config: TrainingConfig, job: Job[TrainingConfig], recipe: Recipe) -> _Files:
    """Download all but the target, which must be the one that the dataset was made for."""
    store = open_store(config.target, config.store)
    facts = target_facts(store, config.target)
    manifest = read_manifest(store, config.dataset.uri, config.dataset.digest)
    _check_target(manifest, facts)
    parent = _parent(config, config.warm_start, facts) if config.warm_start else None
    entries = [*_shards(manifest, "train-"), *_shards(manifest, "holdout-"), *(parent.files if parent else ())]
    size = sum(info.size for info in target_files(store, config.target)) + sum(entry.size for entry in entries)
    shape = drafter_shape(facts, facts.sizes, config.hyperparameters) if facts.sizes else None
    check_room(job.work_dir, size, recipe, shape.parameters if shape else 0)
    folder = job.work_dir / "parent"
    if parent and config.warm_start:
        download_files(open_store(config.warm_start.uri, config.store), config.warm_start.uri, parent, folder)
    train, holdout = (_downloaded(config, job, manifest, split) for split in ("train-", "holdout-"))
    return _Files(facts, train, holdout, folder if parent else None)


def _shards(manifest: Manifest, split: str) -> list[FileEntry]:
    """Return one split's shards."""
    return [entry for entry in manifest.files if entry.name.startswith(split) and entry.name.endswith(".parquet")]


def _downloaded(config: TrainingConfig, job: Job[TrainingConfig], manifest: Manifest, split: str) -> list[Path]:
    """Download one split's shards."""
    store, files = open_store(config.dataset.uri, config.store), []
    for entry in _shards(manifest, split):
        job.check()
        files.append(download_file(store, config.dataset.uri, manifest, entry.name, job.work_dir / "dataset"))
    return files


def _parent(config: TrainingConfig, parent: Weights, facts: TargetFacts) -> Manifest:
    """Read of what the drafter to start from is made, if its tokens are this target's; shapes are checked later."""
    manifest = read_manifest(open_store(parent.uri, config.store), parent.uri, parent.digest)
    made_for = Contract.model_validate(manifest.contract).target
    for field in ("tokenizer_hash", "vocab_size", "hidden_size", "num_layers"):
        theirs, ours = getattr(made_for, field), getattr(facts, field)
        if theirs != ours:
            raise UserError(
                reasons.WARM_START_MISMATCH,
                f"The drafter to start from was made for a target with {field} {theirs}, this one has {ours}: "
                "train from scratch instead.",
            )
    return manifest


def _check_target(manifest: Manifest, facts: TargetFacts) -> None:
    theirs, ours = manifest.contract.get("target", {}), facts.identity.to_json()
    differing = sorted(name for name in ours if theirs.get(name) != ours[name])
    if differing:
        raise UserError(
            reasons.TARGET_MISMATCH,
            f"The dataset was made for another target: {', '.join(differing)} differ. Build it again for this target.",
        )
