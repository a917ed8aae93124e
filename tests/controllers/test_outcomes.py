"""Of several pods of one run, index 0 speaks of success; every one may say what went wrong."""

from typing import Any

import pytest

from specop.api.jobs import Outcome
from specop.controllers.gather import _outcomes
from specop.controllers.pages import _readable
from tests.domain import build

Json = dict[str, Any]
JOB = {"metadata": {"uid": "job"}}
OK = build.training_outcome().model_dump_json(by_alias=True)
FULL = build.refused("training", "DiskFull", "no room").model_dump_json(by_alias=True)


def pod(index: str | None, message: str | None, code: int = 0) -> Json:
    labels = {"batch.kubernetes.io/controller-uid": "job", "specop.dev/role": "training"}
    if index is not None:
        labels["batch.kubernetes.io/job-completion-index"] = index
    ended = {"exitCode": code, "message": message} if message else {"exitCode": code}
    return {
        "metadata": {"name": f"pod-{index}", "labels": labels},
        "spec": {"containers": [{"name": "main"}]},
        "status": {"containerStatuses": [{"name": "main", "state": {"terminated": ended}}]},
    }


@pytest.mark.parametrize(
    ("pods", "reason"),
    [
        ([pod(None, OK)], ""),
        ([pod("1", None), pod("0", OK)], ""),
        ([pod("1", FULL, 64), pod("0", None, 75)], "DiskFull"),
        ([pod("0", FULL, 64), pod("1", None, 75)], "DiskFull"),
        ([pod("1", OK)], None),
        ([pod("1", None), pod("0", None)], None),
    ],
    ids=["one pod", "index 0", "another fails", "index 0 fails", "index 0 has not spoken", "nobody has"],
)
def test_who_is_heard(pods: list[Json], reason: str | None) -> None:
    found = _outcomes((JOB,), tuple(pods)).get("job")
    assert (found.reason if found else None) == reason


@pytest.mark.parametrize(
    ("main", "fetched", "reason"),
    [
        (None, build.refused("fetch", "TargetMissing", "no such folder"), "TargetMissing"),
        (None, Outcome(kind="fetch", ok=True), None),
        (OK, Outcome(kind="fetch", ok=True), ""),
    ],
    ids=["fetch failed", "main has not spoken", "main has"],
)
def test_fetch_is_heard_where_it_failed(main: str | None, fetched: Outcome, reason: str | None) -> None:
    found = pod(None, main)
    said = {"exitCode": 0 if fetched.ok else 64, "message": fetched.model_dump_json(by_alias=True)}
    found["status"]["initContainerStatuses"] = [{"name": "fetch", "state": {"terminated": said}}, {"name": "engine"}]
    outcome = _outcomes((JOB,), (found,)).get("job")
    assert (outcome.reason if outcome else None) == reason


@pytest.mark.parametrize(("index", "read"), [(None, True), ("0", True), ("1", False)])
def test_index_0_shows_the_progress(index: str | None, read: bool) -> None:
    running = pod(index, None)
    running["status"] = {"phase": "Running", "podIP": "10.0.0.1"}
    assert _readable(running) is read
