"""Plan of a DraftedEndpoint: read the target, settle what failed, choose a drafter, move the arms, say how it stands.

PURE. What serves is what `status.drafter.serving` says, and it changes only when the wanted arm has taken over. A
rollout has begun when it is in status with its time; until then the keeper must be ready first, so that a target that
does not come up is never blamed on a drafter.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from specop.api import reasons
from specop.api.endpoint import (
    ArmStatus,
    CandidateDrafter,
    CaptureStatus,
    EndpointDrafterStatus,
    EndpointStatus,
    ServingDrafter,
)
from specop.api.shared import DrafterRefStatus
from specop.common.clock import format_time, parse_time
from specop.common.hashing import short
from specop.domain import target
from specop.domain.candidates import ROLLING_OUT, Choice, choose, deadline, gate_of, with_failures
from specop.domain.conclude import conclude
from specop.domain.gate import Gate, next_expiry
from specop.domain.lineage import Offer
from specop.domain.observed import CaptureReading, EndpointObserved
from specop.domain.plan import Apply, Event, Plan
from specop.domain.rollout import Arms, ArmView, Step, arms_in, images, look
from specop.domain.standing import Standing, aspects, readiness
from specop.manifests.serving import ArmSpec, arm_name, deployment_name, selector, service

BASE_ARM = ArmSpec()


@dataclass(frozen=True, slots=True)
class Move:
    """One step of the arms, and the drafters' status after it."""

    step: Step
    keeper: ArmView
    wanted: ArmView
    choice: Choice
    drafter: EndpointDrafterStatus


def plan(observed: EndpointObserved, now: datetime) -> Plan:
    """Decide what to do about one endpoint."""
    obj = observed.obj
    if obj.metadata.deletion_timestamp:
        return Plan()
    reading = target.read(observed)
    gate = gate_of(observed, reading.status, reading.facts, now)
    settled = with_failures(observed, reading.status, gate)
    gate = gate_of(observed, settled, reading.facts, now)
    move = _move(observed, settled.drafter, gate)
    status = _observe(observed, settled).model_copy(update={"drafter": move.drafter})
    standing = Standing(obj, status, move.choice, move.keeper, move.wanted, reading.problem)
    return conclude(
        obj,
        now,
        readiness(standing),
        status,
        aspects=aspects(standing),
        creates=reading.creates,
        applies=(*_service(observed), *move.step.applies),
        deletes=(*move.step.deletes, *reading.deletes),
        events=tuple(_news(obj.status.drafter, move.drafter)),
        requeue_after=_next_look(observed, move, gate, reading.requeue_after),
    )


# --- arms


def _move(observed: EndpointObserved, drafter: EndpointDrafterStatus, gate: Gate) -> Move:
    """Take one step from the arm that serves to the one that should."""
    obj, children = observed.obj, observed.children
    choice = choose(observed, drafter, gate)
    keeper = look(obj, choice.serving.arm if choice.serving else BASE_ARM, children)
    wanted = look(obj, choice.wanted.arm if choice.wanted else BASE_ARM, children)
    candidate = _candidate(drafter.candidate, choice, gate)
    begun = candidate is None or candidate.state != ROLLING_OUT or candidate.started is not None
    if candidate is not None and not begun:
        if keeper.ready == 0:
            wanted = keeper
        else:
            candidate = candidate.model_copy(update={"started": format_time(gate.now)})
    # Nothing moves before its beginning is in status: a keeper that makes place would look like one that is not ready.
    step = Arms(obj, observed.runtimes, children).step(keeper, wanted if begun else keeper)
    after = drafter.model_copy(update={"candidate": candidate})
    if not begun or not step.available or keeper.spec.name == wanted.spec.name:
        return Move(step, keeper, wanted, choice, after)
    after = _taken_over(drafter, choice.wanted, gate)
    choice = choose(observed, after, gate)
    after = after.model_copy(update={"candidate": _candidate(None, choice, gate)})
    return Move(step, wanted, wanted, choice, after)


def _candidate(before: CandidateDrafter | None, choice: Choice, gate: Gate) -> CandidateDrafter | None:
    """Show the candidate in status; a rollout keeps the time at which it began."""
    offer = choice.candidate
    if offer is None:
        return None
    attempt = gate.attempt(offer.digest) or 1
    state = choice.refusal.state if choice.refusal else ROLLING_OUT
    same = before is not None and (before.digest, before.attempt, before.state) == (offer.digest, attempt, state)
    return CandidateDrafter(
        name=offer.name,
        digest=offer.digest,
        uri=offer.weights.uri,
        acceptance_length=offer.acceptance_length,
        state=state,
        attempt=attempt,
        started=before.started if before and same else None,
    )


def _taken_over(drafter: EndpointDrafterStatus, offer: Offer | None, gate: Gate) -> EndpointDrafterStatus:
    """Note who serves now; a digest that serves has not failed."""
    if offer is None:
        return drafter.model_copy(update={"serving": None})
    serving = ServingDrafter(
        name=offer.name,
        digest=offer.digest,
        uri=offer.weights.uri,
        contract=offer.contract,
        since=format_time(gate.now),
        attempt=gate.attempt(offer.digest),
    )
    failed = [item for item in drafter.failed if item.digest != offer.digest]
    return drafter.model_copy(update={"serving": serving, "failed": failed})


def _service(observed: EndpointObserved) -> tuple[Apply, ...]:
    """Apply the Service where it is not as it should be."""
    body = service(observed.obj)
    live = next((s for s in observed.children.services if s["metadata"]["name"] == body["metadata"]["name"]), None)
    if live is not None and all(live.get("spec", {}).get(key) == body["spec"][key] for key in body["spec"]):
        return ()
    return (Apply(body),)


# --- status


def _observe(observed: EndpointObserved, status: EndpointStatus) -> EndpointStatus:
    """Everything in status that is seen and not decided."""
    obj, live = observed.obj, [deployment for _, deployment in arms_in(observed.children)]
    counts = [item.get("status") or {} for item in live]
    return status.model_copy(
        update={
            "url": f"http://{obj.metadata.name}.{obj.metadata.namespace}.svc/v1",
            "replicas": sum(count.get("replicas", 0) for count in counts),
            "ready_replicas": sum(count.get("readyReplicas", 0) for count in counts),
            "selector": ",".join(f"{key}={value}" for key, value in sorted(selector(obj).items())),
            "image": images(obj, observed.runtimes, observed.children).companion,
            "arms": _arms(observed, status),
            "capture": _capture(status.capture, observed.capture),
            "measured": observed.measured or status.measured,
        }
    )


def _arms(observed: EndpointObserved, status: EndpointStatus) -> list[ArmStatus]:
    named = [item for item in (observed.obj.status.drafter.serving, status.drafter.serving) if item]
    candidates = [item for item in (observed.obj.status.drafter.candidate, status.drafter.candidate) if item]
    drafters = {
        arm_name(item.digest): DrafterRefStatus(name=item.name, digest=item.digest, uri=item.uri)
        for item in [*candidates, *named]
    }
    return [
        ArmStatus(
            name=name,
            deployment=deployment_name(observed.obj, name),
            drafter=drafters.get(name),
            replicas=live.get("spec", {}).get("replicas", 0),
            ready_replicas=(live.get("status") or {}).get("readyReplicas", 0),
        )
        for name, live in arms_in(observed.children)
    ]


def _capture(before: CaptureStatus | None, reading: CaptureReading | None) -> CaptureStatus | None:
    """Add what was shipped since; the watermark never goes back."""
    if reading is None:
        return before
    old = before or CaptureStatus()
    marks = [mark for mark in (old.shipped_until, reading.shipped_until) if mark]
    return CaptureStatus(
        requests=old.requests + reading.requests,
        shipped_until=max(marks, key=parse_time, default=None),
    )


def _news(before: EndpointDrafterStatus, after: EndpointDrafterStatus) -> Iterable[Event]:
    """Events for what changed among the drafters."""
    old = {(item.digest, item.attempt) for item in before.failed}
    for failure in after.failed:
        if (failure.digest, failure.attempt) not in old:
            message = f"drafter {short(failure.digest, 12)} failed: {failure.reason}: {failure.message}"
            yield Event("Warning", reasons.DRAFTER_FAILED, message[:1024])
    if after.serving and (before.serving is None or before.serving.digest != after.serving.digest):
        message = f"Drafter {after.serving.name} serves, digest {after.serving.digest}"
        yield Event("Normal", reasons.SERVING_DRAFTER, message)
    if before.serving and after.serving is None:
        yield Event("Normal", reasons.SERVING_BASE, f"Drafter {before.serving.name} no longer serves")
    candidate, known = after.candidate, before.candidate
    if candidate and (known is None or (known.digest, known.state) != (candidate.digest, candidate.state)):
        message = f"candidate Drafter {candidate.name}, digest {candidate.digest}: {candidate.state}"
        yield Event("Normal", candidate.state, message)


def _next_look(observed: EndpointObserved, move: Move, gate: Gate, reading: float | None) -> float | None:
    """When time alone changes the plan: an approval ends, a rollout is out of time."""
    times = [reading, next_expiry(gate.policy.approvals, gate.now)]
    candidate = move.drafter.candidate
    if candidate is not None and candidate.started and observed.obj.spec.replicas > 0:
        end = deadline(observed, candidate.digest, parse_time(candidate.started))
        left = (end - gate.now).total_seconds()
        times.append(left if left > 0 else None)  # past it only a change of the pods counts
    return min((time for time in times if time is not None), default=None)
