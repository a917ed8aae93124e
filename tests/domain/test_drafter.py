"""Drafter: made by a job, or imported; and who approved it."""

import pytest

from specop.api.jobs import Outcome
from specop.api.shared import Json
from tests.domain import build
from tests.domain.build import approve, asks_for
from tests.domain.world import World


def imported(*, digest: str | None = None) -> World:
    found = World()
    obj = build.drafter("mine", job=None, digest=None)
    weights = obj.spec.weights.model_copy(update={"digest": digest})
    found.put(obj.model_copy(update={"spec": obj.spec.model_copy(update={"weights": weights})}))
    return found


def conditions(found: World, name: str = "mine") -> dict[str, tuple[str, str]]:
    return {c.type: (c.status, c.reason) for c in found.get("Drafter", name).status.conditions}


@pytest.mark.parametrize(
    ("digest", "outcome", "expected"),
    [
        pytest.param(None, None, {"Ready": ("False", "Inspecting"), "Reconciling": ("True", "Inspecting")}, id="read"),
        pytest.param(None, build.inspect_outcome("mine"), {"Ready": ("True", "Available")}, id="told its digest"),
        pytest.param(
            build.sha("mine"), build.inspect_outcome("mine"), {"Ready": ("True", "Available")}, id="as expected"
        ),
        pytest.param(
            build.sha("mine"),
            build.inspect_outcome("other"),
            {"Ready": ("False", "DigestMismatch"), "Stalled": ("True", "DigestMismatch")},
            id="other bytes",
        ),
        pytest.param(
            None,
            build.refused("inspect", "WeightsInvalid"),
            {"Ready": ("False", "WeightsInvalid"), "Stalled": ("True", "WeightsInvalid")},
            id="refused",
        ),
        pytest.param(
            None,
            build.inspect_outcome(),
            {"Ready": ("False", "JobFailed"), "Stalled": ("True", "JobFailed")},
            id="no weights found",
        ),
    ],
)
def test_imports(digest: str | None, outcome: Outcome | None, expected: dict[str, tuple[str, str]]) -> None:
    found = imported(digest=digest)
    if outcome is not None:
        found.outcomes["mine-inspect"] = outcome
    found.settle()
    assert conditions(found) == expected


def test_what_was_learnt_is_kept_when_the_job_is_gone() -> None:
    found = imported()
    found.outcomes["mine-inspect"] = build.inspect_outcome("mine")
    found.settle()
    del found.objects["Job", "mine-inspect"]
    found.settle()
    assert found.named("Job") == []
    assert conditions(found) == {"Ready": ("True", "Available")}


def test_no_place_for_what_is_learnt() -> None:
    found = imported()
    found.runtimes = build.runtimes(output=None)
    found.settle()
    assert conditions(found)["Stalled"] == ("True", "NoOutputStorage")


@pytest.mark.parametrize(
    "status",
    [
        pytest.param(None, id="job gone"),
        pytest.param({"drafter": {"name": "agent-v1", **build.weights("other").to_json()}}, id="another digest"),
    ],
)
def test_a_lineage_that_does_not_hold_is_an_import(status: Json | None) -> None:
    found = World()
    if status is not None:
        done = {"type": "Succeeded", "status": "True", "reason": "Completed", "observedGeneration": 1}
        found.put(build.training(status={**status, "contract": build.contract().to_json(), "conditions": [done]}))
    found.put(build.drafter("agent-v1", digest=None))
    found.settle()
    assert found.named("Job") == ["agent-v1-inspect"]


def test_who_approved() -> None:
    found = World()
    found.put(build.drafter("agent-v1"))
    found.put(build.endpoint(drafter=asks_for("agent-v1", approve("agent-v1"))))
    found.put(build.endpoint("other", drafter=asks_for("agent-v1", approve("agent-v1", by="bob"), approve("x"))))
    found.seconds = 60
    found.reconcile("Drafter", "agent-v1")
    status = found.get("Drafter", "agent-v1").status
    assert (status.approved_by, status.approved_at) == ("ada@example.com, bob", "2026-01-01T00:01:00Z")
    found.seconds = 120
    found.reconcile("Drafter", "agent-v1")
    assert found.get("Drafter", "agent-v1").status.approved_at == "2026-01-01T00:01:00Z"
    del found.objects["DraftedEndpoint", "agent"], found.objects["DraftedEndpoint", "other"]
    found.reconcile("Drafter", "agent-v1")
    status = found.get("Drafter", "agent-v1").status
    assert (status.approved_by, status.approved_at) == (None, None)
