"""Conditions: what a plan concludes, put into the list that users, `kubectl wait` and GitOps tools read.

PURE. A plan concludes one `Verdict` about its object; the roll-up turns it into the top condition (`Ready` or
`Succeeded`) and the two abnormal-true conditions of kstatus, which are absent where all is well. The transition time of
a condition changes with its status only, so that an unchanged conclusion is an unchanged list.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from specop.api import families, reasons
from specop.api.base import Condition
from specop.api.shared import TargetFacts
from specop.common.clock import format_time

Status = Literal["True", "False", "Unknown"]
MAX_MESSAGE = 1024


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is concluded about an object: the top condition, and whether work or a person is waited for."""

    status: Status
    reason: str
    message: str
    reconciling: bool = False
    """The generation is not accepted yet, or is being rolled out."""
    stalled: bool = False
    """Nothing goes on until a person changes something."""


@dataclass(frozen=True, slots=True)
class Aspect:
    """One condition before it has a time."""

    type: str
    status: Status
    reason: str
    message: str


def unproven(target: TargetFacts | None) -> tuple[Aspect, ...]:
    """Warn of a target whose family is not proven; nothing where it is, or where the target is not known yet."""
    why = families.unproven(target.architecture) if target else None
    if why is None:
        return ()
    return (Aspect(reasons.TARGET_PROVEN, "False", reasons.TARGET_UNPROVEN, f"{why}; watch the acceptance length"),)


def waiting(reason: str, message: str) -> Verdict:
    """Say that it is accepted and waits for something that is named; a GitOps wait does not hang on it."""
    return Verdict("Unknown", reason, message)


def stalled(reason: str, message: str, status: Status = "Unknown") -> Verdict:
    """Say that it waits for a person."""
    return Verdict(status, reason, message, stalled=True)


def find(conditions: Iterable[Condition], condition_type: str) -> Condition | None:
    """Find the condition of that type."""
    return next((condition for condition in conditions if condition.type == condition_type), None)


def is_true(conditions: Iterable[Condition], condition_type: str) -> bool:
    """Whether the condition is there and True."""
    condition = find(conditions, condition_type)
    return condition is not None and condition.status == "True"


def set_condition(previous: Iterable[Condition], aspect: Aspect, *, generation: int, now: datetime) -> Condition:
    """Give an aspect its time: the previous one where the status is the same."""
    before = find(previous, aspect.type)
    same = before is not None and before.status == aspect.status and before.last_transition_time
    return Condition(
        type=aspect.type,
        status=aspect.status,
        reason=aspect.reason,
        message=aspect.message[:MAX_MESSAGE],
        last_transition_time=before.last_transition_time if before and same else format_time(now),
        observed_generation=generation,
    )


def roll_up(
    top: str,
    verdict: Verdict,
    aspects: Iterable[Aspect] = (),
    *,
    previous: Iterable[Condition],
    generation: int,
    now: datetime,
) -> list[Condition]:
    """All conditions of an object: the top one, further aspects, and what is abnormal."""
    wanted = [Aspect(top, verdict.status, verdict.reason, verdict.message), *aspects]
    if verdict.reconciling:
        wanted.append(Aspect(reasons.RECONCILING, "True", verdict.reason, verdict.message))
    if verdict.stalled:
        wanted.append(Aspect(reasons.STALLED, "True", verdict.reason, verdict.message))
    before = tuple(previous)
    return [set_condition(before, aspect, generation=generation, now=now) for aspect in wanted]
