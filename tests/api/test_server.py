"""The rest of what the API server does with our kinds: columns, scale, status, short names."""

import pytest

from specop.api.kinds import KINDS
from specop.api.training_job import TrainingStatus
from tests.api.conftest import Api, Refused
from tests.api.manifests import DIGEST, TARGET_FACTS, Manifest, edited, full, loop

pytestmark = pytest.mark.control_plane

TABLE = "application/json;as=Table;g=meta.k8s.io;v=v1"
DATASET, JOB, DRAFTER, ENDPOINT, PRESET = (kind.model.KIND for kind in KINDS)
HASH = {"digest": DIGEST, "uri": "s3://team-a/specop/drafters/0123/manifest.json"}


def condition(kind: str, status: str, reason: str) -> Manifest:
    return {"type": kind, "status": status, "reason": reason, "message": "", "lastTransitionTime": ""}


STATUS = {
    DATASET: {
        "conditions": [condition("Stalled", "False", "Completed"), condition("Succeeded", "True", "Completed")],
        "result": {**HASH, "rows": 310, "tokens": 48_211, "target": TARGET_FACTS},
        "shortDigest": "0123456789ab",
    },
    JOB: {
        "conditions": [condition("Succeeded", "Unknown", "Running")],
        "progress": {
            "stage": "training",
            "step": 412,
            "totalSteps": 800,
            "acceptanceLength": "2.31",
            "loss": "1.2034",
            "tokensPerSecond": 2310,
            "mfuPercent": 41,
            "memoryMib": 1024,
            "etaSeconds": 3723,
            "eta": "1h02m",
        },
        "drafter": {**HASH, "name": "agent-v1"},
    },
    DRAFTER: {
        "conditions": [condition("Ready", "True", "Available")],
        "evaluation": {"acceptanceLength": "2.89"},
        "shortDigest": "0123456789ab",
        "approvedBy": "ana",
    },
    ENDPOINT: {
        "conditions": [condition("Ready", "True", "ServingDrafter")],
        "replicas": 2,
        "selector": "specop.dev/name=agent",
        "drafter": {"candidate": {**HASH, "name": "agent-v2", "state": "AwaitingApproval"}},
        "measured": {"acceptanceLength": "2.88", "tokensPerSecond": "51.8"},
    },
}

ROWS = {
    DATASET: {"Succeeded": "True", "Reason": "Completed", "Rows": 310, "Tokens": 48211, "Digest": "0123456789ab"},
    JOB: {
        "Succeeded": "Unknown",
        "Reason": "Running",
        "Step": 412,
        "AcceptLen": "2.31",
        "Drafter": "agent-v1",
        "Steps": 800,
        "Tok/s": 2310,
        "MFU%": 41,
        "MemMiB": 1024,
        "Loss": "1.2034",
        "ETA": "1h02m",
    },
    DRAFTER: {
        "Ready": "True",
        "Target": "s3://models/base",
        "AcceptLen": "2.89",
        "Digest": "0123456789ab",
        "ApprovedBy": "ana",
    },
    ENDPOINT: {
        "Ready": "True",
        "Reason": "ServingDrafter",
        "Drafter": None,
        "AcceptLen": "2.88",
        "Tok/s": "51.8",
        "Candidate": "agent-v2",
    },
}

WIDE = {JOB: {"Steps", "Tok/s", "MFU%", "MemMiB", "Loss", "ETA"}}
"""Columns that only `-o wide` shows."""


@pytest.mark.parametrize("kind", STATUS)
def test_columns_tell_the_story(api: Api, kind: str) -> None:
    created = api.create(edited({**full(), **loop()}[kind], {"metadata.name": "columns"}), keep=True)
    try:
        api.replace({**created, "status": {"observedGeneration": 1, **STATUS[kind]}}, keep=True, subresource="/status")
        table = api.get(f"{api.path(kind)}/columns", TABLE)
        names = [column["name"] for column in table["columnDefinitions"]]
        row = dict(zip(names, table["rows"][0]["cells"], strict=True))
        assert names == ["Name", *ROWS[kind], "Age"]
        assert {column["name"] for column in table["columnDefinitions"] if column["priority"]} == WIDE.get(kind, set())
        assert {name: row[name] for name in ROWS[kind]} == ROWS[kind]
    finally:
        api.delete(created)


def test_an_autoscaler_can_scale_an_endpoint(api: Api) -> None:
    created = api.create(edited(loop()[ENDPOINT], {"metadata.name": "scaled"}), keep=True)
    path = f"{api.path(ENDPOINT)}/scaled/scale"
    try:
        status = {"observedGeneration": 1, "replicas": 1, "selector": "specop.dev/name=scaled"}
        api.replace({**created, "status": status}, keep=True, subresource="/status")
        scale = api.get(path)
        assert scale["spec"] == {"replicas": 1}
        assert scale["status"] == {"replicas": 1, "selector": "specop.dev/name=scaled"}
        scale["spec"]["replicas"] = 3
        api.put(path, scale)
        assert api.get(f"{api.path(ENDPOINT)}/scaled")["spec"]["replicas"] == 3
    finally:
        api.delete(created)


def test_status_and_spec_are_written_apart(api: Api) -> None:
    created = api.create(edited(loop()[JOB], {"metadata.name": "apart"}), keep=True)
    try:
        both = edited(created, {"spec.suspend": True, "status.progress.step": 3})
        assert api.replace(both)["status"] == {"observedGeneration": -1}
        stored = api.replace(both, subresource="/status")
        assert stored["spec"]["suspend"] is False
        assert stored["status"]["progress"] == {"step": 3}
    finally:
        api.delete(created)


def test_rules_for_users_never_refuse_the_status_that_the_operator_writes(api: Api) -> None:
    created = api.create(edited(loop()[JOB], {"metadata.name": "odd"}), keep=True)
    resolved = {
        "output": "s3://team-a/specop",
        "preset": "balanced",
        "hyperparameters": {"learningRate": "0", "loss": [{"name": "KL", "weight": "0"}]},
        "datasetDigest": DIGEST,
        "datasetUri": HASH["uri"],
    }
    status = TrainingStatus.model_validate({"observedGeneration": 1, "resolved": resolved}).to_json()
    try:
        stored = api.replace({**created, "status": status}, subresource="/status")
        assert stored["status"]["resolved"]["hyperparameters"]["learningRate"] == "0"
    finally:
        api.delete(created)


def test_a_status_of_another_shape_is_refused(api: Api) -> None:
    created = api.create(edited(loop()[JOB], {"metadata.name": "shape"}), keep=True)
    try:
        with pytest.raises(Refused, match=r"progress\.step in body must be of type integer"):
            api.replace(edited(created, {"status.progress.step": "3"}), subresource="/status")
    finally:
        api.delete(created)


def test_discovery_names(api: Api) -> None:
    found = api.get("/apis/specop.dev/v1alpha1")["resources"]
    names = {
        entry["kind"]: (entry["shortNames"], entry["categories"], entry["namespaced"])
        for entry in found
        if "shortNames" in entry
    }
    assert names == {
        DATASET: (["sds"], ["specop"], True),
        JOB: (["stj"], ["specop"], True),
        DRAFTER: (["dr"], ["specop"], True),
        ENDPOINT: (["dre"], ["specop"], True),
        PRESET: (["spr"], ["specop"], False),
    }
