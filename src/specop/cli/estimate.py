"""What a training job will cost: the estimate in its status, or one made now from what the cluster knows. Pure."""

from collections.abc import Iterable
from pathlib import Path

import yaml
from pydantic import ValidationError

from specop.api.contradictions import contradiction, without_effect
from specop.api.dataset import SpeculatorDataset
from specop.api.preset import BUILT_IN, PresetSpec, SpeculatorPreset, resolve
from specop.api.training_job import Estimate, SpeculatorTrainingJob
from specop.cli.errors import CliError
from specop.cli.loop import Table
from specop.domain.estimate import estimate_job

_MINUTE, _HOUR = 60, 3600


def read_job(path: Path, namespace: str) -> SpeculatorTrainingJob:
    """Read the one SpeculatorTrainingJob of a file of manifests; raises CliError."""
    try:
        documents = [item for item in yaml.safe_load_all(path.read_text()) if isinstance(item, dict)]
    except (OSError, yaml.YAMLError) as error:
        raise CliError(f"{path} cannot be read as YAML") from error
    found = [item for item in documents if item.get("kind") == SpeculatorTrainingJob.KIND]
    if len(found) != 1:
        raise CliError(f"{path} holds {len(found)} objects of kind {SpeculatorTrainingJob.KIND}, not one")
    body = {**found[0], "metadata": {"namespace": namespace, "uid": "", **found[0].get("metadata", {})}}
    try:
        return SpeculatorTrainingJob.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        raise CliError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def make(
    job: SpeculatorTrainingJob,
    datasets: Iterable[SpeculatorDataset],
    preset: SpeculatorPreset | None,
    jobs: Iterable[SpeculatorTrainingJob],
) -> Estimate:
    """Return the estimate that status holds, or make one; raises CliError where something for it is missing."""
    if job.status.estimate is not None:
        return job.status.estimate
    name = job.spec.dataset_ref.name
    dataset = next((item.status.result for item in datasets if item.metadata.name == name), None)
    if dataset is None:
        raise CliError(f"SpeculatorDataset {name} is not finished: an estimate needs its counts")
    spec: PresetSpec | None = preset.spec if preset else BUILT_IN.get(job.spec.preset)
    if spec is None:
        raise CliError(f"there is no preset {job.spec.preset}")
    knobs, _ = resolve(job.spec.preset, spec, job.spec.hyperparameters, dataset)
    if why := contradiction(knobs) or without_effect(job.spec.hyperparameters, knobs):
        raise CliError(f"spec.{why}")
    found = estimate_job(job, None, dataset, knobs, jobs, preset=spec.pod_template)
    if found is None:
        raise CliError(f"SpeculatorDataset {name} does not say how large its target is: build it again")
    return found


def table(name: str, found: Estimate) -> Table:
    """Lay it out."""
    unit = "core hours" if found.device == "CPU cores" else "GPU hours"
    rows = (
        ("time", _time(found.wall_seconds)),
        (unit, f"{found.device_hours} on {found.devices} x {found.device}"),
        ("part of the target's own pass", f"{found.capture_percent} %"),
        ("memory of each", f"{found.memory_gib} GiB"),
        ("scratch space of a pod", f"{found.disk_gib} GiB"),
        ("optimiser steps", f"{found.steps:,}"),
        ("tokens", f"{found.tokens:,}"),
        ("parameters that are trained", f"{found.drafter_parameters:,}"),
        ("acceptance length to expect", f"{found.acceptance_low} to {found.acceptance_high}"),
        ("rests on", found.basis),
    )
    return Table(("ESTIMATE", name), rows)


def _time(seconds: int) -> str:
    hours, rest = divmod(seconds, _HOUR)
    if hours:
        return f"{hours} h {rest // _MINUTE:02} min"
    return f"{seconds // _MINUTE} min {seconds % _MINUTE:02} s"
