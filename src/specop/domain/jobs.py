"""What a child Job says, read from whatever the cache holds of it.

PURE. The races it minds:
- A Job may be gone (a person, its time to live), or have ended without its pod's message having been read: then it is
  made again, and the process repeats what it wrote to storage.
- A Job of an older generation that failed is spent: the owner was changed since, so it is deleted and made again.
- An ended Job whose pods, by the cache, still run: the cache is behind; a later look decides.
- A pod that says what went wrong while its Job has attempts left: the Job decides, not the pod.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from specop.api import reasons
from specop.api.base import Resource
from specop.api.jobs import CONFIG_ENV, Outcome
from specop.api.shared import Json, NamedUid
from specop.common.names import ANNOTATION_GENERATION
from specop.domain.observed import Children
from specop.domain.plan import Delete

State = Literal["absent", "spent", "suspended", "waiting", "running", "ending", "succeeded", "failed"]
LOOK_AGAIN_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class JobView:
    """One Job, as far as its owner needs to know."""

    state: State
    job: Json | None = None
    outcome: Outcome | None = None
    """Set when succeeded."""
    reason: str = ""
    message: str = ""

    @property
    def named_uid(self) -> NamedUid | None:
        """The Job by name and uid, for status."""
        if self.job is None:
            return None
        return NamedUid(name=self.job["metadata"]["name"], uid=self.job["metadata"].get("uid", ""))


def view(owner: Resource, children: Children, name: str, *, target: str | None = None) -> JobView:
    """Look at the owner's Job of this name; with `target`, a Job made for another target is spent."""
    job = next((job for job in children.jobs if job["metadata"]["name"] == name), None)
    if job is None:
        return JobView("absent")
    if target is not None and _config(job).get("target") != target:
        return JobView("spent", job)
    outcome = children.outcomes.get(job["metadata"].get("uid", ""))
    ended = next((type_ for type_ in ("Complete", "Failed") if _condition(job, type_)), None)
    if outcome is not None:
        if outcome.ok:
            return JobView("succeeded", job, outcome)
        if ended == "Failed":
            return _failed(owner, job, outcome.reason or reasons.JOB_FAILED, outcome.message)
    if ended is None:
        return JobView(_progress(job, children), job)
    return _ended_without_word(owner, job, children, ended)


def delete(job: Json) -> Delete:
    """Delete exactly this Job, not a later namesake."""
    metadata = job["metadata"]
    return Delete("batch/v1", "Job", metadata.get("namespace", ""), metadata["name"], metadata.get("uid", ""))


def pods_of(job: Json, children: Children) -> list[Json]:
    """Find the Job's pods, by controller."""
    uid = job["metadata"].get("uid", "")
    return [
        pod
        for pod in children.pods
        if any(owner.get("uid") == uid for owner in pod["metadata"].get("ownerReferences", []))
    ]


def _failed(owner: Resource, job: Json, reason: str, message: str) -> JobView:
    if _made_for(job) < owner.metadata.generation:
        return JobView("spent", job)
    return JobView("failed", job, reason=reason, message=message)


def _ended_without_word(owner: Resource, job: Json, children: Children, ended: str) -> JobView:
    pods = pods_of(job, children)
    condition = _condition(job, ended) or {}
    gave_up = condition.get("reason") == "BackoffLimitExceeded"
    if gave_up:
        reason = reasons.OUT_OF_MEMORY if any(_out_of_memory(pod) for pod in pods) else reasons.JOB_FAILED
        advice = (
            "its container was killed for memory: raise podTemplate.resources, which tries again"
            if reason == reasons.OUT_OF_MEMORY
            else "its pods failed too often: read their logs; a change of podTemplate or suspend tries again"
        )
        return _failed(owner, job, reason, f"Job {job['metadata']['name']} failed: {advice}")
    if not pods:
        return JobView("spent", job)
    if any(pod.get("status", {}).get("phase") not in {"Succeeded", "Failed"} for pod in pods):
        return JobView("ending", job)
    message = f"Job {job['metadata']['name']} ended ({ended}) without a result: read its pod's log, and check its image"
    return _failed(owner, job, reasons.JOB_FAILED, message)


def _progress(job: Json, children: Children) -> State:
    if job.get("spec", {}).get("suspend"):
        return "suspended"
    running = any(pod.get("status", {}).get("phase") == "Running" for pod in pods_of(job, children))
    return "running" if running else "waiting"


def _made_for(job: Json) -> int:
    text = (job["metadata"].get("annotations") or {}).get(ANNOTATION_GENERATION, "")
    return int(text) if text.isdigit() else 0


def _condition(job: Json, condition_type: str) -> Mapping[str, Any] | None:
    conditions = job.get("status", {}).get("conditions") or []
    return next((c for c in conditions if c.get("type") == condition_type and c.get("status") == "True"), None)


def _out_of_memory(pod: Json) -> bool:
    statuses = pod.get("status", {}).get("containerStatuses") or []
    return any(
        ((status.get(when) or {}).get("terminated") or {}).get("reason") == "OOMKilled"
        for status in statuses
        for when in ("state", "lastState")
    )


def _config(job: Json) -> Json:
    """Read the configuration that the Job's process was given."""
    for item in job.get("spec", {}).get("template", {}).get("spec", {}).get("containers", []):
        for variable in item.get("env") or []:
            if variable.get("name") == CONFIG_ENV:
                config: Json = json.loads(variable.get("value") or "{}")
                return config
    return {}
