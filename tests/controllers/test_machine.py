"""Any history: users, controllers, faults, restarts and late events in any order; in the end everything is at rest."""

import asyncio
from collections import Counter
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from specop.common.errors import Conflict, Retryable
from specop.common.names import LABEL_ARM, LABEL_KIND, LABEL_NAME, LABEL_ROLE
from specop.kube.cache import Key, key_of
from tests.controllers.harness import TEAM, Operator, answer, dataset, end_job, endpoint, live, serve, training
from tests.controllers.virtual import VirtualLoop
from tests.domain import build
from tests.kube.fakekube import FakeKube

Json = dict[str, Any]
OBJECTS = {
    "endpoint": endpoint(drafter=build.asks_for("agent-v1")),
    "dataset": dataset(),
    "training": training(),
}
ENDPOINT = Key("DraftedEndpoint", TEAM, "agent")
CHILDREN = ("Job", "Deployment", "Service")
QUIET_SECONDS = 70
"""More than the longest back-off."""


class Cluster(RuleBasedStateMachine):
    """The double, an operator that may die, and a stream of events that may be late."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=VirtualLoop)
        self.kube = FakeKube()
        self.stream: list[tuple[str, Json]] = []
        self.kube.watchers.append(lambda event, body: self.stream.append((event, body)))
        self.faults = 0
        self.fault_after = False
        self.kube.before = lambda verb, key: self.strike(after=False)
        self.kube.after = lambda verb, key: self.strike(after=True)
        self.operator = self.runner.run(self.born())

    async def born(self) -> Operator:
        operator = Operator(self.kube)
        await operator.start()
        return operator

    def strike(self, *, after: bool) -> None:
        if self.faults and after == self.fault_after:
            self.faults -= 1
            raise (Retryable if self.faults % 2 else Conflict)("struck")

    def deliver(self, count: int) -> None:
        for event, body in self.stream[:count]:
            (self.operator.intake.gone if event == "DELETED" else self.operator.intake.seen)(body)
        del self.stream[:count]

    def some(self, *kinds: str) -> list[Key]:
        return [key_of(body) for kind in kinds for body in self.kube.all(kind)]

    # --- what users do

    @rule(name=st.sampled_from(sorted(OBJECTS)))
    def create(self, name: str) -> None:
        body = OBJECTS[name]
        if key_of(body) not in self.some(body["kind"]):
            self.kube.put(body)

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        keys = self.some("DraftedEndpoint", "SpeculatorDataset", "SpeculatorTrainingJob", "Drafter", *CHILDREN, "Pod")
        if keys:
            self.kube.remove(data.draw(st.sampled_from(keys)))

    @precondition(lambda self: ENDPOINT in self.some("DraftedEndpoint"))
    @rule(approved=st.booleans(), replicas=st.integers(0, 3), surge=st.sampled_from(["IfPossible", "Never"]))
    def edit_endpoint(self, approved: bool, replicas: int, surge: str) -> None:
        approvals = [build.approve("agent-v1")] if approved else []
        spec = endpoint(drafter=build.asks_for("agent-v1", *approvals), replicas=replicas, rollout={"surge": surge})
        self.kube.change(ENDPOINT, spec=spec["spec"])

    @rule(data=st.data())
    def drift(self, data: st.DataObject) -> None:
        keys = self.some("Service")
        if keys:
            self.kube.change(data.draw(st.sampled_from(keys)), spec={"selector": {"other": "pods"}, "ports": []})

    # --- what controllers and kubelets do

    @rule(data=st.data(), good=st.booleans())
    def job_ends(self, data: st.DataObject, good: bool) -> None:
        jobs = [job for job in self.kube.all("Job") if not job.get("status")]
        if jobs:
            job = data.draw(st.sampled_from(jobs))
            refused = build.refused(answer(job).kind, "SourceEmpty", "there is nothing to read: add rows")
            end_job(self.kube, job, answer(job) if good else refused)

    @rule(data=st.data(), ready=st.booleans())
    def deployment_moves(self, data: st.DataObject, ready: bool) -> None:
        deployments = list(self.kube.all("Deployment"))
        if deployments:
            serve(self.kube, data.draw(st.sampled_from(deployments)), ready=ready)

    # --- what goes wrong

    @rule(count=st.integers(1, 4), after=st.booleans())
    def server_fails(self, count: int, after: bool) -> None:
        self.faults, self.fault_after = count, after

    @rule()
    def operator_dies(self) -> None:
        self.runner.run(self.operator.kill())
        self.stream.clear()
        self.faults = 0
        self.operator = self.runner.run(self.born())

    @rule()
    def watch_breaks(self) -> None:
        """What was not delivered never is; the next lists tell."""
        self.stream.clear()
        self.faults = 0
        self.runner.run(self.operator.resync.once())

    # --- time

    @rule(share=st.floats(0, 1), seconds=st.floats(0, 100))
    def time_passes(self, share: float, seconds: float) -> None:
        self.deliver(round(share * len(self.stream)))
        self.runner.run(self.work(seconds))
        self.check_children()

    async def work(self, seconds: float) -> None:
        await self.operator.idle()
        await asyncio.sleep(seconds)
        await self.operator.idle()

    def check_children(self) -> None:
        """Never two children of one role, except arms, which never are of one name."""
        for kind in CHILDREN:
            roles = Counter(
                tuple(
                    body["metadata"]["labels"].get(label) for label in (LABEL_KIND, LABEL_NAME, LABEL_ROLE, LABEL_ARM)
                )
                for body in self.kube.all(kind)
            )
            assert not roles or max(roles.values()) == 1
        for kind in ("DraftedEndpoint", "SpeculatorDataset", "SpeculatorTrainingJob", "Drafter"):
            for body in self.kube.all(kind):
                assert body["status"]["observedGeneration"] <= body["metadata"]["generation"]

    def teardown(self) -> None:
        try:
            self.runner.run(self.come_to_rest())
        finally:
            self.runner.run(self.operator.kill())
            self.runner.close()

    async def come_to_rest(self) -> None:
        self.faults, quiet = 0, 0
        for _ in range(2000):
            writes = len(self.kube.writes)
            self.deliver(len(self.stream))
            await self.work(1)
            live(self.kube)
            quiet = quiet + 1 if len(self.kube.writes) == writes and not self.stream else 0
            if quiet > QUIET_SECONDS:
                break
        else:
            raise AssertionError("it never comes to rest")
        self.check_children()
        self.kube.writes.clear()
        self.operator.intake.enqueue_all()
        await self.operator.idle()
        again = await self.born()
        await again.idle()
        await again.kill()
        assert self.kube.writes == []
        assert ("fault") not in {result for _, result in self.operator.results}
        for body in self.kube.all("DraftedEndpoint"):
            assert body["status"]["observedGeneration"] == body["metadata"]["generation"]


Cluster.TestCase.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
test_any_history = Cluster.TestCase
