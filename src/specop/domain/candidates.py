"""Which drafter should serve: the newest of the lineage that the gate lets through, unless an older one must go first.

PURE. What serves goes on serving while it may, also when its object is gone; what may no longer serve makes place for
the base before anything else is tried. Failures are facts of the past: they are read from an arm that did not come up,
and kept with the attempt that they ended.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from specop.api import reasons
from specop.api.endpoint import DrafterFrom, EndpointDrafterStatus, EndpointStatus, FailedDrafter, ServingDrafter
from specop.api.shared import TargetFacts
from specop.common.clock import format_time, parse_time
from specop.domain.conditions import MAX_MESSAGE
from specop.domain.gate import Gate, Refusal, refuse
from specop.domain.lineage import Offer, follow, is_object_of, offers, serving_offer
from specop.domain.observed import EndpointObserved
from specop.domain.pods import Trouble, first_scheduled, trouble
from specop.domain.rollout import live_arm, pods_of
from specop.manifests.serving import arm_name

MAX_FAILED = 32
ROLLING_OUT = "RollingOut"


@dataclass(frozen=True, slots=True)
class Choice:
    """Who serves, who should, and who is next in line."""

    serving: Offer | None = None
    wanted: Offer | None = None
    """None: the base."""
    candidate: Offer | None = None
    """The newest that does not serve; the wanted one, where that does not serve yet."""
    refusal: Refusal | None = None
    """Why the candidate is not wanted, or, without a candidate, why what serves must go."""
    object_missing: bool = False
    """What serves has no Drafter object any more."""


def origin_of(observed: EndpointObserved) -> DrafterFrom | None:
    """Say which drafters the endpoint asks for."""
    policy = observed.obj.spec.drafter
    return policy.from_ if policy else None


def gate_of(observed: EndpointObserved, status: EndpointStatus, facts: TargetFacts | None, now: datetime) -> Gate:
    """Gather what offers are judged by."""
    drafter = status.drafter
    known = {d.status.digest for d in observed.drafters if d.status.digest} | {f.digest for f in drafter.failed}
    known |= {drafter.serving.digest} if drafter.serving else set()
    return Gate(observed.obj, now, facts, tuple(drafter.failed), frozenset(known))


def choose(observed: EndpointObserved, drafter: EndpointDrafterStatus, gate: Gate) -> Choice:
    """Decide which drafter should serve. At zero replicas nothing can be proved, and nothing new is tried."""
    origin, serving = origin_of(observed), drafter.serving
    offer = serving_offer(serving, observed.drafters) if serving else None
    missing = serving is not None and not any(is_object_of(d, serving) for d in observed.drafters)
    if origin is None:
        return Choice(serving=offer, object_missing=missing)
    line = [o for o in offers(observed.drafters, origin) if offer is None or o.digest != offer.digest]
    if serving is not None and offer is not None:
        line = [o for o in line if o.age > offer.age]
        refusal = _must_go(observed, serving, offer, origin, gate)
        if refusal is not None:
            return Choice(serving=offer, refusal=refusal, object_missing=missing)
    eligible = next((o for o in line if refuse(o, gate) is None), None)
    if eligible is not None and observed.obj.spec.replicas > 0:
        return Choice(offer, wanted=eligible, candidate=eligible, object_missing=missing)
    candidate = line[0] if line else None
    refusal = refuse(candidate, gate) if candidate else None
    return Choice(offer, wanted=offer, candidate=candidate, refusal=refusal, object_missing=missing)


def _must_go(
    observed: EndpointObserved, serving: ServingDrafter, offer: Offer, origin: DrafterFrom, gate: Gate
) -> Refusal | None:
    """Why what serves may not go on."""
    objects = [drafter for drafter in observed.drafters if is_object_of(drafter, serving)]
    if objects:
        named = any(is_object_of(drafter, serving) for drafter in follow(observed.drafters, origin))
    else:
        named = origin.drafter_ref is None or origin.drafter_ref.name == serving.name
    if not named:
        return Refusal("Rejected", reasons.NO_CANDIDATE, f"spec.drafter.from does not name Drafter {serving.name}")
    return refuse(offer, gate)


# --- failures


def with_failures(observed: EndpointObserved, status: EndpointStatus, gate: Gate) -> EndpointStatus:
    """Record what failed since: a candidate's arm that did not come up, a serving arm that does not stay up."""
    drafter = status.drafter
    if observed.obj.spec.replicas == 0:
        return status
    candidate, serving = drafter.candidate, drafter.serving
    if candidate is not None and candidate.state == ROLLING_OUT and candidate.started:
        why = _rollout_failure(observed, candidate.digest, parse_time(candidate.started), gate.now)
        if why is not None:
            failed = _failed(drafter, candidate.digest, candidate.attempt, why, gate.now)
            drafter = drafter.model_copy(update={"candidate": None, "failed": failed})
    if serving is not None:
        why = _fatal(observed, serving.digest)
        if why is not None and _ready_pods(observed, serving.digest) == 0:
            attempt = max(serving.attempt, gate.attempt(serving.digest))
            failed = _failed(drafter, serving.digest, attempt, why, gate.now)
            drafter = drafter.model_copy(update={"serving": None, "failed": failed})
    return status.model_copy(update={"drafter": drafter})


def deadline(observed: EndpointObserved, digest: str, started: datetime) -> datetime:
    """When the arm of a digest must be ready: time without a node does not count."""
    scheduled = first_scheduled(pods_of(observed.children, arm_name(digest)))
    begin = max(started, scheduled) if scheduled else started
    return begin + timedelta(seconds=observed.obj.spec.rollout.ready_deadline_seconds)


def _rollout_failure(observed: EndpointObserved, digest: str, started: datetime, now: datetime) -> Trouble | None:
    found = trouble(pods_of(observed.children, arm_name(digest)))
    if found is not None and found.fatal:
        return found
    if _ready_pods(observed, digest) >= observed.obj.spec.replicas or (found is not None and found.no_room):
        return None
    if now < deadline(observed, digest, started):
        return None
    seconds = observed.obj.spec.rollout.ready_deadline_seconds
    why = f": {found.message}" if found else ""
    return Trouble(reasons.DRAFTER_NOT_READY, f"its pods were not ready within {seconds} s{why}", fatal=True)


def _fatal(observed: EndpointObserved, digest: str) -> Trouble | None:
    found = trouble(pods_of(observed.children, arm_name(digest)))
    return found if found is not None and found.fatal else None


def _ready_pods(observed: EndpointObserved, digest: str) -> int:
    live = live_arm(observed.children, arm_name(digest)) or {}
    ready: int = (live.get("status") or {}).get("readyReplicas", 0)
    return ready


def _failed(
    drafter: EndpointDrafterStatus, digest: str, attempt: int, why: Trouble, now: datetime
) -> list[FailedDrafter]:
    entry = FailedDrafter(
        digest=digest, attempt=attempt, reason=why.reason, message=why.message[:MAX_MESSAGE], time=format_time(now)
    )
    return [*(item for item in drafter.failed if item.digest != digest), entry][-MAX_FAILED:]
