"""The gate: may this drafter serve beside this target? A chain of named checks; the first that objects wins.

PURE. An approval is bound to a digest and speaks for nothing else. A rejection beats an approval; an approval that has
expired is none. The contract is checked here, before a GPU is taken; `fetch` checks it again before the engine starts.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from specop.api import reasons
from specop.api.contract import check_contract
from specop.api.endpoint import Approval, ApprovalPolicy, DraftedEndpoint, FailedDrafter
from specop.api.shared import TargetFacts
from specop.common.clock import parse_time
from specop.common.hashing import short
from specop.domain.lineage import Offer

CandidateState = Literal[
    "AwaitingApproval", "AwaitingQualification", "Incompatible", "Inspecting", "Rejected", "Failed", "RollingOut"
]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an offer may not serve."""

    state: CandidateState
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Gate:
    """What is known when an offer is judged."""

    endpoint: DraftedEndpoint
    now: datetime
    facts: TargetFacts | None
    """Of the target that the spec names now; None while they are not known."""
    failed: tuple[FailedDrafter, ...] = ()
    known: frozenset[str] = frozenset()
    """Digests that belong to a drafter, or did."""

    @property
    def policy(self) -> ApprovalPolicy:
        """The endpoint's approvals."""
        return self.endpoint.spec.drafter.approval if self.endpoint.spec.drafter else ApprovalPolicy()

    def attempt(self, digest: str) -> int:
        """Highest attempt that a valid approval allows this digest; 0 where there is none."""
        valid = (a for a in self.policy.approvals if a.digest == digest and not expired(a, self.now))
        return max((approval.attempt for approval in valid), default=0)


Check = Callable[[Offer, Gate], Refusal | None]


def refuse(offer: Offer, gate: Gate) -> Refusal | None:
    """Give the first objection, or None: then it may serve."""
    return next((refusal for check in CHECKS if (refusal := check(offer, gate)) is not None), None)


def expired(approval: Approval, now: datetime) -> bool:
    """Whether an approval is over; a time that cannot be read is."""
    if approval.expires_at is None:
        return False
    try:
        return parse_time(approval.expires_at) <= now
    except ValueError:
        return True


def next_expiry(approvals: Iterable[Approval], now: datetime) -> float | None:
    """Seconds until the next approval is over, or None."""
    ahead = [
        (parse_time(approval.expires_at) - now).total_seconds()
        for approval in approvals
        if approval.expires_at is not None and not expired(approval, now)
    ]
    return min(ahead, default=None)


def _rejected(offer: Offer, gate: Gate) -> Refusal | None:
    if offer.digest not in gate.policy.rejected_digests:
        return None
    return Refusal("Rejected", reasons.REJECTED, f"{offer.digest} is in spec.drafter.approval.rejectedDigests")


def _target_unknown(offer: Offer, gate: Gate) -> Refusal | None:
    if gate.facts is not None:
        return None
    return Refusal("Inspecting", reasons.INSPECTING, f"the target is being read, to compare it with {offer.name}")


def _incompatible(offer: Offer, gate: Gate) -> Refusal | None:
    assert gate.facts is not None
    drafter = gate.endpoint.spec.drafter
    differences = check_contract(offer.contract, gate.facts, drafter.speculative_tokens if drafter else None)
    if not differences:
        return None
    message = f"Drafter {offer.name} does not fit this endpoint: {'; '.join(differences)}"
    return Refusal("Incompatible", reasons.CONTRACT_MISMATCH, message)


def _unqualified(offer: Offer, gate: Gate) -> Refusal | None:
    if gate.policy.policy != "Automatic":
        return None
    message = (
        f"policy Automatic serves what passed qualification, and {offer.name} has none: "
        "set policy Required and approve its digest"
    )
    return Refusal("AwaitingQualification", reasons.AWAITING_QUALIFICATION, message)


def _unapproved(offer: Offer, gate: Gate) -> Refusal | None:
    if gate.attempt(offer.digest) > 0:
        return None
    approvals = gate.policy.approvals
    how = f"to approve Drafter {offer.name}, add {{digest: {offer.digest}, by: …}} to spec.drafter.approval.approvals"
    if any(approval.digest == offer.digest for approval in approvals):
        return Refusal("AwaitingApproval", reasons.APPROVAL_EXPIRED, f"its approval has expired: {how}")
    unknown = sorted({approval.digest for approval in approvals} - gate.known)
    if unknown:
        message = f"approved digest {short(unknown[-1], 12)} belongs to no drafter here; {how}"
        return Refusal("AwaitingApproval", reasons.UNKNOWN_DIGEST_APPROVED, message)
    return Refusal("AwaitingApproval", reasons.AWAITING_APPROVAL, how)


def _failed(offer: Offer, gate: Gate) -> Refusal | None:
    failure = next((item for item in gate.failed if item.digest == offer.digest), None)
    if failure is None or gate.attempt(offer.digest) > failure.attempt:
        return None
    message = (
        f"{failure.reason}: {failure.message}; to try it again, raise attempt of its approval above {failure.attempt}"
    )
    return Refusal("Failed", reasons.DRAFTER_FAILED, message)


CHECKS: tuple[Check, ...] = (
    _rejected,
    _target_unknown,
    _incompatible,
    _unqualified,
    _unapproved,
    _failed,
)
"""From what no approval can mend to what one can."""
