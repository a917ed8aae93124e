"""One training run, from its configuration to a published drafter.

Stages, as `/progress` shows them: Downloading, Teacher, Training, Evaluating, Exporting. What is judged at the end and
published is the exported files read back, not the weights in memory: figures and bytes belong together.

Of several processes all download, teach and train together; the leader alone judges what was exported and publishes it,
and the others end after it, when there is a result or another attempt is to go on.

A second attempt on the same pod finds the teacher's states on its disk; one on another pod makes them again, and goes
on from the newest checkpoint in storage.
"""

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from specop.api import reasons
from specop.api.jobs import TrainingConfig, TrainingFacts
from specop.api.shared import Contract, Json, Weights
from specop.api.training_job import TrainingSummary
from specop.common.clock import system_clock
from specop.common.errors import UserError
from specop.common.hashing import digest
from specop.storage.base import Store
from specop.storage.blobs import Manifest, drafter_digest, put_files, write_manifest
from specop.storage.job import Job, run_job
from specop.storage.stores import open_store
from specop.storage.uri import join
from specop.trainer.bar import Bar
from specop.trainer.cache import make_states
from specop.trainer.checkpoint import Checkpoints, Progress
from specop.trainer.config import DTYPES, Recipe, recipe
from specop.trainer.display import Display, Listener
from specop.trainer.events import Events
from specop.trainer.export import CONFIG, TENSORS, read_drafter, write_drafter
from specop.trainer.group import Group, Place
from specop.trainer.inputs import Inputs, download_inputs
from specop.trainer.judgement import Judgement, serving_temperature, variant_of
from specop.trainer.loop import Course, Loop, judge
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


def train(config: TrainingConfig, job: Job[TrainingConfig], group: Group | None = None) -> TrainingFacts | None:
    """Run one training job, or one process of it; returns the leader's facts, None to the others.

    Raises UserError for what a user can mend, Preempted at SIGTERM with everything saved.
    """
    group = group or Group()
    knobs, device = recipe(config.hyperparameters), _device(group.place)
    output = open_store(config.output, config.store)
    events = Events(output, join(config.output, "runs", config.uid, "events.jsonl"), system_clock)
    listeners = _listeners(job, output, events) if group.leader else []
    with Display(job, listeners) as display, _memory_errors(device):
        group.join(device, job.stopping)
        display.stage("Downloading")
        inputs = download_inputs(config, job, knobs, group)
        if group.leader:
            events.add("rows", **inputs.counts.to_json())
        log.info("rows: %s", inputs.counts.to_json())
        display.stage("Teacher")
        teacher = Teacher(inputs.target, DTYPES[knobs.compute_dtype], device)
        model, vocabulary_D = _drafter(teacher, inputs, knobs)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        states = make_states(job, knobs, inputs, teacher, group, parameters=parameters)
        course = _course(config, knobs, inputs, teacher, vocabulary_D, states=states)
        meter = _meter(model, course, group.place.size)
        display.measure_by(meter)
        display.stage("Training")
        loop = Loop(model, course, _checkpoints(job, output, inputs), job.stopping, group)
        loop.run(display.training)
        if not group.leader:
            group.outlast_leader()
            return None
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
        contract, summary = _contract(inputs, model, knobs), _summary(loop.progress, inputs, judgement, meter)
        report = job.patiently(lambda: _report(config, output, events, contract, summary))
        summary = summary.model_copy(update={"report": report})
        info = {"summary": summary.to_json(), "bestStep": loop.progress.best_step, "curve": loop.progress.curve}
        files = [folder / CONFIG, folder / TENSORS]
        drafter = job.patiently(lambda: _publish(config, output, files, contract, info))
        return TrainingFacts(drafter=drafter, contract=contract, summary=summary)


def _device(place: Place) -> torch.device:
    """Return the device of this process: a GPU of its own, or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", place.local_rank)
    torch.cuda.set_device(device)
    return device


def _drafter(teacher: Teacher, inputs: Inputs, knobs: Recipe) -> tuple[Eagle3, Tensor]:
    """Make the drafter to train: from the parent's weights and draft vocabulary, or from the target."""
    if inputs.parent:
        wanted = teacher.drafter_config(knobs.architecture, knobs.draft_vocab_size)
        model, vocabulary_D = read_drafter(inputs.parent, teacher.embedding_VH, wanted)
        log.info("draft vocabulary: the %d tokens of the drafter to start from", len(vocabulary_D))
    else:
        vocabulary_D = draft_vocabulary(inputs.train, knobs.draft_vocab_size, inputs.facts.vocab_size)
        config = teacher.drafter_config(knobs.architecture, len(vocabulary_D))
        model = Eagle3(config, teacher.embedding_VH)
        model.initialise(teacher.head_VH[vocabulary_D.to(teacher.device)].float().cpu(), knobs.seed)
    return model.to(teacher.device), vocabulary_D


def _course(
    config: TrainingConfig,
    knobs: Recipe,
    inputs: Inputs,
    teacher: Teacher,
    vocabulary_D: Tensor,
    *,
    states: tuple[States, States],
) -> Course:
    train, holdout = states
    if train.complete and holdout.complete:
        teacher.release()  # only its head is wanted from now on
    head_DH = teacher.head_VH[vocabulary_D.to(teacher.device)]
    return Course(
        recipe=knobs,
        digest=config.dataset.digest,
        train=train,
        holdout=holdout,
        vocabulary_D=vocabulary_D,
        teacher=lambda last_CH: teacher.logits(last_CH, head_DH),
        device=teacher.device,
        sharded=config.sharding == "Full",
        variant=variant_of(serving_temperature(inputs.train), knobs.draft_sample_method),
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
    return Contract(
        target=inputs.facts,
        architecture=model.config.architecture,
        draft_vocab_size=model.config.draft_vocab_size,
        aux_layers=list(model.config.aux_layers),
        decoding_heads=knobs.decoding_heads,
        trained_length=max(len(row.ids) for row in inputs.train),
        draft_sample_method="probabilistic" if knobs.draft_sample_method == "Probabilistic" else "greedy",
        serving_temperature=f"{serving_temperature(inputs.train):g}",
    )


def _listeners(job: Job[TrainingConfig], output: Store, events: Events) -> list[Listener]:
    """Return who follows the run: a terminal if there is one, and what is kept of it."""
    trackers = Trackers(os.environ.get(TRACKERS, ""), job.config, job.work_dir, output)
    return [*([Bar(sys.stderr)] if sys.stderr.isatty() else []), Record(events, trackers)]


def _meter(model: Eagle3, course: Course, devices: int) -> Meter:
    flops = flops_per_token(model.config, course.train.rows, course.recipe.decoding_heads)
    return Meter(flops, devices * peak_flops(course.device, DTYPES[course.recipe.compute_dtype]), course.device)


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


def _summary(progress: Progress, inputs: Inputs, judgement: Judgement, meter: Meter) -> TrainingSummary:
    speed = progress.tokens / max(progress.seconds, 1e-9)
    return TrainingSummary(
        steps=progress.step,
        seconds=round(progress.seconds),
        tokens=progress.tokens,
        rows=inputs.counts,
        tokens_per_second=round(speed),
        gigaflops=round(speed * meter.flops_per_token / 1e9),
        mfu_percent=meter.mfu_percent(speed),
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
    group = Group(Place.from_environment())
    code = run_job("training", TrainingConfig, lambda config, job: train(config, job, group), private=True)
    group.leave(code)
    return code
