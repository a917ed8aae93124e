"""The dataset Job from its configuration to a published manifest.

Nothing is seen before the manifest is written, last; a run that is struck down leaves blobs that no manifest names. The
log, the progress and every message say how many and where, never what a row holds.
"""

import json
import os
import shutil
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from specop.api import reasons
from specop.api.dataset import DatasetFacts, DatasetProgress
from specop.api.jobs import DatasetConfig
from specop.api.privacy import KEY_ENV
from specop.api.regenerate import KEY_ENV as TARGET_KEY_ENV
from specop.common.errors import UserError
from specop.data import memory
from specop.data.answers import Answers, Target, ask_all
from specop.data.build import Built, Output, rows_digest
from specop.data.card import card
from specop.data.chunks import Chunk, Known, Place, Verdict, read_chunks
from specop.data.decide import Share, Survey
from specop.data.formats import Fate, Json
from specop.data.intake import Intake, Policy
from specop.data.report import Result, Unused
from specop.data.sources import list_objects, selection
from specop.data.work import Setup
from specop.data.workers import Here, Pass, Workers, processes
from specop.storage.base import Store
from specop.storage.blobs import Manifest, dataset_digest, put_files, write_manifest
from specop.storage.job import Job, run_job
from specop.storage.stores import open_store
from specop.storage.target import download_target, target_facts
from specop.storage.uri import join

_REPORT, _CARD = "report.json", "card.html"
_SHARES = {"Reading": 0.3, "Writing": 0.7}
"""Of the time, by stage: the second pass does more to a row."""
_ASKED_SHARES = {"Reading": 0.03, "Regenerating": 0.9, "Writing": 0.07}
"""The same where the target is asked."""
_SMALL = 8 << 20
"""Stored bytes: what is less is done before other processes have started."""
_KEPT = (Fate.TRAIN, Fate.HOLDOUT)
_LOOKED_UP = 4096
"""Lines of which what is known is looked up at once."""


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
    setup = _setup(config, job.work_dir / "target")
    download_target(store, config.target, setup.target, weights=False)
    objects = list_objects(config, facts, meter.add)
    meter.total = sum(item.info.size for item in objects)
    besides = memory.LANGUAGES if config.quality.languages else 0
    room = memory.room(memory.limit(), memory.processors(), meter.total, besides)
    unused, languages = Unused(), Counter[str]()
    output_store = open_store(config.output, config.store)
    with (
        _workers(config, setup, room, meter.total) as workers,
        Survey(job.work_dir / "survey", room.tables_bytes) as survey,
        Answers(job.work_dir, output_store, _answers_prefix(config)) as answers,
    ):
        with meter.stage("Reading"):
            for place, found in _map(workers, "survey", read_chunks(objects, meter.add, room.chunk_bytes)):
                survey.add(found.rows)
                unused.note(place, found.notes)
                languages.update(found.languages)
                meter.rows(len(found.rows))
        counts = survey.counts()
        _check(config, counts, unused)
        shares = [Share(of.weight, of.max_conversations, of.repeat) for of in config.sources]
        survey.decide(shares, config.holdout, config.quality.near_duplicates)
        counts = Counter(survey.counts())
        kept, mix = _Verdicts(survey, answers), survey.mix()
        likeness = survey.likeness()
        if config.regenerate and (asked := kept.asked()):
            with meter.stage("Regenerating", asked):
                chunks = read_chunks(objects, meter.add, room.chunk_bytes, kept.to_ask)
                questions = (question for _, found in _map(workers, "questions", chunks) for question in found)
                target = Target(config.regenerate, os.environ.get(TARGET_KEY_ENV), job)
                answers.recover()
                intake = Intake(setup.policy, setup.environment)
                ask_all(config.regenerate, questions, answers, target.ask, intake=intake, done=meter.rows)
        with meter.stage("Writing"), Output(folder, survey) as output:
            for place, made in _map(workers, "build", read_chunks(objects, meter.add, room.chunk_bytes, kept)):
                output.write(place, made)
                unused.note(place, made.notes)
                meter.rows(len(made.rows))
        rows = rows_digest(survey.hashes())
        built = output.built
        result = Result(config, facts, built, _corrected(counts, built), mix, likeness, languages, unused, objects)
        if not built.rows or not built.holdout_rows:
            raise UserError(reasons.NO_USABLE_ROWS, result.why_unusable())
        meter.show("Publishing")
        published = _publish(result, rows, folder, output_store)
        answers.forget()
    return published


def _answers_prefix(config: DatasetConfig) -> str:
    return join(config.output, "runs", config.uid, "answers")


def _setup(config: DatasetConfig, target: Path) -> Setup:
    return Setup(
        target,
        config.transform.max_length,
        Policy(config.privacy, config.consent, config.quality),
        tuple(selection(source, config.regenerate) for source in config.sources),
        config.transform.sql,
        {name: os.environ[name] for name in (KEY_ENV,) if name in os.environ},
    )


@contextmanager
def _workers(config: DatasetConfig, setup: Setup, room: memory.Room, size: int) -> Iterator[Workers]:
    here = Here(setup)  # also says what is wrong with the target before anything is started
    if config.engine.ray:
        from specop.data.cluster import actors  # noqa: PLC0415 - only who uses Ray needs it

        with actors(setup, config.engine.ray) as found:
            yield found
    elif size < _SMALL or room.workers == 1:
        yield here
    else:
        with processes(setup, room.workers) as pool:
            yield pool


def _map(workers: Workers, name: Pass, chunks: Iterator[Chunk]) -> Iterator[tuple[Place, Any]]:
    """Results with the place of their chunk, in order."""
    places: deque[Place] = deque()

    def noted() -> Iterator[Chunk]:
        for chunk in chunks:
            places.append(chunk.place)
            yield chunk

    for found in workers.map(name, noted()):
        yield places.popleft(), found


class _Verdicts:
    """What becomes of the lines that are kept, looked up in the order of their ordinals."""

    def __init__(self, survey: Survey, answers: Answers) -> None:
        self._survey = survey
        self._fates, self._copies, self._seen, self._clean, self._anew = survey.decisions()
        self._answers = answers
        self._known: dict[int, Known] = {}

    def asked(self) -> int:
        """How many of them the target is asked for."""
        return sum(1 for ordinal, anew in enumerate(self._anew) if anew and self._fates[ordinal] in _KEPT)

    def to_ask(self, ordinal: int) -> Verdict | None:
        """Return the verdict on a line that the target is asked for."""
        return self(ordinal) if self._is_anew(ordinal) else None

    def _is_anew(self, ordinal: int) -> bool:
        return ordinal < len(self._anew) and bool(self._anew[ordinal])

    def __call__(self, ordinal: int) -> Verdict | None:
        fate = self._fates[ordinal] if ordinal < len(self._fates) else Fate.OUTSIDE
        if fate not in _KEPT:
            return None
        copies = self._copies[ordinal] if self._copies else 1
        answer = self._answers(ordinal) if self._is_anew(ordinal) else None
        if ordinal not in self._known:
            self._known = self._survey.known(ordinal, _LOOKED_UP)
        known = self._known[ordinal]
        return Verdict(Fate(fate), copies, bool(self._seen[ordinal]), bool(self._clean[ordinal]), answer, known)


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


def _publish(made: Result, rows: str, folder: Path, store: Store) -> DatasetFacts:
    """Store the files, then the manifest."""
    config, built = made.config, made.built
    text = {"tokenizer": made.target.tokenizer_hash, "template": made.target.chat_template_hash}
    digest = dataset_digest(rows, made.recipe(), text)
    report = made.report()
    (folder / _REPORT).write_text(json.dumps(report, indent=1) + "\n")
    (folder / _CARD).write_text(card(report, digest, config.target))
    facts: Json = {
        "rows": built.rows,
        "holdoutRows": built.holdout_rows,
        "tokens": built.tokens,
        "supervisedTokens": built.supervised.total(),
        "counts": made.counts().to_json(),
    }
    manifest = Manifest(
        format="specop.dataset/1",
        digest=digest,
        files=put_files(store, config.output, [*built.paths, folder / _REPORT, folder / _CARD]),
        contract={"target": made.target.to_json(), "maxLength": config.transform.max_length},
        info={
            **facts,
            "uid": config.uid,
            "name": config.name,
            "namespace": config.namespace,
            "datasets": [source.dataset.to_json() for source in config.sources if source.dataset],
        },
    )
    uri = write_manifest(store, config.output, manifest)
    return DatasetFacts.model_validate({**facts, "digest": manifest.digest, "uri": uri, "target": made.target})


class _Meter:
    """Progress in rows and bytes, shown on the Job's page."""

    def __init__(self, job: Job[DatasetConfig]) -> None:
        self._job = job
        self._shares = _ASKED_SHARES if job.config.regenerate else _SHARES
        self._started = time.monotonic()
        self._before = 0.0
        self._share = 0.0
        self._rows = 0
        self._bytes = 0
        self._asked = 0
        self.total = 0
        """Stored bytes of all objects; each pass reads them."""

    @contextmanager
    def stage(self, name: str, asked: int = 0) -> Iterator[None]:
        """Count rows and bytes of one pass; where the target is asked, questions count."""
        self._stage, self._share, self._rows, self._bytes, self._asked = name, self._shares[name], 0, 0, asked
        self.show(name)
        yield
        self._before += self._share

    def add(self, size: int) -> None:
        """Take note of stored bytes that were read, and stop on SIGTERM: many may pass without a row."""
        self._job.check()
        self._bytes += size

    def rows(self, count: int) -> None:
        """Take note of rows that are done, and stop on SIGTERM."""
        self._job.check()
        self._rows += count
        self.show(self._stage)

    def show(self, stage: str) -> None:
        """Put the state on the page."""
        part = self._rows / self._asked if self._asked else self._bytes / self.total if self.total else 0.0
        done = min(1.0, self._before + self._share * part)
        spent = time.monotonic() - self._started
        self._job.report(
            DatasetProgress(
                stage=stage,
                rows=self._rows,
                bytes=self._bytes,
                eta_seconds=round(spent / done * (1 - done)) if done else None,
            )
        )
