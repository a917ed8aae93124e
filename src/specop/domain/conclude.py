"""The end of every plan: a verdict and a status become the status that is written, and an Event if something changed.

PURE.
"""

from collections.abc import Iterable
from datetime import datetime

from specop.api import reasons
from specop.api.base import Condition
from specop.api.dataset import DatasetStatus, SpeculatorDataset
from specop.api.drafter import Drafter, DrafterStatus
from specop.api.endpoint import DraftedEndpoint, EndpointStatus
from specop.api.training_job import SpeculatorTrainingJob, TrainingStatus
from specop.domain.conditions import MAX_MESSAGE, Aspect, Verdict, find, roll_up
from specop.domain.plan import Apply, Create, Delete, Event, Plan

Owner = SpeculatorDataset | SpeculatorTrainingJob | Drafter | DraftedEndpoint
SHORT_DIGEST = 12
"""Hex digits of a digest in `kubectl get`."""
Status = DatasetStatus | TrainingStatus | DrafterStatus | EndpointStatus


def conclude(
    obj: Owner,
    now: datetime,
    verdict: Verdict,
    status: Status,
    *,
    aspects: Iterable[Aspect] = (),
    creates: tuple[Create, ...] = (),
    applies: tuple[Apply, ...] = (),
    deletes: tuple[Delete, ...] = (),
    events: tuple[Event, ...] = (),
    requeue_after: float | None = None,
) -> Plan:
    """Put a plan together: `status` is what the kind has to say, conditions and observedGeneration are put in here.

    `events` are more special than the one on the top condition, which stays out where one of them has its reason.
    """
    top = reasons.SUCCEEDED if isinstance(obj, SpeculatorDataset | SpeculatorTrainingJob) else reasons.READY
    generation, previous = obj.metadata.generation, obj.status.conditions
    conditions = roll_up(top, verdict, aspects, previous=previous, generation=generation, now=now)
    final = status.model_copy(update={"observed_generation": generation, "conditions": conditions})
    told = {event.reason for event in events}
    own = tuple(event for event in _transition(previous, top, verdict) if event.reason not in told)
    return Plan(
        creates=creates,
        applies=applies,
        deletes=deletes,
        status=final.to_json(),
        events=(*own, *events),
        requeue_after=requeue_after,
    )


def _transition(previous: Iterable[Condition], top: str, verdict: Verdict) -> tuple[Event, ...]:
    """One Event when the conclusion got another status or reason; none while it stays."""
    before = find(previous, top)
    if before is not None and (before.status, before.reason) == (verdict.status, verdict.reason):
        return ()
    return (Event("Warning" if verdict.stalled else "Normal", verdict.reason, verdict.message[:MAX_MESSAGE]),)
