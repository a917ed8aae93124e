"""Who may do what: asked of the real API server with the chart's roles and admission policies in force."""

import json
from typing import Any

import pytest

from tests.conftest import SYSTEM, ControlPlane
from tests.controllers import harness
from tests.domain import build

pytestmark = pytest.mark.control_plane
OPERATOR = f"system:serviceaccount:{SYSTEM}:specop"
APPROVAL = {"spec": {"drafter": {"approval": {"approvals": [build.approve("agent-v1")]}}}}
Json = dict[str, Any]


class Rights:
    """A namespace with an endpoint, an editor, and an approver."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane, self.namespace = plane, plane.namespace()
        for user, role in (("editor", "edit"), ("approver", "specop-approver")):
            plane.kubectl(
                "create", "rolebinding", user, f"--clusterrole={role}", f"--user={user}", "-n", self.namespace
            )
        self.endpoint = harness.endpoint(drafter=build.asks_for())
        self.endpoint["metadata"]["namespace"] = self.namespace
        plane.apply(self.endpoint)

    def patch(self, user: str, change: Json, *more: str) -> str:
        """Patch the endpoint as somebody; returns what the server says."""
        done = self.plane.kubectl(
            *("patch", "draftedendpoint", "agent", "-n", self.namespace, "--as", user, "--type=merge"),
            *("-p", json.dumps(change), *more),
            check=False,
        )
        return done.stdout + done.stderr


@pytest.fixture
def rights(control_plane: ControlPlane) -> Rights:
    return Rights(control_plane)


@pytest.fixture
def almighty(control_plane: ControlPlane) -> Any:
    """The operator's token in the hands of someone who got all rights for it."""
    binding = ("clusterrolebinding", "stolen")
    control_plane.kubectl("create", *binding, "--clusterrole=cluster-admin", f"--serviceaccount={SYSTEM}:specop")
    yield
    control_plane.kubectl("delete", *binding)


def test_an_editor_may_edit_and_not_approve(rights: Rights) -> None:
    assert "patched" in rights.patch("editor", {"spec": {"replicas": 2}})
    refusal = rights.patch("editor", APPROVAL)
    assert 'needs the verb "approve" on draftedendpoints' in refusal
    assert "patched" in rights.patch("approver", APPROVAL)
    assert "patched" in rights.patch("editor", {"spec": {"replicas": 3}})


@pytest.mark.parametrize(
    "approval",
    [
        pytest.param({"policy": "Automatic"}, id="no person needed"),
        pytest.param({"approvals": [build.approve("agent-v1")]}, id="an approval"),
        pytest.param({"rejectedDigests": [build.sha("agent-v1")]}, id="a rejection"),
    ],
)
def test_an_editor_may_not_make_an_endpoint_that_decides(rights: Rights, approval: Json) -> None:
    body = harness.endpoint(drafter={"from": {"trainingJobRef": {"name": "agent-v1"}}, "approval": approval})
    body["metadata"] |= {"name": "another", "namespace": rights.namespace}
    assert 'needs the verb "approve"' in rights.plane.apply(body, user="editor", check=False)


def test_an_editor_may_make_an_endpoint_that_spells_the_default_out(rights: Rights) -> None:
    body = harness.endpoint(drafter={"approval": {"policy": "Required", "approvals": []}})
    body["metadata"] |= {"name": "another", "namespace": rights.namespace}
    assert "created" in rights.plane.apply(body, user="editor", check=False)


def test_an_editor_may_not_take_an_approval_away(rights: Rights) -> None:
    rights.patch("approver", APPROVAL)
    assert 'needs the verb "approve"' in rights.patch("editor", {"spec": {"drafter": None}})


@pytest.mark.parametrize(
    ("change", "more"),
    [
        pytest.param({"spec": {"replicas": 2}}, (), id="spec"),
        pytest.param({"metadata": {"annotations": {"a": "b"}}}, (), id="metadata"),
        pytest.param({"spec": {"replicas": 2}}, ("--subresource=scale",), id="scale"),
        pytest.param(APPROVAL, (), id="approval"),
    ],
)
def test_the_operator_cannot_change_an_endpoint_even_with_all_rights(
    rights: Rights, almighty: None, change: Json, more: tuple[str, ...]
) -> None:
    assert "never writes a spec" in rights.patch(OPERATOR, change, *more)


@pytest.mark.parametrize("kind", ["DraftedEndpoint", "SpeculatorPreset"])
def test_the_operator_cannot_make_what_only_people_make(rights: Rights, almighty: None, kind: str) -> None:
    body = {**rights.endpoint, "metadata": {"name": "another", "namespace": rights.namespace}}
    if kind == "SpeculatorPreset":
        body = {**body, "kind": kind, "metadata": {"name": "another"}, "spec": {}}
    assert "never writes a spec" in rights.plane.apply(body, user=OPERATOR, check=False)


@pytest.mark.parametrize(
    ("verb", "resource", "allowed"),
    [
        ("create", "drafters.specop.dev", "yes"),
        ("patch", "draftedendpoints.specop.dev/status", "yes"),
        ("list", "pods", "yes"),
        ("patch", "draftedendpoints.specop.dev", "no"),
        ("update", "draftedendpoints.specop.dev/scale", "no"),
        ("approve", "draftedendpoints.specop.dev", "no"),
        ("delete", "drafters.specop.dev", "no"),
        ("get", "secrets", "no"),
        ("list", "secrets", "no"),
        ("create", "pods", "no"),
        ("create", "pods/exec", "no"),
        ("get", "configmaps", "no"),
        ("list", "namespaces", "no"),
    ],
)
def test_what_the_operator_may(control_plane: ControlPlane, verb: str, resource: str, allowed: str) -> None:
    kind, _, part = resource.partition("/")
    asked = (verb, kind, *((f"--subresource={part}",) if part else ()))
    said = control_plane.kubectl("auth", "can-i", *asked, "-A", "--as", OPERATOR, check=False)
    assert said.stdout.strip() == allowed
