"""`specop-train estimate`: what a job will cost on the hardware at hand, by measuring it for a moment. No cluster.

The arithmetic is `api/estimate.py`; measured are only the two speeds that it otherwise assumes. A target of random
weights, of the job's target's shape, makes the states of a few blocks of random rows as long as the dataset's are, and
a drafter takes a few packs and one optimiser step of them, by the same code as in a run. One process measures: what
several lose to waiting for each other is not in the figures. Of a deep target `LAYERS` layers are made, so that one
that needs several devices is measured on one; both speeds are by FLOPs, and layers are alike.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
import yaml
from pydantic import ValidationError
from transformers import AutoConfig, AutoModelForCausalLM

from specop.api import reasons
from specop.api.contradictions import contradiction, without_effect
from specop.api.dataset import DatasetFacts, SpeculatorDataset
from specop.api.estimate import Devices, Measured, estimate, layout_of, target_shape
from specop.api.preset import BUILT_IN, SpeculatorPreset, resolve
from specop.api.shared import Json, TargetFacts
from specop.api.training_job import Estimate, SpeculatorTrainingJob
from specop.common.devices import known_gpu
from specop.common.errors import EXIT_OK, EXIT_USER_ERROR, UserError
from specop.common.flops import teacher_flops, training_flops
from specop.common.hashing import digest
from specop.storage.target import CONFIG, describe
from specop.trainer.batches import PACK_TOKENS, Plan, Row, label_counts
from specop.trainer.config import DTYPES, Recipe, recipe
from specop.trainer.feed import feed
from specop.trainer.group import Group
from specop.trainer.losses import step_weights
from specop.trainer.meter import drafter_shape, peak_flops, work_of
from specop.trainer.model import Eagle3
from specop.trainer.objective import Objective
from specop.trainer.optim import optimiser
from specop.trainer.replicas import Replicas
from specop.trainer.states import Sizes, States
from specop.trainer.teacher import Teacher

LAYERS = 8
"""Of the target, at most: enough for three different ones to be captured."""
PACKS = 4
"""That are timed, after one that is not."""
ANSWER = 3
"""Tokens of the shortest answer that has a label."""


@dataclass(frozen=True, slots=True)
class Speeds:
    """FLOP/s of one device: of training, of the target's pass, and of one dense product."""

    training: float
    capture: float
    peak: float

    def to_json(self, cores: int) -> Json:
        """Lay out for people; on CPUs all cores measured together, and a device is one of them."""
        return {
            name: {"gigaflopsPerDevice": round(flops / cores / 1e9), "percentOfPeak": round(100 * flops / self.peak)}
            for name, flops in (("training", self.training), ("capture", self.capture))
        }


def random_target(folder: Path, dtype: torch.dtype, device: torch.device) -> Teacher:
    """Make a target with the shape that a folder's config.json says, of random weights and at most `LAYERS` layers.

    Raises UserError TargetUnsupported.
    """
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        text = config.get_text_config()
        text.num_hidden_layers = min(LAYERS, text.num_hidden_layers)
        if getattr(text, "layer_types", None):
            text.layer_types = text.layer_types[: text.num_hidden_layers]
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        with device:
            model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
    except (ValueError, OSError, KeyError) as error:
        raise UserError(reasons.TARGET_UNSUPPORTED, f"The target cannot be made: {error}"[:500]) from error
    return Teacher(folder, dtype, device, model)


def rows_like(dataset: DatasetFacts, knobs: Recipe, vocab_size: int) -> list[Row]:
    """Draw rows as long as the dataset's are in the mean, its share of them generated, for all packs that are timed."""
    length = min(knobs.max_length, max(ANSWER + 1, round(dataset.tokens / dataset.rows)))
    answer = min(length - 1, max(ANSWER, round(length * dataset.supervised_tokens / dataset.tokens)))
    count = (PACKS + 1) * max(1, min(PACK_TOKENS, knobs.batch_tokens) // length)
    chance = random.Random(knobs.seed)  # noqa: S311 - no secret
    return [
        Row(
            key=str(index),
            ids=tuple(chance.randrange(vocab_size) for _ in range(length)),
            spans=((length - answer, length),),
            constrained=False,
            temperature=0.0,
        )
        for index in range(count)
    ]


def measure(teacher: Teacher, dataset: DatasetFacts, knobs: Recipe, scratch: Path) -> Speeds:
    """Time the target's pass, and training, over rows like the dataset's. `scratch`: a folder for their states."""
    facts = dataset.target
    rows = rows_like(dataset, knobs, facts.vocab_size)
    states = States(scratch, rows, teacher, Sizes(facts.hidden_size, len(teacher.layers)))
    states.fit(sys.maxsize)
    blocks = states.missing()
    states.make(blocks[:1], lambda _: None)
    began = time.perf_counter()
    states.make(blocks, lambda _: None)
    seconds = time.perf_counter() - began
    assert facts.sizes
    shape = target_shape(facts.model_copy(update={"num_layers": teacher.config.num_hidden_layers}), facts.sizes)
    capture = teacher_flops(shape, work_of(rows, knobs.decoding_heads)) / seconds
    teacher.release()
    return Speeds(_training(teacher, states, knobs), capture, peak_flops(teacher.device, DTYPES[knobs.compute_dtype]))


def _training(teacher: Teacher, states: States, knobs: Recipe) -> float:
    """FLOP/s of optimiser steps over these states: of their packs, and of the step itself."""
    device, rows = teacher.device, states.rows
    vocabulary_D = torch.arange(min(knobs.draft_vocab_size, teacher.config.vocab_size))  # any: weights are random
    model = Eagle3(teacher.drafter_config(knobs.architecture, len(vocabulary_D)), teacher.embedding_VH)
    model.initialise(teacher.head_VH[vocabulary_D.to(device)].float().cpu(), knobs.seed)
    model.to(device)
    head_DH = teacher.head_VH[: len(vocabulary_D)]
    objective = Objective(
        model,
        vocabulary_D=vocabulary_D,
        teacher=lambda last_CH: teacher.logits(last_CH, head_DH),
        steps=knobs.decoding_heads,
        compute=DTYPES[knobs.compute_dtype],
    )
    replicas, steps = Replicas(objective, Group()), optimiser(model, knobs)
    plan = Plan([row.length for row in rows], "calibration", knobs)
    packs = list(islice((pack for step in range(plan.total) for pack in plan.batch(step)), PACKS + 1))
    counts, _ = label_counts((rows[row] for row in packs[0]), knobs.decoding_heads)
    weights = step_weights(knobs.loss, knobs.step_decay, counts, None)

    def trained(packs: Sequence[list[int]]) -> float:
        began = time.perf_counter()
        with closing(feed(states, packs, device)) as ready:
            loss = sum(replicas.add(pack, weights)[0] for pack in ready)
        float(loss)  # reading a value waits for the device
        return time.perf_counter() - began

    def applied() -> float:
        began = time.perf_counter()
        torch.nn.utils.clip_grad_norm_(model.parameters(), knobs.max_grad_norm)
        steps.step()
        float(next(model.parameters()).detach().flatten()[0])  # the step has no value of its own to wait for
        return time.perf_counter() - began

    replicas.begin()
    trained(packs[:1])
    applied()
    timed = packs[1:] or packs
    work = work_of([rows[row] for pack in timed for row in pack], knobs.decoding_heads)
    batches = work.tokens / knobs.batch_tokens  # optimiser steps that these packs are worth
    return training_flops(drafter_shape(model.config), work).total / (trained(timed) + batches * applied())


def calibrated(
    job: SpeculatorTrainingJob, preset: SpeculatorPreset | None, dataset: DatasetFacts, folder: Path
) -> tuple[Estimate, Json]:
    """Estimate a job by the speeds of this machine; returns it, and what was measured.

    `folder`: the target's, of which config.json is read. Raises UserError.
    """
    spec = preset.spec if preset else BUILT_IN.get(job.spec.preset)
    if spec is None:
        raise UserError(reasons.PRESET_NOT_FOUND, f"There is no preset {job.spec.preset}: put it into the file too.")
    complete, _ = resolve(job.spec.preset, spec, job.spec.hyperparameters, dataset)
    if why := contradiction(complete) or without_effect(job.spec.hyperparameters, complete):
        raise UserError(reasons.HYPERPARAMETERS_INVALID, f"spec.{why}")
    device, knobs = torch.device("cuda" if torch.cuda.is_available() else "cpu"), recipe(complete)
    teacher = random_target(folder, DTYPES[knobs.compute_dtype], device)
    with tempfile.TemporaryDirectory(prefix="specop-") as scratch:
        speeds = measure(teacher, dataset, knobs, Path(scratch))
    template = job.spec.pod_template
    layout = layout_of(job.spec, (template.resources.limits if template and template.resources else None) or {})
    if device.type == "cuda":
        cores, name = 1, torch.cuda.get_device_name(device)
        devices = Devices(layout.processes, known_gpu(name) or name, speeds.peak)
    else:
        cores = torch.get_num_threads()
        devices = Devices(cores * layout.nodes, "CPU cores", None)
    measured = Measured("calibration", flops=speeds.training / cores, capture_flops=speeds.capture / cores)
    found = estimate(dataset.target, dataset, complete, devices, measured, layout)
    if found is None:
        raise UserError(reasons.NO_USABLE_ROWS, "The dataset is empty, or config.json does not say the target's sizes.")
    return found.model_copy(update={"basis": "calibrated"}), speeds.to_json(cores)


def target_of(folder: Path) -> TargetFacts:
    """Read a target's facts of its config.json alone; it may lie there without weights, whose size is reckoned."""
    try:
        config = json.loads((folder / CONFIG).read_text())
        with torch.device("meta"):
            shape = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(reasons.TARGET_UNSUPPORTED, f"{folder / CONFIG} cannot be used: {error}"[:500]) from error
    weights = 2 * sum(parameter.numel() for parameter in shape.parameters())
    none = digest("")
    return TargetFacts(
        fingerprint=none, tokenizer_hash=none, chat_template_hash=none, **describe(config, str(folder), weights)
    )


def counted(target: TargetFacts, rows: int, tokens: int, supervised_tokens: int) -> DatasetFacts:
    """Facts of a dataset that is not made yet; as many rows are held out as by default."""
    return DatasetFacts(
        digest=digest(""),
        uri="s3://none/manifest.json",
        rows=rows,
        holdout_rows=rows // 10,
        tokens=tokens,
        supervised_tokens=supervised_tokens,
        target=target,
    )


def _documents(files: Iterable[Path]) -> list[Json]:
    """Read the objects of several files, lists of them opened, as kubectl prints either; raises UserError."""
    found: list[Json] = []
    for file in files:
        try:
            read = [item for item in yaml.safe_load_all(file.read_text()) if isinstance(item, dict)]
        except (OSError, yaml.YAMLError) as error:
            raise UserError(reasons.INVALID_SPEC, f"{file} cannot be read as YAML.") from error
        found += [item for one in read for item in (one["items"] if one.get("kind") == "List" else [one])]
    return [{**item, "metadata": {"namespace": "", "uid": "", **item.get("metadata", {})}} for item in found]


def _dataset(arguments: argparse.Namespace, job: SpeculatorTrainingJob, objects: list[Json]) -> DatasetFacts:
    """Take the counts of the job's finished dataset, else those of the command line; raises UserError."""
    target, name = target_of(arguments.target), job.spec.dataset_ref.name
    datasets = [SpeculatorDataset.model_validate(item) for item in objects if item.get("kind") == "SpeculatorDataset"]
    result = next((item.status.result for item in datasets if item.metadata.name == name), None)
    if result is not None:
        return result.model_copy(update={"target": target})
    if not (arguments.rows and arguments.tokens):
        raise UserError(
            reasons.INVALID_SPEC,
            f"SpeculatorDataset {name} is not in the files, or not finished: add `kubectl get speculatordataset {name} "
            "-o yaml`, or say --rows and --tokens.",
        )
    return counted(target, arguments.rows, arguments.tokens, arguments.supervised_tokens or arguments.tokens)


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="specop-train", description="The trainer, without a cluster.")
    commands = parser.add_subparsers(required=True)
    cost = commands.add_parser("estimate", help="what a job will cost and give on this hardware, measured in a minute")
    cost.add_argument(
        "-f", "--file", type=Path, action="append", required=True, help="a SpeculatorTrainingJob, and its dataset"
    )
    cost.add_argument("--target", type=Path, required=True, help="folder with the target's config.json")
    for name in ("rows", "tokens", "supervised-tokens"):
        cost.add_argument(f"--{name}", type=int, help="of a dataset that is not made yet")
    return parser.parse_args(argv)


def _estimated(arguments: argparse.Namespace) -> Json:
    objects = _documents(arguments.file)
    jobs = [
        SpeculatorTrainingJob.model_validate(item) for item in objects if item.get("kind") == "SpeculatorTrainingJob"
    ]
    presets = [SpeculatorPreset.model_validate(item) for item in objects if item.get("kind") == "SpeculatorPreset"]
    if len(jobs) != 1:
        raise UserError(reasons.INVALID_SPEC, f"The files hold {len(jobs)} SpeculatorTrainingJobs, not one.")
    preset = next((item for item in presets if item.metadata.name == jobs[0].spec.preset), None)
    found, measured = calibrated(jobs[0], preset, _dataset(arguments, jobs[0], objects), arguments.target)
    return {"estimate": found.to_json(), "measured": measured}


def main(argv: Sequence[str] | None = None) -> int:
    """Print an estimate as YAML and return the exit code."""
    try:
        said = _estimated(_options(argv))
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        sys.stderr.write(f"{'.'.join(map(str, first['loc']))}: {first['msg']}\n")
        return EXIT_USER_ERROR
    except UserError as error:
        sys.stderr.write(f"{error.reason}: {error.message}\n")
        return EXIT_USER_ERROR
    sys.stdout.write(yaml.safe_dump(said, sort_keys=False))
    return EXIT_OK
