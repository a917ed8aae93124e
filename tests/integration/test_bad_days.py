"""Bad input and bad days, on the real API server with the real controllers."""

import copy
import json
import random
import threading
import time
from typing import Any

import pytest
from aiohttp import web

from specop.api import reasons
from tests.controllers import harness
from tests.domain import build
from tests.integration.conftest import Team, loop_objects
from tests.integration.process import wait
from tests.integration.proxy import WRITES, Cut
from tests.integration.test_loop import APPROVED, ARM

pytestmark = [pytest.mark.control_plane, pytest.mark.timeout(240)]
Json = dict[str, Any]
DICE = random.Random(1)


# --- bad input


@pytest.mark.parametrize(
    "reason",
    [
        reasons.OBJECT_NOT_FOUND,
        reasons.BUCKET_NOT_FOUND,
        reasons.NO_USABLE_ROWS,
        reasons.TOO_MANY_BAD_LINES,
        reasons.TARGET_NOT_FOUND,
        reasons.TARGET_WITHOUT_TOKENIZER,
    ],
)
def test_what_a_dataset_job_says_is_what_the_user_reads(team: Team, reason: str) -> None:
    team.kubelet.outcomes["dataset"] = build.refused("dataset", reason, "what to do about it")
    team.operator.start()
    team.apply(*loop_objects())
    team.wait_for("speculatordataset", "agent-v1", "Succeeded", ("False", reason))
    team.wait_for("speculatordataset", "agent-v1", "Stalled", ("True", reason))
    team.wait_for("speculatortrainingjob", "agent-v1", "Stalled", ("True", reasons.DATASET_FAILED))
    team.wait_for("draftedendpoint", "agent", "Ready", ("True", reasons.SERVING_BASE))


def test_a_digest_that_no_drafter_has(team: Team) -> None:
    team.operator.start()
    team.apply(*loop_objects(build.approve("something else")))
    team.wait_for("drafter", "agent-v1", "Ready", ("True", reasons.AVAILABLE))
    team.wait_for("draftedendpoint", "agent", "DrafterApproved", ("False", reasons.UNKNOWN_DIGEST_APPROVED))
    assert team.names("deployment") == {"agent-base"}


def test_a_drafter_of_another_target_takes_no_pod(team: Team) -> None:
    team.kubelet.outcomes["inspect/agent"] = build.inspect_outcome(target=build.facts("another"))
    team.operator.start()
    team.apply(*loop_objects(APPROVED))
    team.wait_for("draftedendpoint", "agent", "DrafterApproved", ("False", reasons.CONTRACT_MISMATCH))
    conditions = team.get("draftedendpoint", "agent")["status"]["conditions"]
    assert any("target.fingerprint" in each["message"] for each in conditions)
    assert team.names("deployment") == {"agent-base"}


def test_an_import_whose_bytes_are_others(team: Team) -> None:
    team.kubelet.outcomes["inspect/imported"] = build.inspect_outcome("agent-v1")
    weights = {"uri": "s3://team-a/weights", "digest": build.sha("expected")}
    team.operator.start()
    team.apply(harness.obj("Drafter", "imported", weights=weights))
    team.wait_for("drafter", "imported", "Stalled", ("True", reasons.DIGEST_MISMATCH))


def test_what_the_api_server_refuses_of_a_child_is_told_and_can_be_mended(team: Team) -> None:
    team.operator.start()
    broken = harness.endpoint(podTemplate={"resources": {"limits": {"nvidia.com/gpu": "500m"}}})
    team.apply(broken)
    team.wait_for("draftedendpoint", "agent", "Stalled", ("True", reasons.INVALID_SPEC))
    team.apply(harness.endpoint())
    team.wait_for("draftedendpoint", "agent", "Ready", ("True", reasons.SERVING_BASE))
    assert team.condition("draftedendpoint", "agent", "Stalled") == ("", "")


# --- bad days of the objects


def test_a_job_deleted_while_its_drafter_serves(team: Team) -> None:
    team.operator.start()
    team.apply(*loop_objects(APPROVED))
    team.serves_drafter()
    wait(lambda: team.names("deployment") == {ARM}, 30, "the base to go")
    before = team.get("deployment", ARM)["metadata"]["uid"]
    for kind in ("speculatortrainingjob", "speculatordataset", "drafter"):
        team.plane.kubectl("delete", kind, "agent-v1", "-n", team.namespace)
    team.wait_for("draftedendpoint", "agent", "DrafterServing", ("True", reasons.DRAFTER_OBJECT_MISSING))
    team.wait_for("draftedendpoint", "agent", "Ready", ("True", reasons.SERVING_DRAFTER))
    assert team.get("deployment", ARM)["metadata"]["uid"] == before


def test_replace_in_the_middle_of_a_rollout(team: Team) -> None:
    team.kubelet.engines[ARM.removeprefix("agent-")] = "never"
    team.operator.start()
    team.apply(*loop_objects(APPROVED))
    wait(lambda: team.names("deployment") == {"agent-base", ARM}, 60, "both arms")
    body = loop_objects(APPROVED)[0]
    body["metadata"]["namespace"] = team.namespace
    body["spec"]["replicas"] = 2
    team.plane.kubectl("replace", "-f", "-", stdin=json.dumps(body))
    wait(lambda: team.get("deployment", "agent-base")["spec"]["replicas"] == 2, 30, "two replicas")
    team.wait_for("draftedendpoint", "agent", "DrafterServing", ("False", reasons.ROLLING_OUT))
    team.kubelet.engines.clear()
    team.serves_drafter()
    wait(lambda: team.names("deployment") == {ARM}, 30, "the base to go")


def test_an_arm_that_does_not_come_up_leaves_the_base_serving(team: Team) -> None:
    team.kubelet.engines[ARM.removeprefix("agent-")] = "crash"
    team.operator.start()
    team.apply(*loop_objects(APPROVED))
    team.wait_for("draftedendpoint", "agent", "DrafterServing", ("False", reasons.DRAFTER_FAILED))
    team.wait_for("draftedendpoint", "agent", "Ready", ("True", reasons.SERVING_BASE))
    wait(lambda: team.names("deployment") == {"agent-base"}, 30, "the drafted arm to go")
    failed = team.get("draftedendpoint", "agent")["status"]["drafter"]["failed"]
    assert [each["digest"] for each in failed] == [build.sha("agent-v1")]


def test_an_endpoint_deleted_while_its_drafter_is_trained(team: Team) -> None:
    team.kubelet.jobs["training"] = "running"
    team.operator.start()
    team.apply(*loop_objects(APPROVED))
    team.wait_for("speculatortrainingjob", "agent-v1", "Succeeded", ("Unknown", reasons.RUNNING))
    team.plane.kubectl("delete", "draftedendpoint", "agent", "-n", team.namespace)
    team.kubelet.jobs.clear()
    team.wait_for("drafter", "agent-v1", "Ready", ("True", reasons.AVAILABLE))
    wait(lambda: not team.names("deployment") and not team.names("service"), 60, "the arms to go")


def test_a_namesake_that_comes_at_once_is_another_endpoint(team: Team) -> None:
    team.operator.start()
    team.apply(*loop_objects(APPROVED))
    team.serves_drafter()
    team.plane.kubectl("delete", "draftedendpoint", "agent", "-n", team.namespace)
    team.apply(harness.endpoint())
    team.wait_for("draftedendpoint", "agent", "DrafterServing", ("False", reasons.NO_DRAFTER_REQUESTED))
    wait(lambda: team.names("deployment") == {"agent-base"}, 60, "the old arm to go")
    team.wait_for("draftedendpoint", "agent", "Ready", ("True", reasons.SERVING_BASE))


# --- bad days of the API server


def refuse(status: int, share: int, **headers: str) -> Any:
    """Answer one of `share` requests with an error."""
    lock, count = threading.Lock(), [0]

    def fault(request: web.Request) -> web.Response | None:
        with lock:
            count[0] += 1
            struck = count[0] % share == 0
        body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Struck", "code": status}
        return web.json_response(body, status=status, headers=headers) if struck else None

    return fault


def only_writes(fault: Any) -> Any:
    return lambda request: fault(request) if request.method in WRITES else None


def only_watches(fault: Any) -> Any:
    return lambda request: fault(request) if "watch" in request.query else None


def expired(_: web.Request) -> web.Response | None:
    """Say, as the real server does, that the version is too old to go on from."""
    error = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}}
    return web.json_response(error) if DICE.random() < 0.5 else None


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(only_writes(refuse(409, 3)), id="409"),
        pytest.param(only_writes(refuse(429, 3, **{"Retry-After": "1"})), id="429"),
        pytest.param(only_writes(refuse(500, 3)), id="500"),
        pytest.param(only_watches(refuse(410, 3)), id="410"),
        pytest.param(only_watches(expired), id="410 inside a watch"),
        pytest.param(lambda _: 0.3, id="slow"),
        pytest.param(lambda _: Cut(done=DICE.random() < 0.5) if DICE.random() < 0.2 else None, id="cut"),
    ],
)
def test_an_api_server_that_fails_now_and_then(team: Team, fault: Any) -> None:
    team.operator.start()
    team.operator.wait_ready()
    team.proxy.fault = fault
    team.apply(*loop_objects(APPROVED))
    team.serves_drafter(120)
    assert team.operator.runs


def test_an_api_server_that_is_gone_for_half_a_minute(team: Team) -> None:
    team.operator.start()
    objects = loop_objects(APPROVED)
    team.apply(*copy.deepcopy(objects[:2]))
    team.wait_for("draftedendpoint", "agent", "Ready", ("True", reasons.SERVING_BASE))
    team.proxy.fault = lambda _: Cut(done=False)
    team.apply(objects[2])
    time.sleep(30)
    assert team.operator.runs
    assert team.operator.page("/healthz")[0] == 200
    team.proxy.fault = lambda _: None
    team.serves_drafter(120)
