"""What specop relies on, shown on the double and on the real API server alike."""

import asyncio
from typing import Any

import pytest

from specop.common.errors import Conflict, Terminal
from specop.kube.cache import version_of
from specop.kube.port import Port
from specop.kube.resources import DATASET, ENDPOINT, JOB, SERVICE
from tests.kube.conftest import Side

Json = dict[str, Any]


def endpoint(side: Side, name: str = "agent", labels: dict[str, str] | None = None, **spec: Any) -> Json:
    return {
        "apiVersion": "specop.dev/v1alpha1",
        "kind": "DraftedEndpoint",
        "metadata": {"name": name, "namespace": side.namespace, **({"labels": labels} if labels else {})},
        "spec": {"target": {"uri": "s3://models/tiny"}, "servedName": "agent", **spec},
    }


def service(side: Side, **metadata: Any) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "agent", "namespace": side.namespace, **metadata},
        "spec": {"selector": {"a": "b"}, "ports": [{"port": 80, "protocol": "TCP"}]},
    }


def status(body: Json, **fields: Any) -> Json:
    metadata = {field: body["metadata"][field] for field in ("name", "namespace", "uid")}
    return {"apiVersion": body["apiVersion"], "kind": body["kind"], "metadata": metadata, "status": fields}


def condition(type_: str, reason: str) -> Json:
    when = "2026-01-01T00:00:00Z"
    return {
        "type": type_,
        "status": "True",
        "reason": reason,
        "message": "",
        "lastTransitionTime": when,
        "observedGeneration": 1,
    }


async def gone(port: Port, kind: Any, namespace: str, name: str) -> bool:
    for _ in range(600):  # the garbage collector learns of new kinds every half minute
        if await port.get(kind, namespace, name) is None:
            return True
        await asyncio.sleep(0.1)
    return False


async def test_create_says_what_was_made_and_nothing_the_second_time(side: Side) -> None:
    made = await side.port.create(endpoint(side))
    assert made is not None
    assert made["metadata"]["generation"] == 1
    assert made["metadata"]["uid"]
    assert made["status"] == {"observedGeneration": -1}
    assert await side.port.create(endpoint(side)) is None


async def test_an_equal_apply_changes_nothing(side: Side) -> None:
    first = await side.port.apply(service(side), "specop")
    assert version_of(await side.port.apply(service(side), "specop")) == version_of(first)


async def test_apply_removes_what_its_manager_no_longer_says(side: Side) -> None:
    await side.port.apply(endpoint(side, labels={"a": "1", "b": "2"}), "specop")
    after = await side.port.apply(endpoint(side, labels={"a": "1"}), "specop")
    assert after["metadata"]["labels"] == {"a": "1"}


async def test_apply_leaves_what_another_manager_says(side: Side) -> None:
    await side.port.apply(endpoint(side, labels={"a": "1"}), "other")
    after = await side.port.apply(endpoint(side, labels={"b": "2"}), "specop")
    assert after["metadata"]["labels"] == {"a": "1", "b": "2"}


async def test_apply_takes_a_field_over_by_force(side: Side) -> None:
    await side.port.apply(endpoint(side, replicas=2), "other")
    assert (await side.port.apply(endpoint(side, replicas=3), "specop"))["spec"]["replicas"] == 3
    after = await side.port.apply(endpoint(side), "other")
    assert after["spec"]["replicas"] == 3


async def test_generation_counts_changes_of_the_spec_only(side: Side) -> None:
    made = await side.port.apply(endpoint(side, replicas=1), "specop")
    labelled = await side.port.apply(endpoint(side, replicas=1, labels={"a": "1"}), "specop")
    observed = await side.port.apply_status(status(made, observedGeneration=1), "specop/status")
    changed = await side.port.apply(endpoint(side, replicas=2, labels={"a": "1"}), "specop")
    assert [each["metadata"]["generation"] for each in (made, labelled, observed, changed)] == [1, 1, 1, 2]


async def test_status_and_spec_are_written_apart(side: Side) -> None:
    made = await side.port.apply(endpoint(side), "specop")
    observed = await side.port.apply_status(
        {**status(made, observedGeneration=1), "spec": endpoint(side, replicas=9)["spec"]}, "specop/status"
    )
    assert observed["spec"].get("replicas") == made["spec"].get("replicas")
    assert observed["status"] == {"observedGeneration": 1}
    again = await side.port.apply(endpoint(side, labels={"a": "1"}), "specop")
    assert again["status"] == {"observedGeneration": 1}


async def test_conditions_are_merged_by_type(side: Side) -> None:
    made = await side.port.apply(endpoint(side), "specop")
    one, two = condition("Ready", "Available"), condition("Stalled", "InvalidSpec")
    await side.port.apply_status(status(made, observedGeneration=1, conditions=[one, two]), "specop/status")
    await side.port.apply_status(status(made, conditions=[condition("Foreign", "Other")]), "other")
    after = await side.port.apply_status(status(made, observedGeneration=1, conditions=[one]), "specop/status")
    assert sorted(each["type"] for each in after["status"]["conditions"]) == ["Foreign", "Ready"]


async def test_status_of_an_old_version_is_a_conflict(side: Side) -> None:
    """A uid alone is not looked at here by the real server; the version also tells namesakes apart."""
    made = await side.port.apply(endpoint(side), "specop")
    await side.port.apply(endpoint(side, labels={"a": "1"}), "specop")
    late = status(made, observedGeneration=1)
    late["metadata"]["resourceVersion"] = made["metadata"]["resourceVersion"]
    with pytest.raises(Conflict):
        await side.port.apply_status(late, "specop/status")


async def test_status_of_nothing_is_a_conflict(side: Side) -> None:
    made = await side.port.apply(endpoint(side), "specop")
    await side.port.delete(ENDPOINT, side.namespace, "agent", made["metadata"]["uid"])
    assert await gone(side.port, ENDPOINT, side.namespace, "agent")
    with pytest.raises(Conflict):
        await side.port.apply_status(status(made, observedGeneration=1), "specop/status")


async def test_an_apply_with_a_uid_makes_nothing_new(side: Side) -> None:
    body = endpoint(side)
    body["metadata"]["uid"] = "00000000-0000-0000-0000-000000000000"
    with pytest.raises(Conflict):
        await side.port.apply(body, "specop/suspend")
    assert await side.port.get(ENDPOINT, side.namespace, "agent") is None


async def test_an_apply_with_an_old_version_is_a_conflict(side: Side) -> None:
    made = await side.port.apply(endpoint(side), "specop")
    await side.port.apply(endpoint(side, labels={"a": "1"}), "specop")
    late = endpoint(side, labels={"a": "2"})
    late["metadata"]["resourceVersion"] = made["metadata"]["resourceVersion"]
    with pytest.raises(Conflict):
        await side.port.apply(late, "specop")


async def test_delete_needs_the_same_uid(side: Side) -> None:
    made = await side.port.apply(endpoint(side), "specop")
    await side.port.delete(ENDPOINT, side.namespace, "agent", "00000000-0000-0000-0000-000000000000")
    assert await side.port.get(ENDPOINT, side.namespace, "agent") is not None
    await side.port.delete(ENDPOINT, side.namespace, "agent", made["metadata"]["uid"])
    assert await gone(side.port, ENDPOINT, side.namespace, "agent")
    await side.port.delete(ENDPOINT, side.namespace, "agent", made["metadata"]["uid"])


async def test_what_an_object_owns_goes_with_it(side: Side) -> None:
    owner = await side.port.apply(endpoint(side), "specop")
    reference = {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": "agent",
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": False,
    }
    await side.port.apply(service(side, ownerReferences=[reference]), "specop")
    await side.port.delete(ENDPOINT, side.namespace, "agent", owner["metadata"]["uid"])
    assert await gone(side.port, SERVICE, side.namespace, "agent")


async def test_lists_select_and_carry_a_version(side: Side) -> None:
    await side.port.apply(endpoint(side, "one", labels={"team": "a"}), "specop")
    two = await side.port.apply(endpoint(side, "two", labels={"team": "b"}), "specop")
    listing = await side.port.list(ENDPOINT, side.namespace, "team=b")
    assert [(each["kind"], each["metadata"]["name"]) for each in listing.items] == [("DraftedEndpoint", "two")]
    assert listing.version >= version_of(two)
    assert (await side.port.list(DATASET, side.namespace)).items == ()


async def test_a_merge_needs_an_object(side: Side) -> None:
    with pytest.raises(Conflict):
        await side.port.merge(SERVICE, side.namespace, "missing", {"metadata": {"labels": {"a": "1"}}})


async def test_what_can_never_be_right_is_terminal(side: Side) -> None:
    body = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "broken", "namespace": side.namespace}}
    with pytest.raises(Terminal):
        await side.port.apply({**body, "spec": {"suspend": True}}, "specop/suspend")
    assert await side.port.get(JOB, side.namespace, "broken") is None
