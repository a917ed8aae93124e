"""What holds for any history: plans are total and deterministic, converge, and make one child a role."""

import copy
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from specop.api.shared import Json
from specop.common.names import LABEL_ARM, LABEL_KIND, LABEL_NAME, LABEL_ROLE
from specop.domain.observed import CaptureReading
from specop.domain.plan import Plan
from tests.domain import build
from tests.domain.build import approve, asks_for, sha
from tests.domain.world import KINDS, World

GENERATIONS = ("agent-v1", "agent-v2", "agent-v3")
BEHAVIOURS = st.sampled_from(["ready", "starting", "pending", "crash", "refused"])
ARMS = ("base", *(f"d-{sha(name)[7:15]}" for name in GENERATIONS))
TYPES = {
    "Ready",
    "Succeeded",
    "Reconciling",
    "Stalled",
    "DrafterApproved",
    "DrafterServing",
    "AcceptanceHealthy",
}


def check(world: World, kind: str, name: str, plan: Plan) -> None:
    """What every plan must satisfy."""
    if plan.status is None:
        return
    generation = world.objects[kind, name]["metadata"]["generation"]
    assert plan.status["observedGeneration"] <= generation
    conditions = plan.status["conditions"]
    assert len({c["type"] for c in conditions}) == len(conditions)
    for condition in conditions:
        assert condition["type"] in TYPES
        assert condition["status"] in {"True", "False", "Unknown"}
        assert condition["reason"].isalpha()
        assert condition["message"]
        assert condition["lastTransitionTime"]
        assert condition["observedGeneration"] <= generation
    assert not {"Reconciling", "Stalled"} <= {c["type"] for c in conditions}
    KINDS[kind].model_validate({**world.objects[kind, name], "status": plan.status})
    for write in (*plan.creates, *plan.applies):
        assert len(write.body["metadata"]["name"]) <= 63


class Loop(RuleBasedStateMachine):
    """Users, clusters and clocks do what they like; in the end everything settles, and nothing is written any more."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(outcomes={"agent-target": build.inspect_outcome()})
        self.world.put(build.endpoint(drafter=asks_for("agent-v1", approve("agent-v1"))))
        self.world.put(build.drafter("agent-v1"))
        self.stale: dict[str, Any] = {}

    def _edit(self, **spec: Any) -> None:
        self.world.edit("DraftedEndpoint", "agent", lambda old: old.update(copy.deepcopy(spec)))

    @rule(
        approved=st.dictionaries(st.sampled_from(GENERATIONS), st.integers(1, 2)),
        rejected=st.sets(st.sampled_from(GENERATIONS)),
        policy=st.sampled_from(["Required", "Required", "Automatic"]),
    )
    def decide(self, approved: dict[str, int], rejected: set[str], policy: str) -> None:
        approvals = [approve(name, attempt=attempt) for name, attempt in approved.items()]
        approval = {"policy": policy, "approvals": approvals, "rejectedDigests": sorted(map(sha, rejected))}
        self._edit(drafter={"from": {"trainingJobRef": {"name": "agent-v1"}}, "approval": approval})

    @rule(replicas=st.integers(0, 3), surge=st.sampled_from(["IfPossible", "Never"]))
    def resize(self, replicas: int, surge: str) -> None:
        self._edit(replicas=replicas, rollout={"surge": surge})

    @rule(length=st.sampled_from([1024, 2048]))
    def reshape(self, length: int) -> None:
        self._edit(engine={"maxModelLength": length})

    @rule(uri=st.sampled_from([build.TARGET_URI, "s3://models/other"]))
    def retarget(self, uri: str) -> None:
        known = build.facts() if uri == build.TARGET_URI else build.facts("other")
        self.world.outcomes["agent-target"] = build.inspect_outcome(target=known)
        self._edit(target={"uri": uri})

    @rule(version=st.sampled_from(["1", "2"]))
    def upgrade(self, version: str) -> None:
        self.world.runtimes = build.runtimes(version)

    @rule(index=st.integers(0, 2))
    def train(self, index: int) -> None:
        name, parent = GENERATIONS[index], GENERATIONS[index - 1] if index else None
        self.world.put(build.drafter(name, parent=parent, created=self.world.seconds))

    @rule(name=st.sampled_from(GENERATIONS))
    def forget(self, name: str) -> None:
        self.world.objects.pop(("Drafter", name), None)

    @rule(arm=st.sampled_from(ARMS), behaviour=BEHAVIOURS)
    def behave(self, arm: str, behaviour: str) -> None:
        self.world.arms[arm] = behaviour

    @rule(arm=st.sampled_from(ARMS))
    def lose(self, arm: str) -> None:
        self.world.remove("Deployment", f"agent-{arm}")

    @rule(seconds=st.sampled_from([1, 60, 2000]))
    def wait(self, seconds: int) -> None:
        self.world.seconds += seconds

    @rule()
    def remember(self) -> None:
        self.stale = copy.deepcopy(self.world.objects)

    @precondition(lambda self: self.stale)
    @rule()
    def plan_on_a_stale_cache(self) -> None:
        fresh, self.world.objects = self.world.objects, self.stale
        try:
            check(self.world, "DraftedEndpoint", "agent", self.world.plan("DraftedEndpoint", "agent"))
        finally:
            self.world.objects = fresh

    @rule()
    def reconcile(self) -> None:
        plan = self.world.plan("DraftedEndpoint", "agent")
        assert plan == self.world.plan("DraftedEndpoint", "agent"), "the same input gives the same plan"
        check(self.world, "DraftedEndpoint", "agent", plan)
        self.world.reconcile("DraftedEndpoint", "agent")

    @rule()
    def live(self) -> None:
        self.world.live()

    @rule()
    def settle(self) -> None:
        self.world.settle(80)
        plan = self.world.plan("DraftedEndpoint", "agent")
        assert (plan.creates, plan.applies, plan.deletes, plan.events) == ((), (), (), ())
        assert plan.status == self.world.objects["DraftedEndpoint", "agent"]["status"]

    @rule()
    def mend_everything(self) -> None:
        """With pods that come up, whoever should serve does, all alone, and the endpoint is ready."""
        self.world.arms = {}
        self.settle()
        obj = self.world.get("DraftedEndpoint", "agent")
        (arm,) = self.world.named("Deployment")
        serving = obj.status.drafter.serving
        assert arm == f"agent-d-{serving.digest[7:15]}" if serving else "agent-base"
        ready = next(c for c in obj.status.conditions if c.type == "Ready")
        assert ready.status == ("True" if obj.spec.replicas else "False")
        if serving is not None:
            policy = obj.spec.drafter.approval
            assert policy.policy == "Required"
            assert serving.digest in {approval.digest for approval in policy.approvals}
            assert serving.digest not in policy.rejected_digests

    @invariant()
    def one_child_a_role(self) -> None:
        roles = Counter(
            (kind, *(body["metadata"]["labels"].get(key) for key in (LABEL_KIND, LABEL_NAME, LABEL_ROLE, LABEL_ARM)))
            for (kind, _), body in self.world.objects.items()
            if kind in {"Job", "Deployment", "Service"}
        )
        assert all(count == 1 for count in roles.values())


Loop.TestCase.settings = settings(
    max_examples=50, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestLoop = Loop.TestCase

CONDITIONS = st.lists(
    st.sampled_from(
        [
            {"type": "Complete", "status": "True"},
            {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"},
            {"type": "Failed", "status": "True", "reason": "PodFailurePolicy"},
            {"type": "Suspended", "status": "True"},
        ]
    ),
    max_size=2,
)
OUTCOMES = st.sampled_from(
    [
        None,
        build.dataset_outcome(),
        build.training_outcome(),
        build.inspect_outcome(),
        build.inspect_outcome("agent-v1"),
        build.refused("dataset", "NoUsableRows"),
    ]
)
SUFFIXES = {"SpeculatorDataset": "dataset", "SpeculatorTrainingJob": "training", "Drafter": "inspect"}


@st.composite
def half_seen(draw: st.DrawFn, kind: str) -> World:
    """An object in any stage, with whatever of its neighbours and of its Job a cache may hold."""
    world = World()
    world.put(build.endpoint(status={"capture": {"requests": 500, "shippedUntil": "2026-01-01T01:00:00Z"}}))
    world.put(draw(st.sampled_from([build.dataset(), build.mixed_dataset(), build.finished_dataset()])))
    world.put(draw(st.sampled_from([build.mixed_dataset("seeds", "agent-v1"), build.finished_dataset("seeds")])))
    world.put(build.training(suspend=draw(st.booleans())))
    world.put(draw(st.sampled_from([build.drafter(digest=None), build.drafter(job=None, digest=None)])))
    outcome = draw(OUTCOMES)
    if outcome is not None:
        world.outcomes[f"agent-v1-{SUFFIXES[kind]}"] = outcome
    for _ in range(draw(st.integers(0, 6))):
        world.reconcile(kind, "agent-v1")
        world.live()
    job = world.objects.get(("Job", f"agent-v1-{SUFFIXES[kind]}"))
    if job is not None:
        job["status"] = draw(st.sampled_from([{}, {"conditions": draw(CONDITIONS)}]))
        _spoil(job, draw)
    for other in draw(st.sets(st.sampled_from(sorted(world.objects)))):
        if other != (kind, "agent-v1"):
            world.objects.pop(other)
    world.objects[kind, "agent-v1"]["metadata"]["generation"] += draw(st.integers(0, 1))
    return world


def _spoil(job: Json, draw: st.DrawFn) -> None:
    """Another version of the operator, or a person, may have made the Job."""
    if draw(st.booleans()):
        job["metadata"].pop("annotations", None)
    if draw(st.booleans()):
        job["spec"].pop("suspend", None)


@pytest.mark.parametrize("kind", sorted(SUFFIXES))
@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_plans_of_bounded_kinds_are_total_and_converge(kind: str, data: st.DataObject) -> None:
    world = data.draw(half_seen(kind))
    plan = world.plan(kind, "agent-v1")
    assert plan == world.plan(kind, "agent-v1")
    check(world, kind, "agent-v1", plan)
    for _ in range(12):
        world.reconcile(kind, "agent-v1")
    again = world.plan(kind, "agent-v1")
    assert (again.creates, again.applies, again.deletes, again.events) == ((), (), (), ())
    assert again.status == world.objects[kind, "agent-v1"]["status"]


@given(readings=st.lists(st.tuples(st.integers(0, 50), st.none() | st.integers(0, 3600)), max_size=8))
@settings(max_examples=50, deadline=None)
def test_capture_only_grows(readings: list[tuple[int, int | None]]) -> None:
    world = World()
    world.put(build.endpoint())
    marks = []
    for requests, second in readings:
        mark = build.at(second).strftime("%Y-%m-%dT%H:%M:%SZ") if second is not None else None
        world.reconcile("DraftedEndpoint", "agent", capture=CaptureReading(requests, mark))
        capture = world.get("DraftedEndpoint", "agent").status.capture
        marks.append(capture.shipped_until or "")
    assert marks == sorted(marks)
    if readings:
        assert world.get("DraftedEndpoint", "agent").status.capture.requests == sum(count for count, _ in readings)
