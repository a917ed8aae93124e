"""The gate: one row a check, in the chain's order."""

from typing import Any

import pytest

from specop.api.endpoint import FailedDrafter
from specop.api.shared import Json
from specop.domain.gate import Gate, Refusal, refuse
from specop.domain.lineage import Offer
from tests.domain import build
from tests.domain.build import approve, asks_for, sha

OFFER = Offer("agent-v1", build.weights("agent-v1"), build.contract(), "2026-01-01T00:00:00Z")
FAILED = (FailedDrafter(digest=sha("agent-v1"), attempt=1, reason="NotReady", message="exit code 1"),)


def judge(*approvals: Json, known: tuple[str, ...] = (), tokens: int | None = None, **more: Any) -> Refusal | None:
    policy = {key: more.pop(key) for key in ("rejectedDigests", "policy") if key in more}
    spec = asks_for("agent-v1", *approvals, **policy)
    if tokens:
        spec["speculativeTokens"] = tokens
    given = {"facts": build.facts(), "known": frozenset(map(sha, ("agent-v1", *known))), **more}
    return refuse(OFFER, Gate(build.endpoint(drafter=spec), build.at(0), **given))


YES = approve("agent-v1")


@pytest.mark.parametrize(
    ("refusal", "state", "reason", "message"),
    [
        pytest.param(judge(YES, rejectedDigests=[sha("agent-v1")]), "Rejected", "Rejected", "rejectedDigests", id="no"),
        pytest.param(judge(YES, facts=None), "Inspecting", "Inspecting", "being read", id="target unknown"),
        pytest.param(
            judge(YES, facts=build.facts(tokenizer_hash=sha("x"))),
            "Incompatible",
            "ContractMismatch",
            "target.tokenizerHash",
            id="another tokenizer",
        ),
        pytest.param(
            judge(YES, tokens=5), "Incompatible", "ContractMismatch", "speculativeTokens: 5", id="too many tokens"
        ),
        pytest.param(
            judge(YES, policy="Automatic"), "AwaitingQualification", "AwaitingQualification", "Required", id="automatic"
        ),
        pytest.param(judge(), "AwaitingApproval", "AwaitingApproval", f"digest: {sha('agent-v1')}", id="waiting"),
        pytest.param(
            judge(approve("agent-v1", expiresAt="2026-01-01T00:00:00Z")),
            "AwaitingApproval",
            "ApprovalExpired",
            "has expired",
            id="expired this second",
        ),
        pytest.param(
            judge(approve("agent-v1", expiresAt="soon")),
            "AwaitingApproval",
            "ApprovalExpired",
            "expired",
            id="unreadable",
        ),
        pytest.param(
            judge(approve("typo")), "AwaitingApproval", "UnknownDigestApproved", sha("typo")[7:19], id="unknown digest"
        ),
        pytest.param(
            judge(approve("agent-v0"), known=("agent-v0",)),
            "AwaitingApproval",
            "AwaitingApproval",
            "add",
            id="another's",
        ),
        pytest.param(judge(YES, failed=FAILED), "Failed", "DrafterFailed", "exit code 1", id="failed"),
    ],
)
def test_refused(refusal: Refusal | None, state: str, reason: str, message: str) -> None:
    assert refusal is not None
    assert (refusal.state, refusal.reason) == (state, reason)
    assert message in refusal.message


@pytest.mark.parametrize(
    "refusal",
    [
        pytest.param(judge(YES), id="approved"),
        pytest.param(judge(YES, tokens=2), id="fewer tokens"),
        pytest.param(judge(approve("agent-v1", expiresAt="2026-01-01T00:00:01Z")), id="not over yet"),
        pytest.param(judge(approve("agent-v1", attempt=2), failed=FAILED), id="another attempt"),
        pytest.param(
            judge(approve("agent-v1", expiresAt="2025-01-01T00:00:00Z"), approve("agent-v1", by="bob")), id="one of two"
        ),
    ],
)
def test_let_through(refusal: Refusal | None) -> None:
    assert refusal is None
