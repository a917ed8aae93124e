"""How an endpoint stands, in conditions: whether it serves, a drafter is approved, one serves, and whether it helps.

PURE. `Ready` says whether requests of this generation are answered, never whether a person has decided: while a drafter
waits for approval, or does not come up, the base serves and `Ready` is True.
"""

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from specop.api import reasons
from specop.api.endpoint import DraftedEndpoint, EndpointStatus, Measured
from specop.domain.candidates import ROLLING_OUT, Choice
from specop.domain.conditions import Aspect, Verdict, unproven
from specop.domain.rollout import ArmView
from specop.domain.target import Problem

INEFFECTIVE_LENGTH = Decimal("1.02")
"""Mean acceptance length up to which drafting is wasted work; 1 is a drafter that is never right."""
ENOUGH_DRAFTS = 100
"""Drafts in a window from which on its acceptance is judged."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What conditions are concluded from."""

    obj: DraftedEndpoint
    status: EndpointStatus
    choice: Choice
    keeper: ArmView
    wanted: ArmView
    problem: Problem | None
    """Why the target is not known."""

    @property
    def rolling(self) -> bool:
        """Whether one arm replaces another."""
        return self.keeper.spec.name != self.wanted.spec.name


def readiness(standing: Standing) -> Verdict:
    """Conclude `Ready`: a ready pod of this generation, in whichever arm."""
    if standing.obj.spec.replicas == 0:
        return Verdict("False", reasons.SCALED_TO_ZERO, "spec.replicas is 0: raise it to serve")
    arms = (standing.keeper, standing.wanted)
    serving = next((arm for arm in arms if arm.ready > 0), None)
    trouble = next((arm.trouble for arm in reversed(arms) if arm.trouble), None)
    if serving is not None:
        reason = reasons.SERVING_DRAFTER if serving.spec.drafter else reasons.SERVING_BASE
        what = "with its drafter" if serving.spec.drafter else "without a drafter"
        stuck = trouble is not None and trouble.no_room
        message = f"{standing.obj.spec.served_name} is served {what}"
        return Verdict("True", reason, message, reconciling=standing.rolling and not stuck)
    if standing.rolling and standing.obj.spec.rollout.surge == "Never":
        message = "arms are replaced in place: no pod serves until the new one is ready"
        return Verdict("False", reasons.ROLLING_IN_PLACE, message, reconciling=True)
    if trouble is not None:
        message = f"no pod of this generation is ready: {trouble.message}"
        return Verdict("False", trouble.reason, message, reconciling=not trouble.fatal, stalled=trouble.fatal)
    if any(arm.any_ready > 0 for arm in arms):
        message = "pods of the earlier specification serve until the first new one is ready"
        return Verdict("False", reasons.ROLLING_OUT, message, reconciling=True)
    return Verdict("False", reasons.STARTING, "its first pod is starting", reconciling=True)


def aspects(standing: Standing) -> tuple[Aspect, ...]:
    """Conclude everything about drafters."""
    target = standing.status.target
    return (_approved(standing), _serving(standing), _healthy(standing), *unproven(target))


def _approved(standing: Standing) -> Aspect:
    """Whether the newest drafter is approved: the candidate, or, without one, what serves."""
    choice, name = standing.choice, reasons.DRAFTER_APPROVED
    absent = _nothing_to_serve(standing)
    if absent is not None:
        return Aspect(name, "False", *absent)
    offer = choice.candidate or choice.serving
    assert offer is not None
    refusal = choice.refusal
    if refusal is None or refusal.state == "Failed":
        return Aspect(name, "True", reasons.APPROVED, f"Drafter {offer.name}, digest {offer.digest}, is approved")
    if refusal.state == "Inspecting" and standing.problem is not None:
        return Aspect(name, "False", standing.problem.reason, standing.problem.message)
    return Aspect(name, "False", refusal.reason, refusal.message)


def _serving(standing: Standing) -> Aspect:
    """Whether a drafter serves, and, if not, what is in its way."""
    choice, name, serving = standing.choice, reasons.DRAFTER_SERVING, standing.status.drafter.serving
    if serving is not None and standing.keeper.any_ready > 0:
        message = f"Drafter {serving.name} serves, digest {serving.digest}"
        if choice.object_missing:
            message += "; its Drafter object is gone, and it serves on from what status keeps"
            return Aspect(name, "True", reasons.DRAFTER_OBJECT_MISSING, message)
        return Aspect(name, "True", reasons.SERVING_DRAFTER, message + _beside(standing))
    if serving is not None:
        trouble = standing.keeper.trouble
        reason, why = (trouble.reason, trouble.message) if trouble else (reasons.NOT_READY, "its pods are not ready")
        return Aspect(name, "False", reason, f"Drafter {serving.name}: {why}")
    absent = _nothing_to_serve(standing)
    if absent is not None:
        return Aspect(name, "False", *absent)
    if choice.refusal is not None:
        if choice.refusal.state == "Inspecting" and standing.problem is not None:
            return Aspect(name, "False", standing.problem.reason, standing.problem.message)
        return Aspect(name, "False", choice.refusal.reason, choice.refusal.message)
    trouble = standing.wanted.trouble if standing.rolling else None
    if trouble is not None:
        reason = trouble.reason if trouble.no_room else reasons.ROLLING_OUT
        return Aspect(name, "False", reason, f"the drafted arm is not ready: {trouble.message}")
    return Aspect(name, "False", reasons.ROLLING_OUT, "the drafted arm comes up; the base serves until it is ready")


def _beside(standing: Standing) -> str:
    """Say what keeps the next drafter, while one serves."""
    candidate = standing.status.drafter.candidate
    if candidate is None or candidate.state != ROLLING_OUT:
        return ""
    trouble = standing.wanted.trouble if standing.rolling else None
    return f"; Drafter {candidate.name} comes up" + (f": {trouble.message}" if trouble else "")


def _nothing_to_serve(standing: Standing) -> tuple[str, str] | None:
    """Reason and message where there is neither a candidate nor a drafter that serves."""
    policy = standing.obj.spec.drafter
    origin = policy.from_ if policy else None
    if standing.choice.candidate is not None or standing.choice.serving is not None:
        return None
    if origin is None:
        return reasons.NO_DRAFTER_REQUESTED, "spec.drafter.from names none: the base serves alone"
    if origin.training_job_ref is not None:
        return reasons.NO_CANDIDATE, f"waits for the drafter of SpeculatorTrainingJob {origin.training_job_ref.name}"
    name = origin.drafter_ref.name if origin.drafter_ref else ""
    return reasons.NO_CANDIDATE, f"waits for Drafter {name} to be ready"


def _healthy(standing: Standing) -> Aspect:
    """Whether drafting pays, by the acceptance in the last window."""
    name, measured = reasons.ACCEPTANCE_HEALTHY, standing.status.measured
    if standing.status.drafter.serving is None:
        return Aspect(name, "Unknown", reasons.SERVING_BASE, "no drafter serves")
    length = _decimal(measured.acceptance_length) if measured else None
    if measured is None or length is None:
        return Aspect(name, "Unknown", reasons.NO_TRAFFIC, "no drafted traffic was measured yet")
    if length <= INEFFECTIVE_LENGTH and _drafts(measured, length) >= ENOUGH_DRAFTS:
        message = (
            f"mean acceptance length is {length}: the drafter slows this traffic down; reject its digest, or retrain"
        )
        return Aspect(name, "False", reasons.DRAFTER_INEFFECTIVE, message)
    return Aspect(name, "True", reasons.ACCEPTING, "the target accepts drafted tokens")


def _drafts(measured: Measured, length: Decimal) -> int:
    """Drafts in the window: each makes `length` tokens on average; at least one a request."""
    tokens = (_decimal(measured.throughput) or Decimal(0)) * measured.window_seconds
    return max(measured.requests, int(tokens / length) if length else 0)


def _decimal(text: str | None) -> Decimal | None:
    try:
        return Decimal(text) if text else None
    except InvalidOperation:
        return None
