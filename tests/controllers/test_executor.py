"""The executor: what it leaves out because it is done, what it repeats because it is not, what it says of refusals."""

from datetime import UTC, datetime
from typing import Any

import pytest

from specop.api import reasons
from specop.common.errors import Conflict, Terminal
from specop.common.names import ANNOTATION_HASH
from specop.controllers.executor import Executor, covers, marked, stalled
from specop.controllers.intake import Intake
from specop.controllers.queue import Queue
from specop.controllers.recorder import Recorder
from specop.domain.plan import Apply, Create, Delete, Event, Plan
from specop.kube.cache import Cache, Key, key_of
from tests.controllers.harness import TEAM, endpoint
from tests.kube.fakekube import FakeKube

Json = dict[str, Any]
KEY = Key("DraftedEndpoint", TEAM, "agent")
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def child(kind: str = "Deployment", name: str = "agent-base", **spec: Any) -> Json:
    api = {"Deployment": "apps/v1", "Job": "batch/v1", "Service": "v1"}[kind]
    return {"apiVersion": api, "kind": kind, "metadata": {"name": name, "namespace": TEAM}, "spec": spec}


class Bench:
    """An executor over the double, with a cache that is told everything."""

    def __init__(self) -> None:
        self.kube, self.cache = FakeKube(), Cache()
        self.intake = Intake(self.cache, Queue())
        self.kube.watchers.append(
            lambda event, body: (self.intake.gone if event == "DELETED" else self.intake.seen)(body)
        )
        self.executor = Executor(self.kube, self.intake, Recorder(self.kube, self.cache, lambda: NOW), lambda: NOW)
        self.kube.put(endpoint())

    async def run(self, **plan: Any) -> list[str]:
        """Carry a plan out; returns the verbs that reached the server."""
        self.kube.writes.clear()
        await self.executor.execute(KEY, Plan(**plan))
        return [verb for verb, _ in self.kube.writes]


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_everything_in_order_and_nothing_twice(bench: Bench) -> None:
    other = bench.kube.put(child("Service", "old"))
    plan: Json = {
        "creates": (Create(child("Job", "agent-target", template={})),),
        "applies": (Apply(child(template={})),),
        "deletes": (Delete("v1", "Service", TEAM, "old", other["metadata"]["uid"]),),
        "status": {"observedGeneration": 1},
        "events": (Event("Normal", "Starting", "it starts"),),
    }
    assert await bench.run(**plan) == ["create", "apply", "delete", "apply_status", "create"]
    again = {name: plan[name] for name in ("applies", "status")}
    assert await bench.run(**again) == []


async def test_status_waits_once_for_the_reconcile_that_sees_new_children(bench: Bench) -> None:
    events = (Event("Normal", "Starting", "it starts"),)
    first = await bench.run(applies=(Apply(child(template={"a": 1})),), status={"observedGeneration": 1}, events=events)
    assert (first, KEY in bench.intake.queue._dirty) == (["apply"], True)
    second = await bench.run(
        applies=(Apply(child(template={"a": 2})),), status={"observedGeneration": 1}, events=events
    )
    assert second == ["apply", "apply_status", "create"]


async def test_a_status_that_was_planned_on_an_old_copy_is_not_written(bench: Bench) -> None:
    def edit(verb: str, _key: Key) -> None:
        if verb == "delete":
            bench.kube.change(KEY, spec=endpoint(replicas=3)["spec"])

    bench.kube.after = edit
    gone = (Delete("v1", "Service", TEAM, "old", "uid"),)
    with pytest.raises(Conflict):
        await bench.run(deletes=gone, status={"observedGeneration": 1})


async def test_a_changed_body_is_applied_and_marked(bench: Bench) -> None:
    await bench.run(applies=(Apply(child(template={"a": 1})),))
    assert await bench.run(applies=(Apply(child(template={"a": 2})),)) == ["apply"]
    found = bench.cache.get(key_of(child()))
    assert found is not None
    assert (
        found["metadata"]["annotations"][ANNOTATION_HASH]
        == marked(child(template={"a": 2}))["metadata"]["annotations"][ANNOTATION_HASH]
    )


async def test_what_somebody_changed_is_put_right(bench: Bench) -> None:
    await bench.run(applies=(Apply(child(template={"a": 1})),))
    bench.kube.change(key_of(child()), spec={"template": {"a": 9}, "replicas": 1})
    assert await bench.run(applies=(Apply(child(template={"a": 1})),)) == ["apply"]
    assert await bench.run(applies=(Apply(child(template={"a": 1})),)) == []


async def test_an_annotation_of_ours_that_is_gone_is_put_back(bench: Bench) -> None:
    body = child(template={})
    body["metadata"]["annotations"] = {"specop.dev/inputs": "x"}
    await bench.run(applies=(Apply(body),))
    found = bench.cache.get(key_of(body))
    assert found is not None
    kept = {ANNOTATION_HASH: found["metadata"]["annotations"][ANNOTATION_HASH]}
    bench.kube.change(key_of(body), metadata={**found["metadata"], "annotations": kept})
    assert await bench.run(applies=(Apply(body),)) == ["apply"]


async def test_a_one_field_apply_is_left_out_where_the_field_has_the_value(bench: Bench) -> None:
    await bench.run(applies=(Apply(child(template={})),))
    scale = Apply(child(replicas=2), manager="specop/scale")
    assert await bench.run(applies=(scale,)) == ["apply"]
    assert await bench.run(applies=(scale,)) == []


async def test_a_one_field_apply_never_makes_a_child(bench: Bench) -> None:
    await bench.run(applies=(Apply(child(template={})),))
    stale = bench.cache.get(key_of(child()))
    assert stale is not None
    bench.kube.watchers.clear()
    bench.kube.remove(key_of(child()))
    with pytest.raises(Exception, match="uid mismatch"):
        await bench.run(applies=(Apply(child(replicas=2), manager="specop/scale"),))
    assert list(bench.kube.all("Deployment")) == []


@pytest.mark.parametrize(
    ("stored", "wanted", "verbs"),
    [
        pytest.param({"observedGeneration": -1}, {"observedGeneration": 1}, ["apply_status"], id="another"),
        pytest.param({"observedGeneration": -1}, {"observedGeneration": -1}, [], id="equal"),
        pytest.param(
            {"conditions": [{"type": "A"}, {"type": "B"}]},
            {"conditions": [{"type": "B"}, {"type": "A"}]},
            [],
            id="order",
        ),
    ],
)
async def test_status_is_written_where_it_differs(bench: Bench, stored: Json, wanted: Json, verbs: list[str]) -> None:
    bench.kube.change(KEY, status=stored)
    assert await bench.run(status=wanted) == verbs


async def test_status_of_what_is_gone_is_not_written(bench: Bench) -> None:
    bench.kube.remove(KEY)
    assert await bench.run(status={"observedGeneration": 1}, events=(Event("Normal", "A", "b"),)) == []


async def test_a_repeated_event_counts_up(bench: Bench) -> None:
    event = Event("Warning", "Stalled", "why")
    assert await bench.run(events=(event,)) == ["create"]
    assert await bench.run(events=(event,)) == ["create", "patch"]
    assert [(body["reason"], body["count"]) for body in bench.kube.all("Event")] == [("Stalled", 2)]


async def test_what_the_server_refuses_for_good_is_told_in_status(bench: Bench) -> None:
    broken = Apply(child("Job", "broken", suspend=True), manager="specop/suspend")
    status = {"observedGeneration": 1, "conditions": [{"type": "Reconciling", "status": "True"}]}
    assert await bench.run(applies=(broken,), status=status) == ["apply_status"]
    found = bench.cache.get(KEY)
    assert found is not None
    assert [(each["type"], each["reason"]) for each in found["status"]["conditions"]] == [("Stalled", "InvalidSpec")]
    assert await bench.run(applies=(broken,), status=status) == []


def test_stalled_keeps_its_time_while_it_lasts() -> None:
    error = Terminal(reasons.INVALID_SPEC, "why")
    first = stalled({"conditions": [{"type": "Ready", "status": "True"}]}, error, 3, NOW)
    later = stalled(first, Terminal(reasons.NO_CAPTURE, "other"), 4, datetime(2026, 2, 1, tzinfo=UTC))
    assert later["observedGeneration"] == 4
    assert later["conditions"] == [
        {"type": "Ready", "status": "True"},
        {
            "type": "Stalled",
            "status": "True",
            "reason": "NoCapture",
            "message": "other",
            "observedGeneration": 4,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        },
    ]


@pytest.mark.parametrize(
    ("known", "wanted", "covered"),
    [
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1}}, True),
        ({"a": {"b": 1}}, {"a": {"b": 2}}, False),
        ({"a": 1}, {"b": 1}, False),
        ({"a": 1}, {"a": {"b": 1}}, False),
        ({}, {}, True),
    ],
)
def test_covers(known: Json, wanted: Json, covered: bool) -> None:
    assert covers(known, wanted) is covered
