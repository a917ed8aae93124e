"""One training run, from its configuration to a published drafter.

Stages, as `/progress` shows them: Downloading, Teacher, Training, Evaluating, Exporting. What is judged at the end and
published is the exported files read back, not the weights in memory: figures and bytes belong together.

A second attempt on the same pod finds the teacher's states on its disk; one on another pod makes them again, and goes
on from the newest checkpoint in storage.
"""

import logging
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from specop.api import reasons
from specop.api.jobs import TrainingConfig, TrainingFacts
from specop.api.shared import Contract, Json, Weights
from specop.api.training_job import TrainingSummary
from specop.common.clock import system_clock
from specop.common.errors import UserError
from specop.common.hashing import digest, short
from specop.storage.base import Store
from specop.storage.blobs import Manifest, drafter_digest, put_files, write_manifest
from specop.storage.job import Job, run_job
from specop.storage.stores import open_store
from specop.storage.uri import join
from specop.trainer.bar import Bar
from specop.trainer.checkpoint import Checkpoints, Progress
from specop.trainer.config import Recipe, recipe
from specop.trainer.display import Display, Listener
from specop.trainer.evaluate import Judgement
from specop.trainer.events import Events
from specop.trainer.export import CONFIG, TENSORS, read_drafter, write_drafter
from specop.trainer.inputs import Inputs, download_inputs
from specop.trainer.loop import DTYPES, Course, Loop, judge
from specop.trainer.meter import Meter, flops_per_token, peak_flops
from specop.trainer.model import Eagle3
from specop.trainer.record import Record
from specop.trainer.report import render
from specop.trainer.states import States
from specop.trainer.teacher import Teacher
from specop.trainer.trackers import VARIABLE as TRACKERS
from specop.trainer.trackers import Trackers
from specop.trainer.vocabulary import draft_vocabulary

log = logging.getLogger(__name__)


def train(config: TrainingConfig, job: Job[TrainingConfig]) -> TrainingFacts:
    """Run one training job; raises UserError for what a user can mend, Preempted at SIGTERM with everything saved."""
    knobs = recipe(config.hyperparameters)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    output = open_store(config.output, config.store)
    events = Events(output, join(config.output, "runs", config.uid, "events.jsonl"), system_clock)
    with Display(job, _listeners(job, output, events)) as display, _memory_errors(device):
        display.stage("Downloading")
        inputs = download_inputs(config, job, knobs)
        display.stage("Teacher")
        teacher = Teacher(inputs.target, DTYPES[knobs.compute_dtype], device)
        model, vocabulary_D = _drafter(teacher, inputs, knobs)
        course = _course(job, inputs, teacher, knobs, vocabulary_D)
        meter = _meter(model, course)
        display.measure_by(meter)
        display.stage("Training")
        loop = Loop(model, course, _checkpoints(job, output, inputs), job.stopping)
        loop.run(display.training)
        display.trained(loop.progress)
        display.stage("Evaluating")
        folder = job.work_dir / "drafter"
        verifier = {"name_or_path": config.target, "architectures": [inputs.facts.architecture]}
        steps, layout = knobs.decoding_heads, knobs.layout
        write_drafter(folder, model.config, loop.best, vocabulary_D, steps=steps, verifier=verifier, layout=layout)
        exported, _ = read_drafter(folder, teacher.embedding_VH, model.config)
        judgement = judge(exported.to(device), course, job.stopping)
        log.info("exported: %s", judgement)
        display.stage("Exporting")
        contract, summary = _contract(inputs, model, knobs), _summary(loop.progress, judgement, meter)
        summary = summary.model_copy(update={"report": _report(config, output, events, contract, summary)})
        info = {"summary": summary.to_json(), "bestStep": loop.progress.best_step, "curve": loop.progress.curve}
        drafter = _publish(config, output, [folder / CONFIG, folder / TENSORS], contract, info)
        return TrainingFacts(drafter=drafter, contract=contract, summary=summary)


def _drafter(teacher: Teacher, inputs: Inputs, knobs: Recipe) -> tuple[Eagle3, Tensor]:
    """Make the drafter to train: from the parent's weights and draft vocabulary, or from the target."""
    if inputs.parent:
        wanted = teacher.drafter_config(knobs.architecture, knobs.draft_vocab_size)
        model, vocabulary_D = read_drafter(inputs.parent, teacher.embedding_VH, wanted)
    else:
        vocabulary_D = draft_vocabulary(inputs.train, knobs.draft_vocab_size, inputs.facts.vocab_size)
        config = teacher.drafter_config(knobs.architecture, len(vocabulary_D))
        model = Eagle3(config, teacher.embedding_VH)
        model.initialise(teacher.head_VH[vocabulary_D.to(teacher.device)].float().cpu(), knobs.seed)
    return model.to(teacher.device), vocabulary_D


def _course(job: Job[TrainingConfig], inputs: Inputs, teacher: Teacher, knobs: Recipe, vocabulary_D: Tensor) -> Course:
    """Let the teacher make what is missing of its states; afterwards only its head is kept."""
    dataset = job.config.dataset.digest
    depends = {
        "dataset": dataset,
        "target": inputs.facts.fingerprint,
        "layers": list(teacher.layers),
        "dtype": knobs.compute_dtype,
        "length": knobs.max_length,
        "scalars": ["lse", "argmax", "peak"],
    }
    folder = job.work_dir / "states" / short(digest(depends), 16)
    taught = [replace(row, temperature=1.0) for row in inputs.train]  # soft labels; drafts follow any temperature then
    train, holdout = States(folder / "train", taught), States(folder / "holdout", inputs.holdout)
    for states in (train, holdout):
        states.make(states.missing(), teacher, lambda _: job.check())
    teacher.release()
    head_DH = teacher.head_VH[vocabulary_D.to(teacher.device)]
    return Course(
        recipe=knobs,
        digest=dataset,
        train=train,
        holdout=holdout,
        vocabulary_D=vocabulary_D,
        teacher=lambda last_CH: teacher.logits(last_CH, head_DH),
        device=teacher.device,
    )


def _checkpoints(job: Job[TrainingConfig], output: Store, inputs: Inputs) -> Checkpoints:
    """Where this run's checkpoints lie; they are only good for the same inputs."""
    config = job.config
    decides = {
        "target": inputs.facts.to_json(),
        "dataset": config.dataset.digest,
        "parent": config.warm_start.digest if config.warm_start else None,
        "hyperparameters": config.hyperparameters.to_json(),
    }
    kept = join(config.output, "runs", config.uid, "checkpoints")
    return Checkpoints(job.work_dir / "checkpoints", output, kept, digest(decides))


def _contract(inputs: Inputs, model: Eagle3, knobs: Recipe) -> Contract:
    temperatures = Counter(f"{row.temperature:g}" for row in inputs.train)
    return Contract(
        target=inputs.facts,
        architecture=model.config.architecture,
        draft_vocab_size=model.config.draft_vocab_size,
        aux_layers=list(model.config.aux_layers),
        decoding_heads=knobs.decoding_heads,
        trained_length=max(len(row.ids) for row in inputs.train),
        serving_temperature=temperatures.most_common(1)[0][0],
    )


def _listeners(job: Job[TrainingConfig], output: Store, events: Events) -> list[Listener]:
    """Return who follows the run: a terminal if there is one, and what is kept of it."""
    trackers = Trackers(os.environ.get(TRACKERS, ""), job.config, job.work_dir, output)
    return [*([Bar(sys.stderr)] if sys.stderr.isatty() else []), Record(events, trackers)]


def _meter(model: Eagle3, course: Course) -> Meter:
    flops = flops_per_token(model.config, course.train.rows, course.recipe.decoding_heads)
    return Meter(flops, peak_flops(course.device, DTYPES[course.recipe.compute_dtype]), course.device)


def _report(config: TrainingConfig, output: Store, events: Events, contract: Contract, summary: TrainingSummary) -> str:
    """Store the run on one page, and return where."""
    facts = {
        "Result": summary.to_json(),
        "Contract": contract.to_json(),
        "Hyperparameters": config.hyperparameters.to_json(),
        "Inputs": {
            "dataset": config.dataset.digest,
            "parent": config.warm_start.digest if config.warm_start else "none",
        },
    }
    uri = join(config.output, "runs", config.uid, "report.html")
    output.put(uri, render(f"Training run {config.namespace}/{config.name}", facts, events.all).encode())
    return uri


def _summary(progress: Progress, judgement: Judgement, meter: Meter) -> TrainingSummary:
    speed = progress.tokens / max(progress.seconds, 1e-9)
    return TrainingSummary(
        steps=progress.step,
        seconds=round(progress.seconds),
        tokens=progress.tokens,
        tokens_per_second=round(speed),
        mfu_percent=meter.mfu_percent(speed),
        gigaflops=round(speed * meter.flops_per_token / 1e9),
        memory_mib=meter.memory_mib(),
        resumes=progress.resumes,
        evaluation=judgement.evaluation(),
    )


def _publish(config: TrainingConfig, output: Store, files: Sequence[Path], contract: Contract, info: Json) -> Weights:
    """Store the files, then the manifest that names them."""
    entries = put_files(output, config.output, files)
    whence: Json = {
        "run": {"namespace": config.namespace, "name": config.name, "uid": config.uid},
        "dataset": config.dataset.to_json(),
        "parent": config.warm_start.to_json() if config.warm_start else None,
        "hyperparameters": config.hyperparameters.to_json(),
    }
    manifest = Manifest(
        format="specop.drafter/1",
        digest=drafter_digest(entries, contract.to_json()),
        files=entries,
        contract=contract.to_json(),
        info={**whence, **info},
    )
    return Weights(digest=manifest.digest, uri=write_manifest(output, config.output, manifest))


@contextmanager
def _memory_errors(device: torch.device) -> Iterator[None]:
    """Give memory that ran out its reason; on CPU torch has no type of its own for that."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            raise UserError(
                reasons.OUT_OF_MEMORY,
                f"The {device.type} ran out of memory: lower hyperparameters.maxLength or draftVocabSize, or give the "
                "pods more.",
            ) from error
        raise


def main() -> int:
    """Run this process of a training Job."""
    return run_job("training", TrainingConfig, train, private=True)
