"""What keeps pods from being ready, read from their status: an arm's, or of a Job with an engine beside it.

PURE. Some troubles pass by themselves (no room yet, an image that is being pulled); a `fatal` one does not pass without
a change: the fetch container said so, or a container ended again and again.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from pydantic import ValidationError

from specop.api import reasons
from specop.api.jobs import Outcome
from specop.api.shared import Json
from specop.common.clock import parse_time
from specop.manifests.engine import FETCH

CRASHES = 3
"""Restarts in back-off after which a container is taken to fail for good."""
PASSING = frozenset({reasons.STORAGE_UNREACHABLE, reasons.DISK_FULL})
"""Typed failures of fetch that may pass: its next try can succeed."""
HELD = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError"})


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why pods are not ready."""

    reason: str
    message: str
    fatal: bool = False

    @property
    def no_room(self) -> bool:
        """Whether the scheduler finds no node."""
        return self.reason == reasons.INSUFFICIENT_GPU


def trouble(pods: Iterable[Json]) -> Trouble | None:
    """Find the worst trouble of pods that are not ready, or None."""
    found = [item for pod in pods if not _is_ready(pod) for item in _troubles(pod)]
    return next((item for item in found if item.fatal), found[0] if found else None)


def first_scheduled(pods: Iterable[Json]) -> datetime | None:
    """When the first of these pods got a node."""
    times = [
        parse_time(condition["lastTransitionTime"])
        for pod in pods
        for condition in _conditions(pod)
        if condition.get("type") == "PodScheduled"
        and condition.get("status") == "True"
        and condition.get("lastTransitionTime")
    ]
    return min(times, default=None)


def _troubles(pod: Json) -> Iterator[Trouble]:
    for condition in _conditions(pod):
        if condition.get("type") == "PodScheduled" and condition.get("reason") == "Unschedulable":
            yield Trouble(
                reasons.INSUFFICIENT_GPU,
                f"no node has room: {condition.get('message', '')}: free resources, or set rollout.surge to Never",
            )
    status = pod.get("status", {})
    for container in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        found = _refused(container) or _crashed(container) or _held(container)
        if found is not None:
            yield found


def _refused(container: Json) -> Trouble | None:
    """Read what `fetch` said before it gave up."""
    if container.get("name") != FETCH:
        return None
    ended = _terminated(container)
    if ended.get("exitCode", 0) == 0:
        return None
    try:
        outcome = Outcome.model_validate_json(ended.get("message") or "")
    except ValidationError:
        return None
    if outcome.ok or not outcome.reason:
        return None
    return Trouble(outcome.reason, outcome.message, fatal=outcome.reason not in PASSING)


def _crashed(container: Json) -> Trouble | None:
    if _waiting(container).get("reason") != "CrashLoopBackOff":
        return None
    restarts, ended = container.get("restartCount", 0), _terminated(container)
    if ended.get("reason") == "OOMKilled":
        message = f"container {container.get('name')} was killed for memory: raise its resources"
        return Trouble(reasons.OUT_OF_MEMORY, message, fatal=restarts >= CRASHES)
    message = f"container {container.get('name')} ends with exit code {ended.get('exitCode', '?')}: read its log"
    return Trouble(reasons.NOT_READY, message, fatal=restarts >= CRASHES)


def _held(container: Json) -> Trouble | None:
    reason = _waiting(container).get("reason")
    if reason not in HELD:
        return None
    message = f"container {container.get('name')} cannot start: {reason}: check its image, Secret and ConfigMap"
    return Trouble(reasons.NOT_READY, message)


def _waiting(container: Json) -> Json:
    waiting: Json = (container.get("state") or {}).get("waiting") or {}
    return waiting


def _terminated(container: Json) -> Json:
    for when in ("state", "lastState"):
        ended: Json = (container.get(when) or {}).get("terminated") or {}
        if ended:
            return ended
    return {}


def _is_ready(pod: Json) -> bool:
    return any(c.get("type") == "Ready" and c.get("status") == "True" for c in _conditions(pod))


def _conditions(pod: Json) -> list[Json]:
    return pod.get("status", {}).get("conditions") or []
