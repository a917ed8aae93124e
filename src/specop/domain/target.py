"""What is known of an endpoint's target: read once a URI by an inspect Job, beside the base arm, and kept in status.

PURE. Facts speak of the URI that they were read from; while the spec names another, nothing is known. Without a wish
for a drafter nothing needs to be known, and no Job is made.
"""

from dataclasses import dataclass

from specop.api import reasons
from specop.api.endpoint import EndpointStatus
from specop.api.shared import TargetFacts
from specop.domain import jobs
from specop.domain.observed import EndpointObserved
from specop.domain.plan import Create, Delete
from specop.manifests.job import inspect_target_job, job_name
from specop.manifests.storage import resolve_storage


@dataclass(frozen=True, slots=True)
class Problem:
    """Why the target is not known, where a person must act."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Reading:
    """What is known, and what to do to know more."""

    status: EndpointStatus
    facts: TargetFacts | None = None
    problem: Problem | None = None
    creates: tuple[Create, ...] = ()
    deletes: tuple[Delete, ...] = ()
    requeue_after: float | None = None


def read(observed: EndpointObserved) -> Reading:
    """Find the facts of the target that the spec names."""
    obj, status = observed.obj, observed.obj.status
    if status.target is not None and status.target_uri == obj.spec.target.uri:
        return Reading(status, status.target)
    if obj.spec.drafter is None or obj.spec.drafter.from_ is None:
        return Reading(status)
    output = resolve_storage(observed.runtimes.storage, obj.spec.storage).output
    if output is None:
        message = "there is no place for what is learnt of the target: set spec.storage.output"
        return Reading(status, problem=Problem(reasons.NO_OUTPUT_STORAGE, message))
    view = jobs.view(obj, observed.children, job_name(obj, "target"), target=obj.spec.target.uri)
    status = status.model_copy(update={"job": view.named_uid})
    if view.job is None:
        return Reading(status, creates=(Create(inspect_target_job(obj, observed.runtimes, output)),))
    if view.state == "spent":
        return Reading(status, deletes=(jobs.delete(view.job),))
    if view.state == "failed":
        return Reading(status, problem=Problem(view.reason, view.message))
    if view.state != "succeeded":
        after = jobs.LOOK_AGAIN_SECONDS if view.state == "ending" else None
        return Reading(status, requeue_after=after)
    if view.outcome is None or view.outcome.inspect is None:
        message = "the inspect Job gave a result of another kind: check its image"
        return Reading(status, problem=Problem(reasons.JOB_FAILED, message))
    facts = view.outcome.inspect.target
    known = status.model_copy(update={"target": facts, "target_uri": obj.spec.target.uri})
    return Reading(known, facts)
