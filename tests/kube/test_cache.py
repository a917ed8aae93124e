"""The cache: the newest copy wins, whatever order copies arrive in."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specop.common.names import owner_labels
from specop.kube.cache import Cache, Change, Key
from specop.kube.port import Listing
from specop.kube.resources import ENDPOINT, SERVICE

Json = dict[str, Any]
KEY = Key("Service", "team", "agent")
OWNER = Key("DraftedEndpoint", "team", "agent")


def service(version: int, name: str = "agent", **metadata: Any) -> Json:
    metadata = {"name": name, "namespace": "team", "uid": "u", "resourceVersion": str(version), **metadata}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata}


def test_an_older_copy_never_replaces_a_newer_one() -> None:
    cache = Cache()
    cache.put(service(7))
    assert cache.put(service(5)) is None
    assert cache.put(service(7)) is None
    assert cache.get(KEY) == service(7)


def test_a_change_tells_before_and_after() -> None:
    cache = Cache()
    assert cache.put(service(5)) == Change(None, service(5))
    assert cache.put(service(7)) == Change(service(5), service(7))
    assert cache.remove(service(8)) == Change(service(7), None)


def test_a_late_answer_does_not_bring_a_removed_object_back() -> None:
    cache = Cache()
    cache.put(service(5))
    cache.remove(service(8))
    assert cache.put(service(7)) is None
    assert cache.get(KEY) is None
    assert cache.put(service(9)) == Change(None, service(9))


def test_a_late_removal_does_not_take_a_namesake_away() -> None:
    cache = Cache()
    cache.put(service(9))
    assert cache.remove(service(8)) is None
    assert cache.get(KEY) == service(9)


def test_a_list_prunes_what_vanished_and_spares_what_is_newer_than_it() -> None:
    cache = Cache()
    for version, name in [(1, "gone"), (2, "stays"), (20, "newer")]:
        cache.put(service(version, name))
    changes = cache.replace(SERVICE, "team", Listing((service(2, "stays"), service(3, "new")), version=10))
    assert changes == [Change(None, service(3, "new")), Change(service(1, "gone"), None)]
    assert {key.name for key in cache.keys(SERVICE)} == {"stays", "new", "newer"}


def test_a_list_of_one_namespace_leaves_the_others_alone() -> None:
    cache = Cache()
    cache.put(service(1))
    assert cache.replace(SERVICE, "other", Listing((), version=10)) == []
    assert cache.keys(SERVICE, "team") == (KEY,)


def test_children_are_found_by_their_owners_labels_and_follow_them() -> None:
    cache = Cache()
    cache.put(service(1, labels=owner_labels(OWNER.kind, OWNER.name, "engine")))
    assert [child["metadata"]["name"] for child in cache.children(OWNER)] == ["agent"]
    cache.put(service(2))
    assert cache.children(OWNER) == ()


def test_who_is_interested_is_found_until_it_no_longer_is() -> None:
    cache = Cache(lambda body: [("topic", body["metadata"]["labels"]["about"])])
    cache.put(service(1, labels={"about": "a"}))
    assert cache.interested(("topic", "a")) == (KEY,)
    cache.put(service(2, labels={"about": "b"}))
    assert (cache.interested(("topic", "a")), cache.interested(("topic", "b"))) == ((), (KEY,))
    cache.remove(service(3))
    assert cache.interested(("topic", "b")) == ()


def test_managed_fields_are_not_kept() -> None:
    cache = Cache()
    cache.put(service(1, managedFields=[{"manager": "x"}]))
    assert cache.get(KEY) == service(1)


def test_a_model_is_parsed_once_a_version() -> None:
    cache = Cache()
    body = {
        "apiVersion": "specop.dev/v1alpha1",
        "kind": ENDPOINT.name,
        "metadata": {"name": "agent", "namespace": "team", "uid": "u", "resourceVersion": "1"},
        "spec": {"target": {"uri": "s3://models/tiny"}, "servedName": "agent"},
    }
    cache.put(body)
    assert cache.model(OWNER) is cache.model(OWNER)
    assert cache.model(OWNER).spec.served_name == "agent"
    assert cache.model(OWNER._replace(name="other")) is None


@given(
    st.lists(st.tuples(st.integers(1, 12), st.booleans()), unique_by=lambda event: event[0], min_size=1),
    st.randoms(use_true_random=False),
)
def test_any_order_of_events_ends_with_the_newest(events: list[tuple[int, bool]], random: Any) -> None:
    """Every version exists or is a removal; delivered in any order and more than once, the highest decides."""
    deliveries = [*events, *events]
    random.shuffle(deliveries)
    cache = Cache()
    for version, removed in deliveries:
        (cache.remove if removed else cache.put)(service(version))
    newest, removed = max(events)
    assert cache.get(KEY) == (None if removed else service(newest))


@pytest.mark.parametrize(
    ("kind", "namespace", "path"),
    [
        pytest.param(SERVICE, "team", "/api/v1/namespaces/team/services", id="core"),
        pytest.param(ENDPOINT, None, "/apis/specop.dev/v1alpha1/draftedendpoints", id="all namespaces"),
    ],
)
def test_paths(kind: Any, namespace: str | None, path: str) -> None:
    assert kind.path(namespace) == path
    assert kind.path(namespace, "agent", "status") == f"{path}/agent/status"
