"""The next generation of an endpoint's lineage: its dataset and training job, as manifests. Pure.

The recipe is repeated, not invented: the last generation's sources over newer traffic, its resolved hyperparameters,
and its drafter as the start. Nothing that exists is changed: a new window is a new object.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from specop.api import reasons
from specop.api.base import Ref, Time
from specop.api.dataset import Source, SpeculatorDataset
from specop.api.drafter import Drafter
from specop.api.endpoint import DraftedEndpoint
from specop.api.shared import Json
from specop.api.training_job import SpeculatorTrainingJob, TrainingSpec, WarmStart
from specop.cli.errors import CliError
from specop.common.names import API_VERSION

Named = TypeVar("Named", SpeculatorDataset, Drafter)

_GENERATION = re.compile(r"^(?P<root>.+)-v(?P<number>[0-9]+)$")


@dataclass(frozen=True, slots=True)
class Generation:
    """What one retraining creates."""

    dataset: Json
    job: Json


def next_generation(
    endpoint: DraftedEndpoint,
    datasets: Sequence[SpeculatorDataset],
    jobs: Sequence[SpeculatorTrainingJob],
    drafters: Sequence[Drafter],
    *,
    since: Time | None = None,
    min_requests: int | None = None,
) -> Generation:
    """Return the manifests `<root>-v<n>` after the newest generation, whose traffic begins where the last one's ended.

    `since` begins it elsewhere; `min_requests` asks for more or less traffic than the last generation did.
    Raises CliError when the endpoint follows no training job, the newest generation has not ended or has no drafter, or
    nothing of its dataset came from requests.
    """
    root = root_of(_followed(endpoint, drafters))
    last = _newest(root, jobs)
    dataset = _by_name(
        datasets,
        last.spec.dataset_ref.name,
        f"the dataset {last.spec.dataset_ref.name} of job {last.metadata.name} is gone",
    )
    taken = [
        number_of(item.metadata.name) for item in (*datasets, *jobs, *drafters) if root_of(item.metadata.name) == root
    ]
    name = f"{root}-v{max(taken) + 1}"
    return Generation(dataset=_dataset(name, dataset, since, min_requests), job=_job(name, last, drafters))


def root_of(name: str) -> str:
    """Return the lineage that a name belongs to: `agent` of `agent-v2`; a name without a number is its own."""
    found = _GENERATION.match(name)
    return found["root"] if found else name


def number_of(name: str) -> int:
    """Return the generation that a name tells: 2 of `agent-v2`; 1 where there is no number."""
    found = _GENERATION.match(name)
    return int(found["number"]) if found else 1


def _followed(endpoint: DraftedEndpoint, drafters: Sequence[Drafter]) -> str:
    """Name of the training job whose lineage the endpoint follows."""
    source = endpoint.spec.drafter.from_ if endpoint.spec.drafter else None
    if source is not None and source.training_job_ref is not None:
        return source.training_job_ref.name
    if source is not None and source.drafter_ref is not None:
        drafter = _by_name(drafters, source.drafter_ref.name, f"drafter {source.drafter_ref.name} does not exist")
        if drafter.spec.lineage is not None and drafter.spec.lineage.training_job is not None:
            return drafter.spec.lineage.training_job.name
        raise CliError(f"drafter {drafter.metadata.name} was imported: there is no recipe to repeat")
    raise CliError(f"endpoint {endpoint.metadata.name} follows no training job: set spec.drafter.from.trainingJobRef")


def _newest(root: str, jobs: Sequence[SpeculatorTrainingJob]) -> SpeculatorTrainingJob:
    lineage = [job for job in jobs if root_of(job.metadata.name) == root]
    if not lineage:
        raise CliError(f"no training job of the lineage {root} exists: apply the first one")
    newest = max(lineage, key=lambda job: number_of(job.metadata.name))
    if not any(
        item.type == reasons.SUCCEEDED and item.status in {"True", "False"} for item in newest.status.conditions
    ):
        raise CliError(f"training job {newest.metadata.name} has not ended: one run of a lineage at a time")
    finished = [job for job in lineage if job.status.drafter is not None]
    if not finished:
        raise CliError(f"no training job of the lineage {root} has made a drafter yet")
    return max(finished, key=lambda job: number_of(job.metadata.name))


def _dataset(name: str, last: SpeculatorDataset, since: Time | None, min_requests: int | None) -> Json:
    windows = {window.source: window.until for window in (last.status.resolved.windows if last.status.resolved else ())}

    def moved(source: Source) -> Source:
        log = source.request_log
        if log is None:
            return source
        start = since or windows.get(source.name) or log.until
        if start is None:
            raise CliError(
                f"dataset {last.metadata.name} has not settled the window of source {source.name}: set --since"
            )
        changes = {
            "since": start,
            "until": None,
            "last_seconds": None,
            "min_requests": min_requests or log.min_requests,
        }
        newer = log.model_copy(update=changes)
        return source.model_copy(update={"request_log": newer})

    if all(source.request_log is None for source in last.spec.sources):
        raise CliError(f"dataset {last.metadata.name} has no source requestLog: newer traffic would change nothing")
    spec = last.spec.model_copy(update={"sources": [moved(source) for source in last.spec.sources], "suspend": False})
    return _manifest(SpeculatorDataset.KIND, name, spec.to_json())


def _job(name: str, last: SpeculatorTrainingJob, drafters: Sequence[Drafter]) -> Json:
    made = last.status.drafter
    if made is None or all(drafter.metadata.name != made.name for drafter in drafters):
        raise CliError(f"the drafter of job {last.metadata.name} is gone: nothing to start from")
    recipe = last.status.resolved.hyperparameters if last.status.resolved else last.spec.hyperparameters
    changes = {
        "dataset_ref": Ref(name=name),
        "hyperparameters": recipe,
        "warm_start": WarmStart(drafter_ref=Ref(name=made.name)),
        "suspend": False,
    }
    spec: TrainingSpec = last.spec.model_copy(update=changes)
    return _manifest(SpeculatorTrainingJob.KIND, name, spec.to_json())


def _manifest(kind: str, name: str, spec: Json) -> Json:
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}


def _by_name(objects: Sequence[Named], name: str, otherwise: str) -> Named:
    for item in objects:
        if item.metadata.name == name:
            return item
    raise CliError(otherwise)
