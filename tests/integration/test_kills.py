"""The operator is killed at a write, and started again: the cluster ends the same, whichever write it was.

The connection is cut just before the server gets the write, or just after it did, and the process is killed. All writes
of the loop are tried in a random order for as long as the budget lasts (`SPECOP_KILL_SECONDS`); the seed
(`SPECOP_KILL_SEED`) and what was covered are printed, and kept in `build/test/kills.json`.
"""

import contextlib
import json
import os
import random
import sys
import time
from typing import Any

import pytest
from aiohttp import web

from tests.conftest import ROOT, ControlPlane
from tests.integration.conftest import Team, loop_objects, teamed
from tests.integration.process import wait
from tests.integration.proxy import WRITES, Cut
from tests.integration.test_loop import APPROVED, ARM

BUDGET = float(os.environ.get("SPECOP_KILL_SECONDS", "90"))
SEED = int(os.environ.get("SPECOP_KILL_SEED", str(random.SystemRandom().randrange(10_000))))
pytestmark = [pytest.mark.control_plane, pytest.mark.timeout(BUDGET + 180)]
Json = dict[str, Any]

MOVING = {
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "generateName",
    "lastTransitionTime",
    "since",
    "started",
    "approvedAt",
    "startTime",
    "completionTime",
    "lastUpdateTime",
    "lastProbeTime",
    "ownerReferences",
    "annotations",
    "generation",
    "observedGeneration",
    "namespace",
    "clusterIP",
    "clusterIPs",
    "managedFields",
}
"""What differs between two histories that end the same."""


def test_the_end_is_the_same(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> None:
    with teamed(control_plane, tmp_path_factory.mktemp("calm")) as team:
        history(team, None)
        expected = rest(team)
        count = len(team.proxy.writes)
    cases = [(number, done) for number in range(count) for done in (False, True)]
    random.Random(SEED).shuffle(cases)
    deadline, covered = time.monotonic() + BUDGET, 0
    for number, done in cases:
        if time.monotonic() > deadline:
            break
        with teamed(control_plane, tmp_path_factory.mktemp("killed")) as team:
            history(team, (number, done))
            with contextlib.suppress(AssertionError):
                wait(lambda: still(team) == expected, 30, "the same end")
            assert still(team) == expected, f"killed at write {number}, done: {done}, seed {SEED}"
        covered += 1
    report = {"seed": SEED, "writes": count, "cases": len(cases), "covered": covered}
    sys.stderr.write(f"killed at writes: {report}\n")
    path = ROOT / "build" / "test" / "kills.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n")
    assert covered > 0


def history(team: Team, case: tuple[int, bool] | None) -> None:
    """Run the loop to its end, with a kill at a write if asked."""
    seen, struck = 0, False

    def fault(request: web.Request) -> Cut | None:
        nonlocal seen, struck
        if request.method not in WRITES or struck:
            return None
        seen += 1
        if case is None or seen - 1 != case[0]:
            return None
        struck = True
        return Cut(done=case[1])

    team.proxy.fault = fault
    team.apply(*loop_objects(APPROVED))
    team.operator.start()
    if case is not None:
        # how many Events there are depends on what the operator saw together: a history may end before its last writes
        wait(lambda: struck or team.names("deployment") == {ARM}, 60, f"write {case[0]}")
        team.operator.kill()
        team.operator.start()
    team.serves_drafter()
    wait(lambda: team.names("deployment") == {ARM}, 30, "the base to go")


def rest(team: Team) -> Json:
    """Return what the cluster is like when it has not changed for a while."""
    settled: list[Json] = []

    def calm() -> bool:
        settled.append(still(team))
        return len(settled) > 15 and all(each == settled[-1] for each in settled[-15:])

    wait(calm, 60, "quiet")
    return settled[-1]


def still(team: Team) -> Json:
    """Everything in the namespace, without what moves."""
    kinds = "draftedendpoints,speculatordatasets,speculatortrainingjobs,drafters,jobs,deployments,services"
    found = json.loads(team.plane.kubectl("get", kinds, "-n", team.namespace, "-o", "json").stdout)["items"]
    for body in found:
        if not body["apiVersion"].startswith("specop.dev/"):
            body.pop("status", None)  # written by controllers that are not ours
    text = json.dumps(found).replace(team.namespace, "NAMESPACE")
    for body in found:
        text = text.replace(body["metadata"]["uid"], "UID")
    return {f"{body['kind']}/{body['metadata']['name']}": _still(body) for body in json.loads(text)}


def _still(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _still(item) for name, item in value.items() if name not in MOVING}
    return [_still(item) for item in value] if isinstance(value, list) else value
