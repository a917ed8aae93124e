from collections.abc import Callable
from typing import Any

import pytest

from specop.api.contradictions import without_effect
from specop.api.drafter import DrafterSpec
from specop.api.endpoint import DrafterPolicy
from specop.api.hyperparameters import Hyperparameters
from specop.api.preset import DEFAULTS
from specop.api.training_job import SpeculatorTrainingJob
from specop.cli import retrain
from specop.cli.errors import CliError
from specop.cli.loop import Loop
from tests.cli.objects import RECIPE, TARGET, TWO, dataset, drafter, endpoint, job


def make(since: str | None = None, min_requests: int | None = None, **changes: Any) -> retrain.Generation:
    followed = changes.pop("endpoint", None) or endpoint()
    parts: dict[str, Any] = {
        "datasets": [dataset("agent-v1")],
        "jobs": [job("agent-v1")],
        "drafters": [drafter("agent-v1")],
    }
    loop = Loop("team-a", **{**parts, **changes})
    return retrain.next_generation(followed, loop, since=since, min_requests=min_requests)


EVERYTHING: dict[str, Any] = {
    "repeat": 1,
    "filter": {"models": [], "statuses": [], "routes": [], "tenants": []},
    "excludePeriods": [],
}


def test_the_recipe_is_repeated_over_newer_traffic() -> None:
    made = make()
    assert made.dataset == {
        "apiVersion": "specop.dev/v1alpha1",
        "kind": "SpeculatorDataset",
        "metadata": {"name": "agent-v2"},
        "spec": {
            "target": TARGET,
            "sources": [
                {
                    "name": "logs",
                    "weight": 3,
                    "requestLog": {
                        "endpointRef": {"name": "agent"},
                        "since": "2026-01-01T01:00:00Z",
                        "minRequests": 100,
                    },
                    **EVERYTHING,
                },
                {
                    "name": "seeds",
                    "weight": 1,
                    "objects": {"uri": "s3://seeds/*.jsonl", "format": "Auto"},
                    **EVERYTHING,
                },
            ],
            "consent": {"noTrainFields": []},
            "privacy": {"action": "Mask", "entities": [], "patterns": [], "allow": []},
            "quality": {
                "truncatedAnswers": "Keep",
                "minAnswerCharacters": 1,
                "nearDuplicates": {"action": "Report"},
                "languages": [],
            },
            "engine": {},
            "holdout": {"percent": 10, "maxConversations": 1000},
            "transform": {"maxLength": 8192, "maxBadPercent": 5},
            "suspend": False,
        },
    }
    assert made.job == {
        "apiVersion": "specop.dev/v1alpha1",
        "kind": "SpeculatorTrainingJob",
        "metadata": {"name": "agent-v2"},
        "spec": {
            "target": TARGET,
            "datasetRef": {"name": "agent-v2"},
            "preset": "balanced",
            "hyperparameters": RECIPE,
            "warmStart": {"drafterRef": {"name": "agent-v1"}},
            "backoffLimit": 3,
            "suspend": False,
        },
    }


def test_of_a_complete_recipe_only_what_a_run_reads_is_repeated() -> None:
    body = job("agent-v1").to_json()
    body["status"]["resolved"]["hyperparameters"] = DEFAULTS.to_json()
    made = make(jobs=[SpeculatorTrainingJob.model_validate(body)]).job["spec"]["hyperparameters"]
    assert DEFAULTS.to_json() == {**made, "lkEta": "3", "decayPercent": 20, "draftVocabSize": 32_000}
    assert without_effect(Hyperparameters.model_validate(made), DEFAULTS) is None


def test_the_window_is_the_users_choice() -> None:
    made = make(since="2026-01-05T00:00:00Z", min_requests=7)
    assert made.dataset["spec"]["sources"][0]["requestLog"] == {
        "endpointRef": {"name": "agent"},
        "since": "2026-01-05T00:00:00Z",
        "minRequests": 7,
    }


def started_from(parent: str) -> dict[str, Any]:
    return {"warmStart": {"drafterRef": {"name": parent}}}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        pytest.param(["agent-v1"], "agent-v2", id="the next"),
        pytest.param(["agent-v1", "agent-v9", "agent-v10"], "agent-v11", id="by number, not by letters"),
        pytest.param(["agent-v1", "agents-v7"], "agent-v2", id="another root does not count"),
    ],
)
def test_names_count_up(names: list[str], expected: str) -> None:
    made = make(datasets=[dataset(name) for name in names])
    assert made.job["metadata"]["name"] == expected


def test_the_newest_of_the_lineage_is_the_start() -> None:
    names = ["agent-v1", "agent-v2"]
    made = make(
        datasets=[dataset(name) for name in names],
        jobs=[job("agent-v1"), job("agent-v2", **started_from("agent-v1"))],
        drafters=[drafter("agent-v1"), drafter("agent-v2", TWO, parent="agent-v1")],
    )
    assert made.job["metadata"]["name"] == "agent-v3"
    assert made.job["spec"]["warmStart"] == {"drafterRef": {"name": "agent-v2"}}


def test_what_is_not_of_the_lineage_is_not_the_start() -> None:
    made = make(
        datasets=[dataset("agent-v1")],
        jobs=[job("agent-v1"), job("agent-v2", "running")],
        drafters=[drafter("agent-v1"), drafter("agent-v2", TWO)],
    )
    assert made.job["metadata"]["name"] == "agent-v3"
    assert made.job["spec"]["warmStart"] == {"drafterRef": {"name": "agent-v1"}}


def test_a_failed_generation_is_not_the_start_but_its_name_is_taken() -> None:
    failed = job("agent-v2", "failed", **started_from("agent-v1"))
    made = make(datasets=[dataset("agent-v1"), dataset("agent-v2")], jobs=[job("agent-v1"), failed])
    assert made.job["metadata"]["name"] == "agent-v3"
    assert made.job["spec"]["warmStart"] == {"drafterRef": {"name": "agent-v1"}}


SEEDS = [{"name": "seeds", "objects": {"uri": "s3://seeds/*.jsonl"}}]
IMPORTING = endpoint().spec.model_copy(
    update={"drafter": DrafterPolicy.model_validate({"from": {"drafterRef": {"name": "other"}}})}
)
IMPORTED = drafter("other").model_copy(
    update={"spec": DrafterSpec.model_validate({"target": TARGET, "weights": {"uri": "s3://o/d"}})}
)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param(
            lambda: {"endpoint": endpoint(asks=False)},
            r"endpoint agent follows no training job: set spec\.drafter\.from\.trainingJobRef",
            id="no lineage",
        ),
        pytest.param(
            lambda: {"jobs": []},
            "the training job agent-v1 of drafter agent-v1 is gone: no recipe to repeat",
            id="no job",
        ),
        pytest.param(
            lambda: {"jobs": [job("agent-v1"), job("agent-v2", "running", **started_from("agent-v1"))]},
            "training job agent-v2 has not ended: one run of a lineage at a time",
            id="one at a time",
        ),
        pytest.param(
            lambda: {"jobs": [job("agent-v1", "new")]}, "training job agent-v1 has not ended", id="nothing said yet"
        ),
        pytest.param(lambda: {"datasets": []}, "the dataset agent-v1 of job agent-v1 is gone", id="no dataset"),
        pytest.param(
            lambda: {"drafters": []},
            "no drafter that endpoint agent follows is ready: nothing to start from",
            id="no start",
        ),
        pytest.param(
            lambda: {"endpoint": endpoint().model_copy(update={"spec": IMPORTING}), "drafters": [IMPORTED]},
            "drafter other was imported: there is no recipe to repeat",
            id="imported",
        ),
        pytest.param(
            lambda: {"datasets": [dataset("agent-v1", sources=SEEDS)]},
            "has no source requestLog: newer traffic would change nothing",
            id="no traffic",
        ),
        pytest.param(
            lambda: {"datasets": [dataset("agent-v1", done=False)]},
            "has not settled the window of source logs: set --since",
            id="no window",
        ),
    ],
)
def test_what_cannot_be_repeated(changes: Callable[[], dict[str, Any]], message: str) -> None:
    with pytest.raises(CliError, match=message):
        make(**changes())


def test_uploaded_files_are_read_where_they_lie() -> None:
    log = {"name": "logs", "requestLog": {"endpointRef": {"name": "agent"}, "lastSeconds": 3600}}
    last = dataset("agent-v1", sources=[log, {"name": "mine", "upload": {"format": "ShareGPT"}}])
    body = retrain._dataset("agent-v2", last, None, None)
    mine = body["spec"]["sources"][1]
    assert mine["objects"] == {"uri": "s3://o/uploads/team-a/agent-v1/*", "format": "ShareGPT"}
    assert "upload" not in mine
