"""Plan of a SpeculatorTrainingJob: wait for dataset and parent, freeze what is run, make one Job, make its Drafter.

PURE. `status.resolved` is written before the Job is made from it. The Drafter is made once, bears the job's name and no
owner reference; that it is ours is known by the uid in its lineage. `Succeeded=True` means that the Drafter was seen;
it is final. A SpeculatorPreset object goes before a built-in preset of the same name: the administrator decides.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from specop.api import families, reasons
from specop.api.contradictions import contradiction, doubtful, without_effect
from specop.api.drafter import Drafter, DrafterSpec, Lineage, LineageRef, WeightsSpec
from specop.api.hyperparameters import Hyperparameters
from specop.api.jobs import TrainingFacts
from specop.api.preset import BUILT_IN, PresetSpec, resolve
from specop.api.shared import Contract, DrafterRefStatus, Json
from specop.api.training_job import Estimate, Provenance, SpeculatorTrainingJob, TrainingResolved, TrainingStatus
from specop.common.names import API_VERSION
from specop.domain import jobs
from specop.domain.conclude import conclude
from specop.domain.conditions import Aspect, Verdict, find, is_true, stalled, unproven, waiting
from specop.domain.estimate import estimate_job
from specop.domain.finished import unfinished
from specop.domain.observed import TrainingObserved
from specop.domain.plan import Apply, Create, Plan
from specop.manifests.job import job_name, made_for_other_processes, rendezvous_service, training_job
from specop.manifests.storage import resolve_storage

Check = Callable[[TrainingObserved], Verdict | None]


def plan(observed: TrainingObserved, now: datetime) -> Plan:
    """Decide what to do about one training job."""
    if observed.obj.metadata.deletion_timestamp:
        return Plan()
    status, generation = observed.obj.status, observed.obj.metadata.generation
    concluded = find(status.conditions, reasons.SUCCEEDED)
    if concluded and concluded.status == "True":
        return _conclude(observed, now, Verdict("True", concluded.reason, concluded.message), status)
    if concluded and concluded.status == "False" and concluded.observed_generation == generation:
        return Plan(status=status.to_json())
    if status.drafter is not None:
        return _record(observed, status, now)
    view = jobs.view(observed.obj, observed.children, job_name(observed.obj, "training"))
    if view.state == "absent":
        return _without_job(observed, now)
    return _with_job(observed, view, now)


def _conclude(observed: TrainingObserved, now: datetime, verdict: Verdict, status: TrainingStatus, **more: Any) -> Plan:
    """Conclude, and warn of a target that is not proven and of a recipe that is probably not meant."""
    result = observed.dataset.status.result if observed.dataset else None
    target = result.target if result else status.contract.target if status.contract else None
    return conclude(observed.obj, now, verdict, status, aspects=(*unproven(target), *_doubts(status)), **more)


def _doubts(status: TrainingStatus) -> tuple[Aspect, ...]:
    why = doubtful(status.resolved.hyperparameters) if status.resolved else None
    return (Aspect(reasons.RECIPE_SOUND, "False", reasons.LOSS_UNLIKE_SERVING, why),) if why else ()


# --- before the Job


def _no_output(observed: TrainingObserved) -> Verdict | None:
    if resolve_storage(observed.runtimes.storage, observed.obj.spec.storage).output:
        return None
    return stalled(
        reasons.NO_OUTPUT_STORAGE,
        "there is no place for the drafter: make a new job with spec.storage.output, or set the operator's default",
    )


def _preset_missing(observed: TrainingObserved) -> Verdict | None:
    if _preset(observed) is not None:
        return None
    return stalled(
        reasons.PRESET_NOT_FOUND,
        f"there is no preset {observed.obj.spec.preset}: ask an administrator for a SpeculatorPreset of that name, "
        f"or make a new job with one of {', '.join(BUILT_IN)}",
    )


def _dataset_unfinished(observed: TrainingObserved) -> Verdict | None:
    return unfinished(observed.dataset, observed.obj.spec.dataset_ref.name)


def _target_refused(observed: TrainingObserved) -> Verdict | None:
    """Object to a target that is not proven, where the administrator refuses those; what runs already goes on."""
    if observed.runtimes.unproven_targets == "Warn":
        return None
    assert observed.dataset
    assert observed.dataset.status.result
    why = families.unproven(observed.dataset.status.result.target.architecture)
    if why is None:
        return None
    return stalled(
        reasons.TARGET_UNPROVEN,
        f"{why}, and this operator refuses all others: use a target of one of these, or ask an administrator to check "
        "this one and set unprovenTargets: Warn in the chart's values",
    )


def _contradicted(observed: TrainingObserved) -> Verdict | None:
    spec, (complete, _) = observed.obj.spec.hyperparameters, _hyperparameters(observed)
    why = contradiction(complete) or without_effect(spec, complete)
    if why is None:
        return None
    return stalled(reasons.HYPERPARAMETERS_INVALID, f"spec.{why}; make a new job")


def _parent_unready(observed: TrainingObserved) -> Verdict | None:
    warm_start = observed.obj.spec.warm_start
    if warm_start is None or _parent(observed) is not None:
        return None
    what = "which does not exist" if observed.parent is None else "which is not ready"
    return waiting(reasons.WAITING_FOR_DRAFTER, f"waits for Drafter {warm_start.drafter_ref.name}, {what}")


def _other_vocabulary(observed: TrainingObserved) -> Verdict | None:
    """Refuse a size that is not the parent's: head and weights come from there, so it could only be ignored."""
    wanted, parent = observed.obj.spec.hyperparameters.draft_vocab_size, _parent_contract(observed)
    if wanted is None or parent is None or wanted == parent.draft_vocab_size:
        return None
    return stalled(
        reasons.WARM_START_MISMATCH,
        f"the drafter of warmStart can propose {parent.draft_vocab_size} tokens, and one that starts from it the same: "
        f"make a new job without hyperparameters.draftVocabSize, which is {wanted}, or without warmStart",
    )


CHECKS: tuple[Check, ...] = (
    _no_output,
    _preset_missing,
    _dataset_unfinished,
    _target_refused,
    _contradicted,
    _parent_unready,
    _other_vocabulary,
)
"""Until one Job can be made; the first that objects wins, and later ones may rely on it."""


def _preset(observed: TrainingObserved) -> PresetSpec | None:
    return observed.preset.spec if observed.preset else BUILT_IN.get(observed.obj.spec.preset)


def _parent(observed: TrainingObserved) -> DrafterRefStatus | None:
    """Name the drafter of warmStart, if it is ready."""
    parent = observed.parent
    if parent is None or not is_true(parent.status.conditions, reasons.READY):
        return None
    if parent.status.digest is None or parent.status.uri is None:
        return None
    return DrafterRefStatus(name=parent.metadata.name, digest=parent.status.digest, uri=parent.status.uri)


def _parent_contract(observed: TrainingObserved) -> Contract | None:
    """Return what is known of the drafter of warmStart."""
    warm = observed.obj.spec.warm_start and observed.parent
    return warm.status.contract if warm else None


def _without_job(observed: TrainingObserved, now: datetime) -> Plan:
    status = observed.obj.status
    if status.resolved is not None:
        body = _body(observed.obj, observed)
        verdict = Verdict("Unknown", reasons.PENDING, "its Job is being made", reconciling=True)
        creates = (*_rendezvous(observed), Create(body))
        return _conclude(observed, now, verdict, status, creates=creates)
    for check in CHECKS:
        objection = check(observed)
        if objection is not None:
            return _conclude(observed, now, objection, status)
    verdict = Verdict("Unknown", reasons.PENDING, "its inputs are resolved", reconciling=True)
    resolved = status.model_copy(update={"resolved": _resolve(observed)})
    resolved = resolved.model_copy(update={"estimate": _estimate(observed, resolved)})
    return _conclude(observed, now, verdict, resolved, requeue_after=0.0)


def _estimate(observed: TrainingObserved, status: TrainingStatus) -> Estimate | None:
    assert status.resolved
    assert observed.dataset
    assert observed.dataset.status.result
    body = _body(observed.obj.model_copy(update={"status": status}), observed)
    dataset = observed.dataset.status.result
    return estimate_job(observed.obj, body, dataset, status.resolved.hyperparameters, observed.others)


def _body(obj: SpeculatorTrainingJob, observed: TrainingObserved) -> Json:
    preset = _preset(observed)
    return training_job(obj, observed.runtimes, preset.pod_template if preset else None)


def _hyperparameters(observed: TrainingObserved) -> tuple[Hyperparameters, list[Provenance]]:
    """Return all of them, and who set which; preset and dataset are there."""
    spec, preset = observed.obj.spec, _preset(observed)
    assert preset is not None
    assert observed.dataset is not None
    assert observed.dataset.status.result is not None
    result, parent = observed.dataset.status.result, _parent_contract(observed)
    return resolve(spec.preset, preset, spec.hyperparameters, result, parent)


def _resolve(observed: TrainingObserved) -> TrainingResolved:
    spec = observed.obj.spec
    output = resolve_storage(observed.runtimes.storage, spec.storage).output
    assert output is not None
    assert observed.dataset is not None
    result = observed.dataset.status.result
    assert result is not None
    hyperparameters, set_by = _hyperparameters(observed)
    return TrainingResolved(
        output=output,
        image=observed.runtimes.trainer.image,
        preset=spec.preset,
        hyperparameters=hyperparameters,
        set_by=set_by,
        dataset_digest=result.digest,
        dataset_uri=result.uri,
        warm_start=_parent(observed) if spec.warm_start else None,
    )


def _rendezvous(observed: TrainingObserved) -> tuple[Create, ...]:
    """Where the pods of several nodes meet; it stays, for another attempt, as long as the training job does."""
    parallelism = observed.obj.spec.parallelism
    if parallelism is None or parallelism.nodes == 1:
        return ()
    return (Create(rendezvous_service(observed.obj)),)


# --- with the Job


def _with_job(observed: TrainingObserved, view: jobs.JobView, now: datetime) -> Plan:
    obj = observed.obj
    status = obj.status.model_copy(update={"job": view.named_uid})
    assert view.job is not None
    if view.state == "spent":
        verdict = Verdict("Unknown", reasons.PENDING, "its Job is made again", reconciling=True)
        return _conclude(observed, now, verdict, status, deletes=(jobs.delete(view.job),))
    if view.state == "suspended" and made_for_other_processes(view.job, obj):
        verdict = Verdict("Unknown", reasons.PENDING, "its Job is made again for another parallelism", reconciling=True)
        return _conclude(observed, now, verdict, status, deletes=(jobs.delete(view.job),))
    if view.state == "failed":
        return _conclude(observed, now, stalled(view.reason, view.message, "False"), status)
    if view.state == "succeeded":
        facts = view.outcome.training if view.outcome else None
        if facts is None:
            verdict = stalled(reasons.JOB_FAILED, "its Job gave a result of another kind: check its image", "False")
            return _conclude(observed, now, verdict, status)
        return _record(observed, _with_facts(observed, status, facts), now)
    status = status.model_copy(update={"progress": observed.progress or status.progress})
    after = jobs.LOOK_AGAIN_SECONDS if view.state == "ending" else None
    return _conclude(
        observed, now, _running(observed, view), status, applies=_suspend(observed, view.job), requeue_after=after
    )


def _running(observed: TrainingObserved, view: jobs.JobView) -> Verdict:
    spec = observed.obj.spec
    if view.state == "suspended" and (spec.queue_name is None or spec.suspend):
        return waiting(reasons.SUSPENDED, "stands still: spec.suspend is true; its checkpoint is kept")
    if view.state == "suspended":
        return waiting(reasons.QUEUED, f"waits for admission by queue {spec.queue_name}")
    if view.state == "waiting":
        return waiting(reasons.QUEUED, "its Job waits for a place to run")
    return waiting(reasons.RUNNING, "its Job runs")


def _suspend(observed: TrainingObserved, job: Json) -> tuple[Apply, ...]:
    """Stop or resume the Job by one field of its own; a queue decides by itself.

    The uid makes the apply fail where the Job is gone, instead of making half a Job.
    """
    spec = observed.obj.spec
    if spec.queue_name is not None or bool(job.get("spec", {}).get("suspend")) == spec.suspend:
        return ()
    metadata = {key: job["metadata"][key] for key in ("name", "namespace", "uid") if key in job["metadata"]}
    body: Json = {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": {"suspend": spec.suspend}}
    return (Apply(body, manager="specop/suspend"),)


# --- after the Job


def _with_facts(observed: TrainingObserved, status: TrainingStatus, facts: TrainingFacts) -> TrainingStatus:
    name = observed.obj.metadata.name
    return status.model_copy(
        update={
            "result": facts.summary,
            "contract": facts.contract,
            "drafter": DrafterRefStatus(name=name, digest=facts.drafter.digest, uri=facts.drafter.uri),
        }
    )


def _record(observed: TrainingObserved, status: TrainingStatus, now: datetime) -> Plan:
    """Make the Drafter, and conclude once it is there."""
    obj, found = observed.obj, observed.drafter
    assert status.drafter is not None
    if found is None:
        verdict = Verdict("Unknown", reasons.PENDING, "its Drafter is being made")
        return _conclude(observed, now, verdict, status, creates=(Create(_drafter(observed, status.drafter)),))
    lineage = found.spec.lineage
    ours = lineage is not None and lineage.training_job is not None and lineage.training_job.uid == obj.metadata.uid
    if not ours or found.spec.weights.digest != status.drafter.digest:
        message = (
            f"another Drafter bears the name {found.metadata.name}: delete it, and this job makes its own; "
            f"the weights are kept at {status.drafter.uri}"
        )
        return _conclude(observed, now, stalled(reasons.DRAFTER_NAME_TAKEN, message), status)
    evaluation = status.result.evaluation if status.result else None
    length = f", held-out acceptance length {evaluation.acceptance_length}" if evaluation else ""
    message = f"made Drafter {status.drafter.name}{length}"
    return _conclude(observed, now, Verdict("True", reasons.COMPLETED, message), status)


def _drafter(observed: TrainingObserved, weights: DrafterRefStatus) -> Json:
    """Build the Drafter: lineage by name, uid and digest, and no owner, so that it outlives the job."""
    obj, resolved = observed.obj, observed.obj.status.resolved
    dataset = observed.dataset
    parent = resolved.warm_start if resolved else None
    parent_uid = observed.parent.metadata.uid if observed.parent else None
    lineage = Lineage(
        training_job=LineageRef(name=obj.metadata.name, uid=obj.metadata.uid),
        dataset=LineageRef(
            name=obj.spec.dataset_ref.name,
            uid=dataset.metadata.uid if dataset else None,
            digest=resolved.dataset_digest if resolved else None,
        ),
        parent=LineageRef(name=parent.name, uid=parent_uid, digest=parent.digest) if parent else None,
    )
    spec = DrafterSpec(
        target=obj.spec.target,
        weights=WeightsSpec(uri=weights.uri, digest=weights.digest),
        lineage=lineage,
        storage=obj.spec.storage,
    )
    return {
        "apiVersion": API_VERSION,
        "kind": Drafter.KIND,
        "metadata": {"name": weights.name, "namespace": obj.metadata.namespace},
        "spec": spec.to_json(),
    }
