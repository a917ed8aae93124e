"""The real operator, with the chart's rights, against the real API server and the real controllers."""

import copy
import itertools
from typing import Any

import pytest

from tests.domain import build
from tests.integration.conftest import Team, loop_objects
from tests.integration.process import wait

pytestmark = [pytest.mark.control_plane, pytest.mark.timeout(180)]
Json = dict[str, Any]
APPROVED = build.approve("agent-v1")
ARM = f"agent-d-{build.sha('agent-v1')[7:15]}"


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)], ids=["endpoint first", "job first", "data first"])
def test_the_loop_closes_whatever_comes_first(team: Team, order: tuple[int, ...]) -> None:
    objects = loop_objects(APPROVED)
    team.operator.start()
    for number in order:
        team.apply(objects[number])
    team.serves_drafter()
    team.wait_for("draftedendpoint", "agent", "Ready", ("True", "ServingDrafter"))
    wait(lambda: team.names("deployment") == {ARM}, 30, "the base to go")
    assert team.condition("speculatordataset", "agent-v1", "Succeeded") == ("True", "Completed")
    assert team.condition("speculatortrainingjob", "agent-v1", "Succeeded") == ("True", "Completed")
    assert team.condition("drafter", "agent-v1", "Ready") == ("True", "Available")
    assert team.get("drafter", "agent-v1")["status"]["approvedBy"] == "ada@example.com"


def test_the_base_serves_until_the_drafter_is_approved(team: Team) -> None:
    team.operator.start()
    team.apply(*loop_objects())
    team.wait_for("draftedendpoint", "agent", "DrafterApproved", ("False", "AwaitingApproval"))
    team.wait_for("draftedendpoint", "agent", "Ready", ("True", "ServingBase"))
    assert team.names("deployment") == {"agent-base"}
    team.apply(loop_objects(APPROVED)[0])
    team.serves_drafter()


def test_kubectl_and_metrics_tell_the_same_story(team: Team) -> None:
    team.operator.start()
    team.apply(*loop_objects(APPROVED))
    team.serves_drafter()
    line = team.plane.kubectl("get", "draftedendpoint", "-n", team.namespace, "--no-headers").stdout.split()
    assert line[:4] == ["agent", "True", "ServingDrafter", "agent-v1"]
    events = team.plane.kubectl("get", "events", "-n", team.namespace, "-o", "jsonpath={.items[*].reason}").stdout
    assert {"ServingDrafter", "Completed"} <= set(events.split())
    status, page = team.operator.page("/metrics")
    assert status == 200
    assert 'specop_objects{kind="DraftedEndpoint",status="True"} 1.0' in page
    assert [team.operator.page(path)[0] for path in ("/healthz", "/readyz")] == [200, 200]


def test_users_objects_get_nothing_from_the_operator_but_status(team: Team) -> None:
    team.operator.start()
    objects = loop_objects(APPROVED)
    team.apply(*copy.deepcopy(objects))
    team.serves_drafter()
    for body in objects:
        found = team.get(body["kind"], body["metadata"]["name"])
        assert "finalizers" not in found["metadata"]
        assert set(found["metadata"]["annotations"]) == {"kubectl.kubernetes.io/last-applied-configuration"}
        shown = team.plane.kubectl(
            *(
                "get",
                body["kind"],
                body["metadata"]["name"],
                "-n",
                team.namespace,
                "-o",
                "json",
                "--show-managed-fields",
            )
        ).stdout
        assert '"manager": "specop/status"' in shown
        assert '"manager": "specop"' not in shown


def test_sigterm_ends_it_at_once_and_in_order(team: Team) -> None:
    team.operator.start()
    team.apply(*loop_objects(APPROVED))
    team.serves_drafter()
    assert team.operator.terminate() == 0


def test_at_rest_nothing_is_written_also_after_a_restart(team: Team) -> None:
    team.operator.start()
    team.apply(*loop_objects(APPROVED))
    team.serves_drafter()
    wait(lambda: team.names("deployment") == {ARM}, 30, "the base to go")
    settle(team)
    team.operator.kill()
    team.proxy.writes.clear()
    team.operator.start()
    team.operator.wait_ready()
    assert wait(lambda: "reconciles_total" in team.operator.page("/metrics")[1], 20, "reconciles")
    settle(team)
    assert team.proxy.writes == []


def settle(team: Team) -> None:
    """Wait until a few seconds have passed without a write."""
    counts = (len(team.proxy.writes) for _ in itertools.count())
    quiet, before = 0, -1

    def calm() -> bool:
        nonlocal quiet, before
        now = next(counts)
        quiet, before = (quiet + 1 if now == before else 0), now
        return quiet > 30

    wait(calm, 60, "quiet")
