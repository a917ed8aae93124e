"""Plan of a Drafter: learn what the weights are, from the job that made them or by an inspect Job, and who approved.

PURE. A lineage in the spec is a claim: it counts where the named job still has that uid and says the same digest.
Everything else is an import and is read by an inspect Job. What was learnt once is kept: weights never change.
"""

from datetime import datetime

from specop.api import reasons
from specop.api.drafter import DrafterStatus
from specop.common.clock import format_time
from specop.common.hashing import short
from specop.domain import jobs
from specop.domain.conclude import SHORT_DIGEST, conclude
from specop.domain.conditions import Verdict, stalled
from specop.domain.observed import DrafterObserved
from specop.domain.plan import Create, Plan
from specop.manifests.job import inspect_drafter_job, job_name
from specop.manifests.storage import resolve_storage

MAX_APPROVERS = 256
"""Characters of `status.approvedBy`."""


def plan(observed: DrafterObserved, now: datetime) -> Plan:
    """Decide what to do about one drafter."""
    if observed.obj.metadata.deletion_timestamp:
        return Plan()
    status = observed.obj.status
    if status.contract is None or status.digest is None:
        known = _from_training(observed)
        if known is None:
            return _inspect(observed, now)
        status = known
    return conclude(observed.obj, now, _available(status), _approved(observed, status, now))


def _available(status: DrafterStatus) -> Verdict:
    evaluation = status.evaluation
    figure = f"held-out acceptance length {evaluation.acceptance_length}" if evaluation else "imported, not evaluated"
    return Verdict("True", reasons.AVAILABLE, f"digest {status.digest}: {figure}")


def _from_training(observed: DrafterObserved) -> DrafterStatus | None:
    """Learn what the training job says, if the claim of the lineage holds."""
    job = observed.training_job
    if job is None or job.status.drafter is None or job.status.contract is None:
        return None
    made = job.status.drafter
    if made.digest != observed.obj.spec.weights.digest:
        return None
    return observed.obj.status.model_copy(
        update={
            "digest": made.digest,
            "short_digest": short(made.digest, SHORT_DIGEST),
            "uri": made.uri,
            "contract": job.status.contract,
            "evaluation": job.status.result.evaluation if job.status.result else None,
        }
    )


def _approved(observed: DrafterObserved, status: DrafterStatus, now: datetime) -> DrafterStatus:
    """Who approved this digest, over all endpoints, and since when we know."""
    names = sorted(
        {
            approval.by
            for endpoint in observed.endpoints
            if endpoint.spec.drafter
            for approval in endpoint.spec.drafter.approval.approvals
            if approval.digest == status.digest
        }
    )
    if not names:
        return status.model_copy(update={"approved_by": None, "approved_at": None})
    since = status.approved_at or format_time(now)
    return status.model_copy(update={"approved_by": ", ".join(names)[:MAX_APPROVERS], "approved_at": since})


def _inspect(observed: DrafterObserved, now: datetime) -> Plan:
    """Have the weights read. A refusal is final for its generation."""
    obj = observed.obj
    job = observed.training_job
    if job is not None and job.status.drafter is None:
        verdict = Verdict(
            "False", reasons.PENDING, f"waits for SpeculatorTrainingJob {job.metadata.name}", reconciling=True
        )
        return conclude(obj, now, verdict, obj.status)
    refused = next((c for c in obj.status.conditions if c.type == reasons.STALLED), None)
    if refused and refused.observed_generation == obj.metadata.generation and obj.status.job is not None:
        return Plan(status=obj.status.to_json())
    output = resolve_storage(observed.runtimes.storage, obj.spec.storage).output
    if output is None:
        message = "there is no place for what is learnt: make a new one with spec.storage.output"
        return conclude(obj, now, stalled(reasons.NO_OUTPUT_STORAGE, message, "False"), obj.status)
    inspecting = Verdict("False", reasons.INSPECTING, "its weights are being read", reconciling=True)
    view = jobs.view(obj, observed.children, job_name(obj, "inspect"))
    status = obj.status.model_copy(update={"job": view.named_uid})
    if view.job is None:
        create = Create(inspect_drafter_job(obj, observed.runtimes, output))
        return conclude(obj, now, inspecting, status, creates=(create,))
    if view.state == "spent":
        return conclude(obj, now, inspecting, status, deletes=(jobs.delete(view.job),))
    if view.state == "failed":
        return conclude(obj, now, stalled(view.reason, view.message, "False"), status)
    if view.state == "succeeded":
        return _inspected(observed, view, status, now)
    after = jobs.LOOK_AGAIN_SECONDS if view.state == "ending" else None
    return conclude(obj, now, inspecting, status, requeue_after=after)


def _inspected(observed: DrafterObserved, view: jobs.JobView, status: DrafterStatus, now: datetime) -> Plan:
    facts = view.outcome.inspect if view.outcome else None
    if facts is None or facts.weights is None or facts.contract is None:
        verdict = stalled(reasons.JOB_FAILED, "its Job gave a result of another kind: check its image", "False")
        return conclude(observed.obj, now, verdict, status)
    expected = observed.obj.spec.weights.digest
    if expected is not None and expected != facts.weights.digest:
        message = (
            f"the weights have digest {facts.weights.digest}, and spec.weights.digest is {expected}: "
            "make a new Drafter with the right one"
        )
        return conclude(observed.obj, now, stalled(reasons.DIGEST_MISMATCH, message, "False"), status)
    update = {
        "digest": facts.weights.digest,
        "short_digest": short(facts.weights.digest, SHORT_DIGEST),
        "uri": facts.weights.uri,
        "contract": facts.contract,
    }
    learnt = status.model_copy(update=update)
    return conclude(observed.obj, now, _available(learnt), _approved(observed, learnt, now))
