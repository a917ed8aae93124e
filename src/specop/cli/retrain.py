"""The next generation of an endpoint's lineage: its dataset and training job, as manifests. Pure.

The recipe is repeated, not invented: the last generation's sources over newer traffic, its resolved hyperparameters,
and its drafter as the start. Nothing that exists is changed: a new window is a new object. Which drafters are the
lineage is the operator's own rule (`domain.lineage`), so what is made here becomes a candidate.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from specop.api import reasons
from specop.api.base import Ref, Time
from specop.api.contradictions import effective
from specop.api.dataset import ObjectsSource, Source, SpeculatorDataset
from specop.api.drafter import Drafter
from specop.api.endpoint import DraftedEndpoint
from specop.api.shared import Json
from specop.api.training_job import SpeculatorTrainingJob, WarmStart
from specop.cli.errors import CliError
from specop.cli.loop import Loop, condition
from specop.common.names import API_VERSION, upload_prefix
from specop.domain.lineage import follow, offers

_GENERATION = re.compile(r"^(?P<root>.+)-v(?P<number>[0-9]+)$")


@dataclass(frozen=True, slots=True)
class Generation:
    """What one retraining creates."""

    dataset: Json
    job: Json


def next_generation(
    endpoint: DraftedEndpoint, loop: Loop, *, since: Time | None = None, min_requests: int | None = None
) -> Generation:
    """Return the manifests `<root>-v<n>` after the newest generation, whose traffic begins where the last one's ended.

    `since` begins it elsewhere; `min_requests` asks for more or less traffic than the last generation did.
    Raises CliError when the endpoint follows no lineage, a run of it has not ended, no drafter of it is ready, or
    nothing of the last dataset came from requests.
    """
    drafter = _newest(endpoint, loop)
    job = _job_of(drafter, loop.jobs)
    dataset = next((item for item in loop.datasets if item.metadata.name == job.spec.dataset_ref.name), None)
    if dataset is None:
        raise CliError(f"the dataset {job.spec.dataset_ref.name} of job {job.metadata.name} is gone")
    name = _next_name(job.metadata.name, loop)
    return Generation(_dataset(name, dataset, since, min_requests), _job(name, job, drafter))


def _newest(endpoint: DraftedEndpoint, loop: Loop) -> Drafter:
    """Return the newest ready drafter of the endpoint's lineage."""
    origin = endpoint.spec.drafter.from_ if endpoint.spec.drafter else None
    if origin is None:
        raise CliError(
            f"endpoint {endpoint.metadata.name} follows no training job: set spec.drafter.from.trainingJobRef"
        )
    lineage = {drafter.metadata.name for drafter in follow(loop.drafters, origin)}
    first = origin.training_job_ref.name if origin.training_job_ref else None
    for job in loop.jobs:
        start = job.spec.warm_start
        ours = job.metadata.name == first or (start is not None and start.drafter_ref.name in lineage)
        if ours and condition(job, reasons.SUCCEEDED).status == "Unknown":
            raise CliError(f"training job {job.metadata.name} has not ended: one run of a lineage at a time")
    ready = offers(loop.drafters, origin)
    if not ready:
        raise CliError(f"no drafter that endpoint {endpoint.metadata.name} follows is ready: nothing to start from")
    return next(drafter for drafter in loop.drafters if drafter.metadata.name == ready[0].name)


def _job_of(drafter: Drafter, jobs: Sequence[SpeculatorTrainingJob]) -> SpeculatorTrainingJob:
    made_by = drafter.spec.lineage.training_job if drafter.spec.lineage else None
    if made_by is None:
        raise CliError(f"drafter {drafter.metadata.name} was imported: there is no recipe to repeat")
    for job in jobs:
        if job.metadata.name == made_by.name:
            return job
    raise CliError(f"the training job {made_by.name} of drafter {drafter.metadata.name} is gone: no recipe to repeat")


def _next_name(last: str, loop: Loop) -> str:
    """Count up from the highest number that any object of the same root bears."""
    root, _ = _parts(last)
    names = [_parts(item.metadata.name) for item in (*loop.datasets, *loop.jobs, *loop.drafters)]
    return f"{root}-v{max(number for found, number in names if found == root) + 1}"


def _parts(name: str) -> tuple[str, int]:
    """Split `agent-v2` into root and number; a name without a number is generation 1."""
    found = _GENERATION.match(name)
    return (found["root"], int(found["number"])) if found else (name, 1)


def _dataset(name: str, last: SpeculatorDataset, since: Time | None, min_requests: int | None) -> Json:
    windows = {window.source: window.until for window in (last.status.resolved.windows if last.status.resolved else ())}

    def moved(source: Source) -> Source:
        log = source.request_log
        if source.upload is not None and last.status.resolved is not None:  # the files lie under the last one's name
            folder = upload_prefix(last.status.resolved.output, last.metadata.namespace, last.metadata.name)
            objects = ObjectsSource(uri=f"{folder}/*", format=source.upload.format)
            return source.model_copy(update={"upload": None, "objects": objects})
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


def _job(name: str, last: SpeculatorTrainingJob, drafter: Drafter) -> Json:
    recipe = last.status.resolved.hyperparameters if last.status.resolved else last.spec.hyperparameters
    recipe = recipe.model_copy(update={"draft_vocab_size": None})  # the parent's, which may be less than was asked for
    changes = {
        "dataset_ref": Ref(name=name),
        "hyperparameters": effective(recipe),
        "warm_start": WarmStart(drafter_ref=Ref(name=drafter.metadata.name)),
        "suspend": False,
    }
    return _manifest(SpeculatorTrainingJob.KIND, name, last.spec.model_copy(update=changes).to_json())


def _manifest(kind: str, name: str, spec: Json) -> Json:
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}
