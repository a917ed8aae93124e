"""The estimate of a training job, from what a plan observes: its devices, its dataset, earlier runs of its lineage.

PURE. The arithmetic is `api/estimate.py`. Made once, when the job's inputs are frozen.
"""

import re
from collections.abc import Iterable

from specop.api.dataset import DatasetFacts
from specop.api.estimate import Devices, Measured, devices_of, estimate, layout_of
from specop.api.hyperparameters import Hyperparameters
from specop.api.shared import Json, PodTemplate
from specop.api.training_job import Estimate, Parallelism, SpeculatorTrainingJob
from specop.manifests.common import merge_templates

_GENERATION = re.compile(r"-v[0-9]+$")


def estimate_job(
    job: SpeculatorTrainingJob,
    body: Json | None,
    dataset: DatasetFacts,
    knobs: Hyperparameters,
    others: Iterable[SpeculatorTrainingJob],
    *,
    preset: PodTemplate | None = None,
) -> Estimate | None:
    """Estimate a job.

    `body`: its Job as it will be made, or None where only its own pod template is known, and its preset's.
    """
    limits, node = _pod(body) if body else _template(job, preset)
    devices = devices_of(limits, node, (job.spec.parallelism or Parallelism()).nodes)
    measured = measured_by(job, devices, others)
    return estimate(dataset.target, dataset, knobs, devices, measured, layout_of(job.spec, limits))


def measured_by(
    job: SpeculatorTrainingJob, devices: Devices, others: Iterable[SpeculatorTrainingJob]
) -> Measured | None:
    """Find the newest finished run of the job's lineage: of the same name but for its generation, on this target."""
    root = _root(job)
    finished = [
        other
        for other in others
        if other.status.result
        and other.metadata.uid != job.metadata.uid
        and other.spec.target == job.spec.target
        and _root(other) == root
    ]
    newest = max(
        finished, key=lambda other: (other.metadata.creation_timestamp or "", other.metadata.name), default=None
    )
    if newest is None:
        return None
    result, then, contract = newest.status.result, newest.status.estimate, newest.status.contract
    assert result
    alike = then is not None and then.device == devices.name and result.gigaflops
    return Measured(
        name=newest.metadata.name,
        flops=1e9 * result.gigaflops / then.devices if alike and then and result.gigaflops else None,
        acceptance_length=float(result.evaluation.acceptance_length) if result.evaluation else None,
        steps=contract.decoding_heads if contract else 0,
    )


def _root(job: SpeculatorTrainingJob) -> str:
    return _GENERATION.sub("", job.metadata.name)


def _pod(body: Json) -> tuple[dict[str, str], dict[str, str]]:
    """Limits and node selector of a Job's pods."""
    pod = body["spec"]["template"]["spec"]
    return pod["containers"][0].get("resources", {}).get("limits", {}), pod.get("nodeSelector", {})


def _template(job: SpeculatorTrainingJob, preset: PodTemplate | None) -> tuple[dict[str, str], dict[str, str]]:
    """Limits and node selector that job and preset ask for, with a GPU for each process where there are any."""
    template = merge_templates(job.spec.pod_template, preset)
    found = (template.resources.limits if template and template.resources else None) or {}
    processes = (job.spec.parallelism or Parallelism()).processes_per_node
    gpus = {name: str(processes) for name in found if name.endswith("/gpu") and processes > 1}
    return {**found, **gpus}, (template.node_selector if template else None) or {}
