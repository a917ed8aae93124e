"""The dataset Job from its configuration to a published manifest.

Nothing is seen before the manifest is written, last; a run that is struck down leaves blobs that no manifest names. The
log, the progress and every message say how many and where, never what a row holds.
"""

import json
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from specop.api import reasons
from specop.api.dataset import DatasetCounts, DatasetFacts, DatasetProgress
from specop.api.jobs import DatasetConfig
from specop.api.shared import TargetFacts
from specop.common.errors import UserError
from specop.data.build import Builder, Built, rows_digest
from specop.data.decide import Survey
from specop.data.formats import DROPPED, Fate, Json
from specop.data.normalise import Unused, normalise
from specop.data.sources import SourceObject, list_objects
from specop.data.tokens import TargetText
from specop.storage.blobs import Manifest, dataset_digest, put_files, write_manifest
from specop.storage.job import Job, run_job
from specop.storage.stores import open_store
from specop.storage.target import download_target, target_facts

_PASSES = 2
_REPORT = "report.json"


def main() -> int:
    """Run the Job's process."""
    return run_job("dataset", DatasetConfig, make_dataset, private=True)


def make_dataset(config: DatasetConfig, job: Job[DatasetConfig]) -> DatasetFacts:
    """Make one dataset. Raises UserError for everything that a user can mend."""
    folder = job.work_dir / "dataset"
    shutil.rmtree(folder, ignore_errors=True)  # what a killed container left
    meter = _Meter(job)
    meter.show("Listing")
    store = open_store(config.target, config.store)
    facts = target_facts(store, config.target)
    download_target(store, config.target, job.work_dir / "target", weights=False)
    target = TargetText(job.work_dir / "target")
    objects = list_objects(config)
    meter.total = _PASSES * sum(item.info.size for item in objects)
    unused = Unused()
    with Survey(job.work_dir / "survey") as survey:
        survey.read(meter.watch("Reading", normalise(objects, meter.add, unused)))
        _check(config, survey.counts(), unused)
        survey.decide([source.weight for source in config.sources], config.holdout)
        counts = Counter(survey.counts())
        builder = Builder(target, [source.name for source in config.sources], config.transform.max_length, survey)
        batches = meter.watch("Writing", normalise(objects, meter.add))
        for _ in builder.build(batches, survey.fates(), folder):
            pass
        rows = rows_digest(survey.hashes())
    made = _Made(config, facts, builder.built, _corrected(counts, builder.built), unused, objects)
    if not builder.built.rows or not builder.built.holdout_rows:
        raise UserError(reasons.NO_USABLE_ROWS, made.why_unusable())
    meter.show("Publishing")
    return _publish(made, rows, folder)


def _check(config: DatasetConfig, counts: dict[tuple[int, Fate], int], unused: Unused) -> None:
    """Refuse what is too little or too broken to go on with."""
    for index, source in enumerate(config.sources):
        read = sum(count for (of, _), count in counts.items() if of == index)
        if source.window and read < source.min_requests:
            raise UserError(
                reasons.TOO_FEW_REQUESTS,
                f"Source {source.name!r}: {read} captured requests between {source.window.since} and "
                f"{source.window.until}, minRequests is {source.min_requests}. Widen the window, wait for traffic, or "
                "lower minRequests.",
            )
    read = sum(counts.values())
    bad = sum(count for (_, fate), count in counts.items() if fate is Fate.SET_ASIDE)
    if bad * 100 > config.transform.max_bad_percent * read:
        places = [f"{place['object']} at {place['offset']}: {place['reason']}" for place in unused.places[:3]]
        first = "; ".join(places)
        raise UserError(
            reasons.TOO_MANY_BAD_LINES,
            f"{bad} of {read} lines are malformed, maxBadPercent is {config.transform.max_bad_percent}. First, by "
            f"byte: {first}. Mend the files or raise maxBadPercent.",
        )


def _corrected(counts: Counter[tuple[int, Fate]], built: Built) -> Counter[tuple[int, Fate]]:
    """Correct counts by source and fate by what the second pass found."""
    after = Counter(counts)
    for (source, was, now), count in built.corrected.items():
        after[source, was] -= count
        after[source, now] += count
    return after


@dataclass(frozen=True)
class _Made:
    """Everything that is known of a dataset before it is published."""

    config: DatasetConfig
    target: TargetFacts
    built: Built
    fates: Counter[tuple[int, Fate]]
    unused: Unused
    objects: list[SourceObject]

    def by_fate(self) -> Counter[Fate]:
        """Exchanges of all sources by what became of them."""
        found: Counter[Fate] = Counter()
        for (_, fate), count in self.fates.items():
            found[fate] += count
        return found

    def counts(self) -> DatasetCounts:
        """Return what status shows of them: read = kept + dropped + setAside."""
        fates = self.by_fate()
        return DatasetCounts(
            read=fates.total(),
            kept=fates[Fate.TRAIN] + fates[Fate.HOLDOUT],
            dropped=sum(fates[fate] for fate in DROPPED),
            set_aside=fates[Fate.SET_ASIDE],
            duplicates=fates[Fate.DUPLICATE],
            failed_responses=fates[Fate.FAILED],
            unsupervised=fates[Fate.UNSUPERVISED],
            outweighed=fates[Fate.OUTWEIGHED],
            truncated_rows=self.built.truncated,
        )

    def why_unusable(self) -> str:
        """Say where the rows went."""
        fates = self.by_fate()
        return (
            f"Of {fates.total()} conversations {fates[Fate.TRAIN]} are left to train on and {fates[Fate.HOLDOUT]} to "
            f"hold out ({fates[Fate.DUPLICATE]} duplicates, {fates[Fate.FAILED]} failed, {fates[Fate.UNSUPERVISED]} "
            f"without a generated token, {fates[Fate.UNSUPPORTED]} not of text alone, {fates[Fate.REFUSED]} refused by "
            f"the chat template, {fates[Fate.SET_ASIDE]} malformed); at least one of each is needed. Look at the "
            "sources."
        )

    def report(self) -> Json:
        """`report.json`: what is in the dataset and what is not, by source, without content."""
        names = [source.name for source in self.config.sources]
        return {
            "counts": self.counts().to_json(),
            "sources": [
                {
                    "name": name,
                    "objects": sum(item.source == index for item in self.objects),
                    "bytes": sum(item.info.size for item in self.objects if item.source == index),
                    "lines": {fate.name.lower(): count for fate in Fate if (count := self.fates[index, fate])},
                    "supervisedTokens": self.built.supervised[name],
                }
                for index, name in enumerate(names)
            ],
            "unused": self.unused.reasons,
            "setAside": self.unused.places,
        }


def _publish(made: _Made, rows: str, folder: Path) -> DatasetFacts:
    """Store the files, then the manifest."""
    config, built = made.config, made.built
    (folder / _REPORT).write_text(json.dumps(made.report(), indent=1) + "\n")
    store = open_store(config.output, config.store)
    spec = {"maxLength": config.transform.max_length}
    text = {"tokenizer": made.target.tokenizer_hash, "template": made.target.chat_template_hash}
    facts: Json = {
        "rows": built.rows,
        "holdoutRows": built.holdout_rows,
        "tokens": built.tokens,
        "supervisedTokens": built.supervised.total(),
        "counts": made.counts().to_json(),
    }
    manifest = Manifest(
        format="specop.dataset/1",
        digest=dataset_digest(rows, spec, text),
        files=put_files(store, config.output, [*built.paths, folder / _REPORT]),
        contract={"target": made.target.to_json(), **spec},
        info={**facts, "uid": config.uid, "name": config.name, "namespace": config.namespace},
    )
    uri = write_manifest(store, config.output, manifest)
    return DatasetFacts.model_validate({**facts, "digest": manifest.digest, "uri": uri, "target": made.target})


class _Meter:
    """Progress in bytes over both passes, shown on the Job's page."""

    def __init__(self, job: Job[DatasetConfig]) -> None:
        self._job = job
        self._started = time.monotonic()
        self._rows = 0
        self._bytes = 0
        self.total = 0

    def add(self, size: int) -> None:
        """Take note of stored bytes that were read, and stop on SIGTERM: many may pass without a row."""
        self._job.check()
        self._bytes += size

    def watch(self, stage: str, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Pass batches through, showing progress after each and stopping on SIGTERM."""
        self._rows = 0
        for batch in batches:
            self._job.check()
            self._rows += len(batch)
            self.show(stage)
            yield batch

    def show(self, stage: str) -> None:
        """Put the state on the page."""
        done = self._bytes / self.total if self.total else 0.0
        spent = time.monotonic() - self._started
        self._job.report(
            DatasetProgress(
                stage=stage,
                rows=self._rows,
                bytes=self._bytes,
                eta_seconds=round(spent / done * (1 - done)) if done else None,
            )
        )
