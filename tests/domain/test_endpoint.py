"""DraftedEndpoint: from the base alone to a drafted arm and back, on a tiny pure cluster."""

import copy
from typing import Any

import pytest

from specop.api.endpoint import DraftedEndpoint, Measured
from specop.api.shared import Json
from specop.domain.observed import CaptureReading
from tests.domain import build
from tests.domain.build import approve, asks_for, sha
from tests.domain.world import World

V1 = f"d-{sha('agent-v1')[7:15]}"
V2 = f"d-{sha('agent-v2')[7:15]}"


def conditions(obj: DraftedEndpoint) -> dict[str, tuple[str, str]]:
    return {c.type: (c.status, c.reason) for c in obj.status.conditions}


def arms(world: World) -> list[str]:
    return [body["metadata"]["labels"]["specop.dev/arm"] for body in deployments(world)]


def deployments(world: World) -> list[Json]:
    return [world.objects["Deployment", name] for name in world.named("Deployment")]


def agent(world: World) -> DraftedEndpoint:
    found: DraftedEndpoint = world.get("DraftedEndpoint", "agent")
    return found


def world_with(*approved: str, **spec: Any) -> World:
    """An endpoint whose target is known, and the drafter of job agent-v1."""
    world = World(outcomes={"agent-target": build.inspect_outcome()})
    world.put(build.endpoint(drafter=asks_for("agent-v1", *(approve(name) for name in approved)), **spec))
    world.put(build.drafter("agent-v1"))
    return world


def set_approvals(world: World, *approvals: Json, **more: Any) -> None:
    def change(spec: Json) -> None:
        spec["drafter"]["approval"] = {"approvals": list(approvals), **more}

    world.edit("DraftedEndpoint", "agent", change)


def test_base_alone_without_a_wish_for_a_drafter() -> None:
    world = World()
    world.put(build.endpoint())
    world.settle()
    status = agent(world).status
    assert arms(world) == ["base"]
    assert world.named("Service") == ["agent"]
    assert world.named("Job") == []
    assert conditions(agent(world)) == {
        "Ready": ("True", "ServingBase"),
        "DrafterApproved": ("False", "NoDrafterRequested"),
        "DrafterServing": ("False", "NoDrafterRequested"),
        "AcceptanceHealthy": ("Unknown", "ServingBase"),
    }
    assert (status.url, status.ready_replicas, status.observed_generation) == ("http://agent.team-a.svc/v1", 1, 1)
    assert status.image == "specop/companion:1"


def test_waits_for_approval_with_the_base_serving() -> None:
    world = world_with()
    world.settle()
    candidate = agent(world).status.drafter.candidate
    assert candidate is not None
    assert (candidate.state, candidate.digest, candidate.acceptance_length) == (
        "AwaitingApproval",
        sha("agent-v1"),
        "2.89",
    )
    assert arms(world) == ["base"]
    assert conditions(agent(world)) == {
        "Ready": ("True", "ServingBase"),
        "DrafterApproved": ("False", "AwaitingApproval"),
        "DrafterServing": ("False", "AwaitingApproval"),
        "AcceptanceHealthy": ("Unknown", "ServingBase"),
    }


def test_approved_drafter_takes_over_beside_the_base() -> None:
    world = world_with()
    world.settle()
    set_approvals(world, approve("agent-v1"))
    world.settle()
    serving = agent(world).status.drafter.serving
    assert serving is not None
    assert (serving.name, serving.digest, serving.attempt) == ("agent-v1", sha("agent-v1"), 1)
    assert agent(world).status.drafter.candidate is None
    assert arms(world) == [V1]
    assert [arm.drafter.name for arm in agent(world).status.arms if arm.drafter] == ["agent-v1"]
    assert conditions(agent(world)) == {
        "Ready": ("True", "ServingDrafter"),
        "DrafterApproved": ("True", "Approved"),
        "DrafterServing": ("True", "ServingDrafter"),
        "AcceptanceHealthy": ("Unknown", "NoTraffic"),
    }
    assert min(ready for ready, _ in world.history[1:]) >= 1, "somebody served all the time"


def test_in_place_never_has_more_pods_than_replicas() -> None:
    world = world_with(replicas=3, rollout={"surge": "Never"})
    world.settle()
    begin = len(world.history)
    set_approvals(world, approve("agent-v1"))
    world.settle()
    assert arms(world) == [V1]
    assert agent(world).status.ready_replicas == 3
    assert max(pods for _, pods in world.history[begin:]) <= 3
    assert min(ready for ready, _ in world.history[begin:]) >= 2


def test_in_place_at_one_replica_announces_the_gap() -> None:
    world = world_with(rollout={"surge": "Never"})
    world.settle()
    world.arms[V1] = "starting"
    set_approvals(world, approve("agent-v1"))
    for _ in range(4):
        world.round()
    assert arms(world) == [V1]
    assert conditions(agent(world))["Ready"] == ("False", "RollingInPlace")
    world.arms[V1] = "ready"
    world.settle()
    assert conditions(agent(world))["Ready"] == ("True", "ServingDrafter")


@pytest.mark.parametrize(
    ("behaviour", "reason", "seconds"),
    [
        pytest.param("crash", "NotReady", 0, id="crash loop"),
        pytest.param("refused", "DigestMismatch", 0, id="fetch refuses"),
        pytest.param("starting", "DrafterNotReadyInTime", 1000, id="deadline"),
    ],
)
@pytest.mark.parametrize("surge", ["IfPossible", "Never"])
def test_failed_arm_leaves_the_base_serving(behaviour: str, reason: str, seconds: int, surge: str) -> None:
    world = world_with(rollout={"surge": surge})
    world.settle()
    world.arms[V1] = behaviour
    set_approvals(world, approve("agent-v1"))
    for _ in range(5):
        world.round()
    world.seconds += seconds
    world.settle()
    drafter = agent(world).status.drafter
    assert arms(world) == ["base"]
    assert [(f.digest, f.attempt, f.reason) for f in drafter.failed] == [(sha("agent-v1"), 1, reason)]
    assert drafter.candidate is not None
    assert drafter.candidate.state == "Failed"
    assert conditions(agent(world)) == {
        "Ready": ("True", "ServingBase"),
        "DrafterApproved": ("True", "Approved"),
        "DrafterServing": ("False", "DrafterFailed"),
        "AcceptanceHealthy": ("Unknown", "ServingBase"),
    }
    world.arms[V1] = "ready"
    world.settle()
    assert arms(world) == ["base"], "a failed digest is not tried again by itself"
    set_approvals(world, approve("agent-v1", attempt=2))
    world.settle()
    assert arms(world) == [V1]
    assert agent(world).status.drafter.failed == []


def test_no_room_leaves_the_base_untouched_and_is_no_failure() -> None:
    world = world_with()
    world.settle()
    world.arms[V1] = "pending"
    set_approvals(world, approve("agent-v1"))
    world.settle()
    world.seconds += 10_000
    world.settle()
    assert arms(world) == ["base", V1]
    assert conditions(agent(world))["Ready"] == ("True", "ServingBase")
    assert conditions(agent(world))["DrafterServing"] == ("False", "InsufficientGPU")
    assert agent(world).status.drafter.failed == []


def test_new_generation_waits_for_approval_and_then_replaces_the_old() -> None:
    world = world_with("agent-v1")
    world.settle()
    world.put(build.drafter("agent-v2", parent="agent-v1", created=100))
    world.settle()
    drafter = agent(world).status.drafter
    assert drafter.candidate is not None
    assert (drafter.candidate.name, drafter.candidate.state) == ("agent-v2", "AwaitingApproval")
    assert arms(world) == [V1]
    assert conditions(agent(world))["DrafterServing"] == ("True", "ServingDrafter")
    begin = len(world.history)
    set_approvals(world, approve("agent-v1"), approve("agent-v2"))
    world.settle()
    assert arms(world) == [V2]
    assert agent(world).status.drafter.candidate is None
    assert min(ready for ready, _ in world.history[begin:]) >= 1


def test_failing_new_generation_leaves_the_old_serving() -> None:
    world = world_with("agent-v1")
    world.settle()
    world.put(build.drafter("agent-v2", parent="agent-v1", created=100))
    world.arms[V2] = "crash"
    set_approvals(world, approve("agent-v1"), approve("agent-v2"))
    world.settle()
    assert arms(world) == [V1]
    assert [f.digest for f in agent(world).status.drafter.failed] == [sha("agent-v2")]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({}, id="withdrawn"),
        pytest.param({"approvals": [approve("agent-v1")], "rejectedDigests": [sha("agent-v1")]}, id="rejected"),
        pytest.param({"approvals": [approve("agent-v1", expiresAt="2025-01-01T00:00:00Z")]}, id="expired"),
        pytest.param({"approvals": [approve("agent-v1")], "policy": "Automatic"}, id="unqualified"),
    ],
)
def test_back_to_the_base_first_and_the_drafted_arm_last(change: Json) -> None:
    world = world_with("agent-v1")
    world.settle()
    begin = len(world.history)
    world.edit("DraftedEndpoint", "agent", lambda spec: spec["drafter"].update(approval=change))
    world.settle()
    assert arms(world) == ["base"]
    assert agent(world).status.drafter.serving is None
    assert min(ready for ready, _ in world.history[begin:]) >= 1
    assert conditions(agent(world))["Ready"] == ("True", "ServingBase")


def test_expiry_is_looked_for_in_time() -> None:
    world = world_with()
    set_approvals(world, approve("agent-v1", expiresAt="2026-01-01T01:00:00Z"))
    world.settle()
    assert arms(world) == [V1]
    plan = world.plan("DraftedEndpoint", "agent")
    assert plan.requeue_after == pytest.approx(3600 - world.seconds)
    world.seconds = 3601
    world.settle()
    assert arms(world) == ["base"]
    assert conditions(agent(world))["DrafterApproved"] == ("False", "ApprovalExpired")


def test_serves_on_when_the_drafter_object_is_gone() -> None:
    world = world_with("agent-v1")
    world.settle()
    del world.objects["Drafter", "agent-v1"]
    world.settle()
    assert arms(world) == [V1]
    assert conditions(agent(world))["DrafterServing"] == ("True", "DrafterObjectMissing")
    del world.objects["Deployment", f"agent-{V1}"]
    world.settle()
    assert arms(world) == [V1], "made again from status"


def test_serving_arm_that_crashes_falls_back_to_the_base() -> None:
    world = world_with("agent-v1")
    world.settle()
    world.arms[V1] = "crash"
    world.settle()
    assert arms(world) == ["base"]
    assert [f.reason for f in agent(world).status.drafter.failed] == ["NotReady"]


def test_incompatible_drafter_names_the_field() -> None:
    world = World(outcomes={"agent-target": build.inspect_outcome(target=build.facts(vocab_size=32000))})
    world.put(build.endpoint(drafter=asks_for("agent-v1", approve("agent-v1"))))
    world.put(build.drafter("agent-v1"))
    world.settle()
    assert arms(world) == ["base"]
    approved = next(c for c in agent(world).status.conditions if c.type == "DrafterApproved")
    assert (approved.status, approved.reason) == ("False", "ContractMismatch")
    assert "vocabSize (drafter: 49152, target: 32000)" in approved.message


def test_target_that_cannot_be_read_is_named() -> None:
    world = World(outcomes={"agent-target": build.refused("inspect", "TargetWithoutTokenizer")})
    world.put(build.endpoint(drafter=asks_for("agent-v1", approve("agent-v1"))))
    world.put(build.drafter("agent-v1"))
    world.settle()
    assert conditions(agent(world))["Ready"] == ("True", "ServingBase")
    assert conditions(agent(world))["DrafterServing"] == ("False", "TargetWithoutTokenizer")


def test_another_target_is_inspected_anew_and_serves_its_base_meanwhile() -> None:
    world = world_with("agent-v1")
    world.settle()
    world.outcomes["agent-target"] = build.inspect_outcome(target=build.facts("other"))
    world.edit("DraftedEndpoint", "agent", lambda spec: spec["target"].update(uri="s3://models/other"))
    world.settle()
    assert arms(world) == ["base"]
    assert agent(world).status.target_uri == "s3://models/other"
    assert conditions(agent(world))["DrafterApproved"] == ("False", "ContractMismatch")


def test_unknown_digest_is_said() -> None:
    world = world_with("agent-v7")
    world.settle()
    assert conditions(agent(world))["DrafterApproved"] == ("False", "UnknownDigestApproved")


def test_no_candidate_yet() -> None:
    world = world_with()
    del world.objects["Drafter", "agent-v1"]
    world.settle()
    assert conditions(agent(world))["DrafterApproved"] == ("False", "NoCandidate")


@pytest.mark.parametrize(
    ("behaviour", "expected"),
    [
        pytest.param("starting", {"Ready": ("False", "Starting"), "Reconciling": ("True", "Starting")}, id="starting"),
        pytest.param(
            "pending",
            {"Ready": ("False", "InsufficientGPU"), "Reconciling": ("True", "InsufficientGPU")},
            id="no room",
        ),
        pytest.param("crash", {"Ready": ("False", "NotReady"), "Stalled": ("True", "NotReady")}, id="crash"),
        pytest.param(
            "refused", {"Ready": ("False", "DigestMismatch"), "Stalled": ("True", "DigestMismatch")}, id="refused"
        ),
    ],
)
def test_base_that_does_not_come_up(behaviour: str, expected: dict[str, tuple[str, str]]) -> None:
    world = world_with("agent-v1")
    world.arms["base"] = behaviour
    world.settle()
    assert arms(world) == ["base"], "a drafter is not tried, and not blamed, before its target serves"
    found = conditions(agent(world))
    assert {name: found.get(name) for name in expected} == expected
    world.arms["base"] = "ready"
    world.settle()
    assert arms(world) == [V1]


def test_zero_replicas() -> None:
    world = world_with("agent-v1")
    world.settle()
    world.edit("DraftedEndpoint", "agent", lambda spec: spec.update(replicas=0))
    world.settle()
    assert [(body["metadata"]["name"], body["spec"]["replicas"]) for body in deployments(world)] == [(f"agent-{V1}", 0)]
    assert conditions(agent(world))["Ready"] == ("False", "ScaledToZero")
    world.edit("DraftedEndpoint", "agent", lambda spec: spec.update(replicas=2))
    world.settle()
    assert agent(world).status.ready_replicas == 2


def test_an_operator_upgrade_rolls_nothing_and_a_new_arm_takes_the_old_images() -> None:
    world = world_with()
    world.settle()
    before = deployments(world)
    world.runtimes = build.runtimes("2")
    world.settle()
    assert deployments(world) == before
    assert agent(world).status.image == "specop/companion:1"
    set_approvals(world, approve("agent-v1"))
    world.settle()
    (drafted,) = deployments(world)
    assert drafted["spec"]["template"]["spec"]["containers"][0]["image"] == "vllm/vllm-openai:1"
    world.edit("DraftedEndpoint", "agent", lambda spec: spec.update(engine={"maxModelLength": 2048}))
    world.settle()
    (rolled,) = deployments(world)
    assert rolled["spec"]["template"]["spec"]["containers"][0]["image"] == "vllm/vllm-openai:2"
    assert agent(world).status.image == "specop/companion:2"


def test_ready_needs_a_pod_of_this_generation() -> None:
    world = world_with()
    world.settle()
    world.edit("DraftedEndpoint", "agent", lambda spec: spec.update(engine={"args": ["--enforce-eager"]}))
    world.reconcile("DraftedEndpoint", "agent")
    world.reconcile("DraftedEndpoint", "agent")
    assert conditions(agent(world))["Ready"] == ("False", "RollingOut")
    world.settle()
    assert conditions(agent(world))["Ready"] == ("True", "ServingBase")


@pytest.mark.parametrize(
    ("measured", "expected"),
    [
        pytest.param(None, ("Unknown", "NoTraffic"), id="nothing measured"),
        pytest.param(Measured(window_seconds=60, requests=9), ("Unknown", "NoTraffic"), id="no drafts"),
        pytest.param(
            Measured(window_seconds=60, requests=9, acceptance_length="2.9", throughput="50"),
            ("True", "Accepting"),
            id="accepting",
        ),
        pytest.param(
            Measured(window_seconds=60, requests=9, acceptance_length="1.01", throughput="50"),
            ("False", "DrafterIneffective"),
            id="ineffective",
        ),
        pytest.param(
            Measured(window_seconds=60, requests=9, acceptance_length="1.01", throughput="1"),
            ("True", "Accepting"),
            id="too little to tell",
        ),
    ],
)
def test_acceptance(measured: Measured | None, expected: tuple[str, str]) -> None:
    world = world_with("agent-v1")
    world.settle()
    world.reconcile("DraftedEndpoint", "agent", **({"measured": measured} if measured else {}))
    assert conditions(agent(world))["AcceptanceHealthy"] == expected
    assert agent(world).status.measured == measured


def test_capture_is_added_up_and_its_watermark_never_goes_back() -> None:
    world = world_with()
    world.settle()
    for reading in (
        CaptureReading(10, "2026-01-01T00:10:00Z"),
        CaptureReading(5, "2026-01-01T00:09:00Z"),
        CaptureReading(1, None),
    ):
        world.reconcile("DraftedEndpoint", "agent", capture=reading)
    capture = agent(world).status.capture
    assert capture is not None
    assert (capture.requests, capture.shipped_until) == (16, "2026-01-01T00:10:00Z")


def test_events_tell_the_story_once() -> None:
    world = world_with()
    told: list[tuple[str, str]] = []

    def listen() -> None:
        for _ in range(12):
            told.extend((event.type, event.reason) for event in world.reconcile("DraftedEndpoint", "agent").events)
            world.live()

    listen()
    set_approvals(world, approve("agent-v1"))
    listen()
    assert told == [
        ("Normal", "Starting"),
        ("Normal", "Inspecting"),
        ("Normal", "ServingBase"),
        ("Normal", "AwaitingApproval"),
        ("Normal", "RollingOut"),
        ("Normal", "ServingDrafter"),
    ]


def test_nothing_moves_before_its_beginning_is_in_status() -> None:
    """A base that makes place looks, until that is written, like one that is not ready, and would take it back."""
    for surge in ("IfPossible", "Never"):
        world = world_with(replicas=2, rollout={"surge": surge})
        world.settle()
        set_approvals(world, approve("agent-v1"))
        before = copy.deepcopy(world.named("Deployment"))
        world.reconcile("DraftedEndpoint", "agent")
        assert world.named("Deployment") == before
        candidate = agent(world).status.drafter.candidate
        assert candidate is not None
        assert candidate.started
        world.settle()
        assert agent(world).status.drafter.serving is not None


def test_pods_of_the_attempt_before_are_not_held_against_the_next() -> None:
    world = world_with("agent-v1")
    world.arms[V1] = "crash"
    world.settle()
    set_approvals(world, approve("agent-v1", attempt=2))
    for _ in ("its beginning is noted", "its arm is made"):
        world.reconcile("DraftedEndpoint", "agent")
    world.seconds += 60
    deployment = world.objects["Deployment", f"agent-{V1}"]
    late = {**deployment["metadata"], "creationTimestamp": "2025-12-31T00:00:00Z"}
    crashed: Json = {"name": "engine", "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "restartCount": 9}
    world.objects["Pod", "late"] = {
        "kind": "Pod",
        "metadata": {**late, "name": "late"},
        "status": {"containerStatuses": [crashed]},
    }
    world.reconcile("DraftedEndpoint", "agent")
    candidate = agent(world).status.drafter.candidate
    assert candidate is not None
    assert (candidate.state, candidate.attempt) == ("RollingOut", 2)


def test_a_target_of_a_family_that_is_not_proven_is_served_with_a_warning() -> None:
    unheard = build.facts(architecture="UnheardForCausalLM")
    world = World(outcomes={"agent-target": build.inspect_outcome(target=unheard)})
    world.put(build.endpoint(drafter=asks_for("agent-v1")))
    world.settle()
    found = conditions(agent(world))
    assert found["TargetProven"] == ("False", "TargetUnproven")
    assert found["Ready"] == ("True", "ServingBase")
    assert "TargetProven" not in conditions(agent(world_with()))
