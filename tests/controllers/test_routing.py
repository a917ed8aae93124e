"""Which changes wake which objects."""

from typing import Any

import pytest

from specop.common.names import owner_labels
from specop.controllers.intake import Intake
from specop.controllers.queue import Queue
from specop.controllers.routing import interests
from specop.kube.cache import Cache, Key
from specop.kube.port import Listing
from specop.kube.resources import POD
from tests.controllers import harness
from tests.domain import build

Json = dict[str, Any]
TEAM = build.NAMESPACE
DIGEST = build.sha("agent-v1")
ENDPOINT, DATASET = Key("DraftedEndpoint", TEAM, "agent"), Key("SpeculatorDataset", TEAM, "agent-v1")
JOB, DRAFTER = Key("SpeculatorTrainingJob", TEAM, "agent-v1"), Key("Drafter", TEAM, "agent-v1")
MIXED = Key("SpeculatorDataset", TEAM, "mixed")
LOG = {"name": "logs", "requestLog": {"endpointRef": {"name": "agent"}}}


def seen(body: Json, version: int = 1, **status: Any) -> Json:
    metadata = {"namespace": TEAM, **body["metadata"], "uid": body["kind"], "resourceVersion": str(version)}
    return {**body, "metadata": metadata, "status": status}


def drafter(**status: Any) -> Json:
    lineage = {"trainingJob": {"name": "agent-v1"}}
    return seen(harness.obj("Drafter", "agent-v1", weights={"uri": "s3://b/w"}, lineage=lineage), **status)


class Bench:
    def __init__(self, *bodies: Json) -> None:
        self.queue: Queue[Key] = Queue()
        self.intake = Intake(Cache(interests), self.queue)
        for body in bodies:
            self.intake.seen(body)
        self.woken()

    def woken(self) -> set[Key]:
        """Take everything that waits."""
        keys = set(self.queue._dirty)
        self.queue._dirty.clear()
        while not self.queue._ready.empty():
            self.queue._ready.get_nowait()
        return keys


ALL = (
    seen(harness.endpoint(drafter=build.asks_for("agent-v1", build.approve("agent-v1")))),
    seen(harness.obj("SpeculatorDataset", "agent-v1", sources=[LOG])),
    seen(harness.training()),
    drafter(digest=DIGEST),
    seen(harness.obj("SpeculatorDataset", "mixed", sources=[{"name": "before", "datasetRef": {"name": "agent-v1"}}])),
)


@pytest.mark.parametrize(
    ("body", "woken"),
    [
        pytest.param(ALL[4], {MIXED}, id="dataset that nothing reads"),
        pytest.param(ALL[0], {ENDPOINT, DATASET, DRAFTER}, id="endpoint: its datasets, and drafters that it approves"),
        pytest.param(ALL[1], {DATASET, JOB, MIXED}, id="dataset: jobs and datasets that read it"),
        pytest.param(ALL[2], {JOB, DRAFTER}, id="job: the drafter that names it"),
        pytest.param(ALL[3], {DRAFTER, JOB, ENDPOINT}, id="drafter: its job, and endpoints that follow drafters"),
    ],
)
def test_who_is_woken_by_a_change(body: Json, woken: set[Key]) -> None:
    bench = Bench(*ALL)
    bench.intake.seen({**body, "metadata": {**body["metadata"], "resourceVersion": "2"}})
    assert bench.woken() == woken


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (4, 1)])
def test_what_comes_late_wakes_who_waited(order: tuple[int, ...]) -> None:
    bench = Bench(*(ALL[number] for number in order[:-1]))
    late = ALL[order[-1]]
    bench.intake.seen(late)
    assert len(bench.woken()) > 1


def test_an_approval_that_is_taken_away_wakes_its_drafter() -> None:
    bench = Bench(*ALL)
    bench.intake.seen(seen(harness.endpoint(drafter=build.asks_for()), version=2))
    assert DRAFTER in bench.woken()


def test_an_endpoint_wakes_datasets_that_ask_it() -> None:
    asks = harness.obj("SpeculatorDataset", "agent-v1", sources=[], regenerate={"endpointRef": {"name": "agent"}})
    bench = Bench(seen(asks))
    bench.intake.seen(ALL[0])
    assert bench.woken() == {ENDPOINT, DATASET}


def test_a_preset_wakes_jobs_of_all_namespaces() -> None:
    bench = Bench(*ALL)
    body = {
        "kind": "SpeculatorPreset",
        "metadata": {"name": "balanced", "uid": "p", "resourceVersion": "2"},
        "spec": {},
    }
    bench.intake.seen(body)
    assert bench.woken() == {JOB}


def test_children_wake_their_owner_also_when_they_go() -> None:
    bench = Bench(*ALL)
    pod = {
        "kind": "Pod",
        "metadata": {
            "name": "p",
            "namespace": TEAM,
            "uid": "pod",
            "resourceVersion": "5",
            "labels": owner_labels("SpeculatorTrainingJob", "agent-v1", "training"),
        },
    }
    bench.intake.seen(pod)
    assert bench.woken() == {JOB}
    bench.intake.seen(pod)
    assert bench.woken() == set()
    bench.intake.listed(POD, TEAM, Listing((), 6))
    assert bench.woken() == {JOB}


@pytest.mark.parametrize(
    ("body", "woken"),
    [
        ({"kind": "Pod", "metadata": {}}, False),
        ({"kind": "Pod", "metadata": {"labels": None}}, False),
        ({"kind": "Drafter", "metadata": {}}, True),
        ({"kind": "DraftedEndpoint", "metadata": {}, "spec": None}, True),
    ],
)
def test_no_body_makes_a_handler_fail(body: Json, woken: bool) -> None:
    bench, metadata = Bench(), {"name": "d", "namespace": TEAM, "resourceVersion": "1"}
    bench.intake.seen({**body, "metadata": {**metadata, **body["metadata"]}})
    assert bench.woken() == ({Key(body["kind"], TEAM, "d")} if woken else set())
