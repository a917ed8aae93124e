"""SpeculatorDataset: one table for the waits before its Job, and the life of the Job."""

import json
from dataclasses import replace
from typing import Any

import pytest

from specop.api.dataset import SpeculatorDataset
from specop.api.endpoint import DraftedEndpoint
from specop.api.jobs import CONFIG_ENV
from specop.api.shared import Json
from specop.domain import dataset
from specop.domain.observed import Children, DatasetObserved
from tests.domain import build
from tests.domain.world import World


def agent(requests: int = 250, until: str | None = "2026-01-01T02:00:00Z", **spec: Any) -> DraftedEndpoint:
    capture: Json = {"requests": requests, **({"shippedUntil": until} if until else {})}
    return build.endpoint(status={"capture": capture}, **spec)


def observed(
    obj: SpeculatorDataset, *others: DraftedEndpoint | SpeculatorDataset, output: str | None = "s3://out/here"
) -> DatasetObserved:
    return DatasetObserved(
        obj,
        build.runtimes(output=output),
        endpoints={item.metadata.name: item for item in others if isinstance(item, DraftedEndpoint)},
        datasets={item.metadata.name: item for item in others if isinstance(item, SpeculatorDataset)},
    )


def seeds(status: str, reason: str, message: str = "why") -> SpeculatorDataset:
    condition = {"type": "Succeeded", "status": status, "reason": reason, "message": message}
    return build.dataset("seeds", status={"conditions": [condition]})


def summary(status: Json | None) -> dict[str, tuple[str, str]]:
    assert status is not None
    return {c["type"]: (c["status"], c["reason"]) for c in status["conditions"]}


def log_source(**log: Any) -> list[Json]:
    return [{"name": "logs", "requestLog": {"endpointRef": {"name": "agent"}, **log}}]


KEPT_A_WEEK = {"uri": "s3://team-a/captured", "retentionDays": 7}
OWN_SECRET = {"credentials": {"secretRef": {"name": "other"}}}
WAITS = [
    pytest.param(
        observed(build.dataset(), agent(), output=None), "NoOutputStorage", True, "spec.storage.output", id="no output"
    ),
    pytest.param(
        observed(build.dataset(sources=[{"name": "a", "objects": {"uri": "s3://a/b.jsonl"}, "storage": OWN_SECRET}])),
        "InvalidSpec",
        True,
        "one Secret",
        id="two identities",
    ),
    pytest.param(observed(build.dataset()), "WaitingForEndpoint", False, "DraftedEndpoint agent", id="no endpoint"),
    pytest.param(
        observed(build.dataset(), agent(capture=None)), "NoCapture", True, "spec.capture.uri", id="no capture"
    ),
    pytest.param(
        observed(build.dataset(), agent(199)), "WaitingForRequests", False, "199 of 200 requests", id="too few"
    ),
    pytest.param(
        observed(build.dataset(), build.endpoint()), "WaitingForRequests", False, "0 of 200", id="nothing captured"
    ),
    pytest.param(
        observed(build.dataset(), agent(until=None)), "WaitingForRequests", False, "up to", id="no watermark yet"
    ),
    pytest.param(
        observed(build.dataset(sources=log_source(until="2026-01-02T00:00:00Z")), agent()),
        "WaitingForRequests",
        False,
        "up to the window's end",
        id="window not over",
    ),
    pytest.param(
        observed(build.dataset(regenerate={"endpointRef": {"name": "asked"}}), agent()),
        "WaitingForEndpoint",
        False,
        "DraftedEndpoint asked",
        id="nobody to ask",
    ),
    pytest.param(
        observed(build.dataset(regenerate={"endpointRef": {"name": "agent"}}), agent()),
        "WaitingForEndpoint",
        False,
        "until DraftedEndpoint agent is ready",
        id="who is asked is not ready",
    ),
    pytest.param(
        observed(
            build.dataset(regenerate={"endpointRef": {"name": "asked"}}),
            agent(),
            build.endpoint("asked", target={"uri": "s3://models/other"}),
        ),
        "TargetMismatch",
        True,
        "one that serves the dataset's target",
        id="another model to ask",
    ),
    pytest.param(
        observed(build.mixed_dataset(), agent()), "WaitingForDataset", False, "seeds, which does not", id="no dataset"
    ),
    pytest.param(
        observed(build.mixed_dataset(), agent(), build.dataset("seeds")),
        "WaitingForDataset",
        False,
        "SpeculatorDataset seeds",
        id="new dataset",
    ),
    pytest.param(
        observed(build.mixed_dataset(), agent(), seeds("Unknown", "Running", "its Job runs")),
        "WaitingForDataset",
        False,
        "seeds: Running: its Job runs",
        id="unfinished dataset",
    ),
    pytest.param(
        observed(build.mixed_dataset(), agent(), seeds("False", "NoUsableRows", "0 of 12")),
        "DatasetFailed",
        True,
        "SpeculatorDataset seeds failed: NoUsableRows: 0 of 12",
        id="failed dataset",
    ),
    pytest.param(
        observed(build.dataset(), agent(until="2025-12-25T00:00:00Z", capture=KEPT_A_WEEK)),
        "WaitingForRequests",
        False,
        "up to 2025-12-25T00:00:00Z are past its retentionDays",
        id="all that is shipped is too old",
    ),
    pytest.param(
        observed(build.dataset(sources=log_source(until="2025-12-24T00:00:00Z")), agent(capture=KEPT_A_WEEK)),
        "WindowPastRetention",
        True,
        "with a later window",
        id="window of what is deleted",
    ),
    pytest.param(observed(build.dataset(suspend=True), agent()), "Suspended", False, "spec.suspend", id="suspended"),
]


@pytest.mark.parametrize(("inputs", "reason", "stalled", "message"), WAITS)
def test_waits(inputs: DatasetObserved, reason: str, stalled: bool, message: str) -> None:
    plan = dataset.plan(inputs, build.at(0))
    expected = {"Succeeded": ("Unknown", reason), **({"Stalled": ("True", reason)} if stalled else {})}
    assert summary(plan.status) == expected
    assert plan.status is not None
    assert message in plan.status["conditions"][0]["message"]
    assert (plan.creates, plan.applies, plan.deletes) == ((), (), ())
    assert "resolved" not in plan.status


@pytest.mark.parametrize(
    ("log", "since", "until"),
    [
        pytest.param({"lastSeconds": 3600}, "2026-01-01T01:00:00Z", "2026-01-01T02:00:00Z", id="last hour"),
        pytest.param({}, "1970-01-01T00:00:00Z", "2026-01-01T02:00:00Z", id="everything"),
        pytest.param(
            {"since": "2026-01-01T00:30:00Z", "until": "2026-01-01T01:30:00Z"},
            "2026-01-01T00:30:00Z",
            "2026-01-01T01:30:00Z",
            id="absolute",
        ),
        pytest.param(
            {"lastSeconds": 60, "until": "2026-01-01T01:30:00Z"},
            "2026-01-01T01:29:00Z",
            "2026-01-01T01:30:00Z",
            id="up to an end",
        ),
    ],
)
def test_windows_become_absolute_before_the_job(log: Json, since: str, until: str) -> None:
    plan = dataset.plan(observed(build.dataset(sources=log_source(**log)), agent()), build.at(0))
    assert plan.status is not None
    assert plan.creates == ()
    assert plan.requeue_after == 0
    assert plan.status["resolved"] == {
        "output": "s3://out/here",
        "image": "specop/data:1",
        "windows": [{"source": "logs", "since": since, "until": until, "prefix": "s3://team-a/captured/team-a/agent"}],
        "datasets": [],
    }


@pytest.mark.parametrize(
    ("log", "since"),
    [
        pytest.param({}, "2025-12-25T00:00:00Z", id="everything"),
        pytest.param({"lastSeconds": 2_592_000}, "2025-12-25T00:00:00Z", id="more than is kept"),
        pytest.param({"since": "2025-12-25T00:59:59+01:00"}, "2025-12-25T00:00:00Z", id="a second more"),
        pytest.param({"since": "2025-12-24T23:00:01-01:00"}, "2025-12-24T23:00:01-01:00", id="a second less"),
        pytest.param({"lastSeconds": 3600}, "2026-01-01T01:00:00Z", id="less"),
    ],
)
def test_no_window_begins_before_what_the_endpoint_keeps(log: Json, since: str) -> None:
    plan = dataset.plan(observed(build.dataset(sources=log_source(**log)), agent(capture=KEPT_A_WEEK)), build.at(0))
    assert plan.status is not None
    assert plan.status["resolved"]["windows"][0]["since"] == since


def test_the_job_is_made_from_what_is_stored_whatever_came_since() -> None:
    first = dataset.plan(observed(build.dataset(), agent()), build.at(0))
    stored = build.dataset(status=first.status)
    (create,) = dataset.plan(observed(stored), build.at(1)).creates
    again = dataset.plan(observed(stored, agent(9999, "2026-03-01T00:00:00Z")), build.at(2))
    assert again.creates == (create,)
    assert create.body["metadata"]["name"] == "agent-v1-dataset"


def test_another_dataset_is_named_by_its_content_before_the_job() -> None:
    first = dataset.plan(observed(build.mixed_dataset(), agent(), build.finished_dataset("seeds")), build.at(0))
    assert first.status is not None
    made = build.dataset_outcome().dataset
    assert made is not None
    weights = {"uri": made.uri, "digest": made.digest}
    assert first.status["resolved"]["datasets"] == [
        {"source": "before", "name": "seeds", "uid": "uid-seeds", **weights}
    ]
    assert first.creates == ()
    stored = build.mixed_dataset(status=first.status)
    (create,) = dataset.plan(observed(stored), build.at(1)).creates  # also when it is gone since
    (container,) = create.body["spec"]["template"]["spec"]["containers"]
    config = json.loads(next(each["value"] for each in container["env"] if each["name"] == CONFIG_ENV))
    assert [source.get("dataset") for source in config["sources"]] == [weights, None]


def test_two_that_wait_for_each_other_come_to_rest() -> None:
    found = World()
    found.put(agent())
    found.put(build.mixed_dataset("a", of="b"))
    found.put(build.mixed_dataset("b", of="a"))
    found.settle(6)
    conditions = found.get("SpeculatorDataset", "a").status.conditions
    assert [(each.reason, each.message) for each in conditions] == [
        ("WaitingForDataset", "waits for SpeculatorDataset b: WaitingForDataset")
    ]


def test_one_that_was_mended_is_gone_on_with() -> None:
    found = World()
    found.put(agent())
    found.put(build.mixed_dataset())
    found.put(build.dataset("seeds"))
    found.outcomes["seeds-dataset"] = build.refused("dataset", "NoUsableRows")
    found.settle()
    assert conditions(found)["Stalled"] == ("True", "DatasetFailed")
    found.outcomes["seeds-dataset"] = build.dataset_outcome()
    found.edit("SpeculatorDataset", "seeds", lambda spec: spec.update(podTemplate={"labels": {"try": "2"}}))
    found.settle()
    assert conditions(found) == {"Succeeded": ("Unknown", "Queued")}


def world(**spec: Any) -> World:
    found = World()
    found.put(agent())
    found.put(build.dataset(**spec))
    return found


def conditions(found: World) -> dict[str, tuple[str, str]]:
    return {c.type: (c.status, c.reason) for c in found.get("SpeculatorDataset", "agent-v1").status.conditions}


def test_runs_and_succeeds() -> None:
    found = world()
    found.settle()
    assert conditions(found) == {"Succeeded": ("Unknown", "Queued")}, "no Reconciling: a GitOps wait goes on"
    found.outcomes["agent-v1-dataset"] = build.dataset_outcome()
    found.settle()
    status = found.get("SpeculatorDataset", "agent-v1").status
    assert conditions(found) == {"Succeeded": ("True", "Completed")}
    assert status.result == build.dataset_outcome().dataset
    assert status.short_digest == build.sha("data")[7:19]
    del found.objects["Job", "agent-v1-dataset"]
    found.settle()
    assert found.named("Job") == [], "what is done is not done again"


def test_a_users_error_is_final_until_the_object_changes() -> None:
    found = world()
    found.outcomes["agent-v1-dataset"] = build.refused("dataset", "NoUsableRows", "0 of 12 rows have an answer")
    found.settle()
    assert conditions(found) == {"Succeeded": ("False", "NoUsableRows"), "Stalled": ("True", "NoUsableRows")}
    del found.objects["Job", "agent-v1-dataset"]
    found.settle()
    assert found.named("Job") == []
    found.outcomes["agent-v1-dataset"] = build.dataset_outcome()
    found.edit("SpeculatorDataset", "agent-v1", lambda spec: spec.update(podTemplate={"labels": {"try": "2"}}))
    found.settle()
    assert conditions(found) == {"Succeeded": ("True", "Completed")}


TOO_FEW = build.refused("dataset", "TooFewRequests")


def test_a_window_with_too_few_requests_is_frozen_anew_when_there_are_more() -> None:
    found = world()
    found.outcomes["agent-v1-dataset"] = TOO_FEW
    found.settle()
    assert found.named("Job") == []
    assert conditions(found) == {"Succeeded": ("Unknown", "WaitingForRequests")}
    assert found.get("SpeculatorDataset", "agent-v1").status.resolved is None

    capture = found.objects["DraftedEndpoint", "agent"]["status"]["capture"]
    had = capture["requests"]
    found.outcomes["agent-v1-dataset"] = build.dataset_outcome()
    capture.update(requests=had + 19, shippedUntil="2026-01-01T02:30:00Z")
    found.settle()
    assert conditions(found) == {"Succeeded": ("Unknown", "WaitingForRequests")}
    capture.update(requests=had + 20, shippedUntil="2026-01-01T03:00:00Z")
    found.settle()
    assert conditions(found) == {"Succeeded": ("True", "Completed")}
    status = found.get("SpeculatorDataset", "agent-v1").status
    assert status.retry_at_requests is None
    assert status.resolved.windows[0].until == "2026-01-01T03:00:00Z"


def test_a_window_does_not_wait_for_the_count_of_an_endpoint_that_is_gone() -> None:
    found = world()
    found.outcomes["agent-v1-dataset"] = TOO_FEW
    enough = found.objects["DraftedEndpoint", "agent"]["status"]["capture"]["requests"]
    found.objects["DraftedEndpoint", "agent"]["status"]["capture"]["requests"] = 10 * enough
    found.settle()
    assert conditions(found) == {"Succeeded": ("Unknown", "WaitingForRequests")}
    found.outcomes["agent-v1-dataset"] = build.dataset_outcome()
    found.objects["DraftedEndpoint", "agent"]["status"]["capture"]["requests"] = enough
    found.settle()
    assert conditions(found) == {"Succeeded": ("True", "Completed")}


def test_a_window_that_cannot_grow_fails() -> None:
    found = world(sources=log_source(minRequests=200, until="2026-01-01T01:30:00Z"))
    found.outcomes["agent-v1-dataset"] = TOO_FEW
    found.settle()
    assert conditions(found) == {"Succeeded": ("False", "TooFewRequests"), "Stalled": ("True", "TooFewRequests")}


def test_a_failed_job_of_an_older_generation_is_made_again() -> None:
    found = world()
    found.outcomes["agent-v1-dataset"] = build.refused("dataset", "StorageAccessDenied")
    found.settle()
    old = found.objects["Job", "agent-v1-dataset"]["metadata"]["uid"]
    found.edit("SpeculatorDataset", "agent-v1", lambda spec: spec.update(podTemplate={}))
    found.reconcile("SpeculatorDataset", "agent-v1")
    assert found.named("Job") == []
    found.reconcile("SpeculatorDataset", "agent-v1")
    assert found.objects["Job", "agent-v1-dataset"]["metadata"]["uid"] != old


@pytest.mark.parametrize("how", ["vanished", "ended unread"])
def test_a_job_that_said_nothing_is_made_again(how: str) -> None:
    found = world()
    found.settle()
    job = found.objects["Job", "agent-v1-dataset"]
    if how == "vanished":
        del found.objects["Job", "agent-v1-dataset"]
    else:
        job["status"] = {"conditions": [{"type": "Complete", "status": "True"}]}
    found.settle()
    assert found.objects["Job", "agent-v1-dataset"]["metadata"]["uid"] != job["metadata"]["uid"]
    assert conditions(found) == {"Succeeded": ("Unknown", "Queued")}


def pod(phase: str, **container: Any) -> Json:
    owner = {"uid": "job-1"}
    return {
        "metadata": {"name": "pod", "ownerReferences": [owner]},
        "status": {"phase": phase, "containerStatuses": [{"name": "main", **container}]},
    }


GAVE_UP = {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}
COMPLETE = {"type": "Complete", "status": "True"}
KILLED = {"state": {"terminated": {"reason": "OOMKilled"}}}


@pytest.mark.parametrize(
    ("job_conditions", "pods", "expected"),
    [
        pytest.param([], [], ("Unknown", "Queued"), id="no pod yet"),
        pytest.param([], [pod("Pending")], ("Unknown", "Queued"), id="pod pending"),
        pytest.param([], [pod("Running")], ("Unknown", "Running"), id="running"),
        pytest.param([COMPLETE], [pod("Running")], ("Unknown", "Running"), id="cache behind"),
        pytest.param([COMPLETE], [pod("Succeeded")], ("False", "JobFailed"), id="said nothing"),
        pytest.param([GAVE_UP], [pod("Failed")], ("False", "JobFailed"), id="gave up"),
        pytest.param([GAVE_UP], [pod("Failed", **KILLED)], ("False", "OutOfMemory"), id="out of memory"),
    ],
)
def test_what_a_job_without_a_word_means(
    job_conditions: list[Json], pods: list[Json], expected: tuple[str, str]
) -> None:
    job = {
        "metadata": {"name": "agent-v1-dataset", "uid": "job-1", "annotations": {"specop.dev/generation": "1"}},
        "status": {"conditions": job_conditions},
    }
    inputs = replace(observed(build.dataset(), agent()), children=Children(jobs=(job,), pods=tuple(pods)))
    assert summary(dataset.plan(inputs, build.at(0)).status)["Succeeded"] == expected


def test_a_job_whose_engine_does_not_come_up_says_so() -> None:
    crashed = {"name": "engine", "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "restartCount": 1}
    beside = pod("Running", state={"running": {}})
    beside["status"]["initContainerStatuses"] = [crashed]
    job = {"metadata": {"name": "agent-v1-dataset", "uid": "job-1"}}
    obj = build.dataset(regenerate={"engine": {}})
    inputs = replace(observed(obj, agent()), children=Children(jobs=(job,), pods=(beside,)))
    status = dataset.plan(inputs, build.at(0)).status
    assert summary(status)["Succeeded"] == ("Unknown", "Running")
    assert status is not None
    assert "container engine ends with exit code" in status["conditions"][0]["message"]


def test_a_result_of_another_kind_is_a_failure() -> None:
    found = world()
    found.outcomes["agent-v1-dataset"] = build.training_outcome()
    found.settle()
    assert conditions(found)["Succeeded"] == ("False", "JobFailed")


def test_an_object_on_its_way_out_is_left_alone() -> None:
    obj = build.dataset()
    gone = obj.model_copy(update={"metadata": obj.metadata.model_copy(update={"deletion_timestamp": "now"})})
    plan = dataset.plan(observed(gone, agent()), build.at(0))
    assert (plan.status, plan.creates) == (None, ())


ASKED = {"endpointRef": {"name": "asked"}, "targetNames": ["alias"]}
READY: Json = {
    "url": "http://asked.team-a.svc/v1",
    "conditions": [{"type": "Ready", "status": "True", "reason": "ServingBase"}],
}


@pytest.mark.parametrize(
    ("regenerate", "expected"),
    [
        (ASKED, {"url": READY["url"], "model": "asked", "targetNames": ["asked", "alias", "agent"]}),
        ({"url": "http://h/v1", "model": "m"}, {"url": "http://h/v1", "model": "m", "targetNames": ["m", "agent"]}),
        (
            {"engine": {}},
            {"url": "http://127.0.0.1:8000/v1", "model": "target", "targetNames": ["target", "agent"]},
        ),
    ],
)
def test_whom_to_ask_is_frozen_with_all_names_of_the_target(regenerate: Json, expected: Json) -> None:
    inputs = observed(build.dataset(regenerate=regenerate), agent())
    asked = build.endpoint("asked", status=READY)
    named = {**inputs.endpoints, **({"asked": asked} if "endpointRef" in regenerate else {})}
    plan = dataset.plan(replace(inputs, endpoints=named), build.at(0))
    assert plan.status is not None
    assert plan.status["resolved"]["regenerate"] == expected
