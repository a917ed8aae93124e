from collections.abc import Callable
from typing import Any

import pytest

from specop.cli import retrain
from specop.cli.errors import CliError
from tests.cli.objects import RECIPE, TARGET, dataset, drafter, endpoint, job


def make(**changes: Any) -> retrain.Generation:
    loop: dict[str, Any] = {
        "endpoint": endpoint(),
        "datasets": [dataset("agent-v1")],
        "jobs": [job("agent-v1")],
        "drafters": [drafter("agent-v1")],
    }
    return retrain.next_generation(**{**loop, **changes})


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
                },
                {"name": "seeds", "weight": 1, "objects": {"uri": "s3://seeds/*.jsonl", "format": "Auto"}},
            ],
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


def test_the_window_is_the_users_choice() -> None:
    made = make(since="2026-01-05T00:00:00Z", min_requests=7)
    assert made.dataset["spec"]["sources"][0]["requestLog"] == {
        "endpointRef": {"name": "agent"},
        "since": "2026-01-05T00:00:00Z",
        "minRequests": 7,
    }


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        pytest.param(["agent-v1", "agent-v2"], "agent-v3", id="the next"),
        pytest.param(["agent-v1", "agent-v9", "agent-v10"], "agent-v11", id="by number, not by letters"),
        pytest.param(["agent-v1", "agents-v7"], "agent-v2", id="another lineage does not count"),
    ],
)
def test_names_count_up(names: list[str], expected: str) -> None:
    made = make(
        datasets=[dataset(name) for name in names],
        jobs=[job(name) for name in names],
        drafters=[drafter(name) for name in names],
    )
    assert made.job["metadata"]["name"] == expected


def test_a_failed_generation_is_not_the_start_but_its_name_is_taken() -> None:
    made = make(datasets=[dataset("agent-v1"), dataset("agent-v2")], jobs=[job("agent-v1"), job("agent-v2", "failed")])
    assert made.job["metadata"]["name"] == "agent-v3"
    assert made.job["spec"]["warmStart"] == {"drafterRef": {"name": "agent-v1"}}


SEEDS = [{"name": "seeds", "objects": {"uri": "s3://seeds/*.jsonl"}}]
IMPORTED = {"target": TARGET, "weights": {"uri": "s3://o/d"}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param(
            lambda: {"endpoint": endpoint(asks=False)},
            r"endpoint agent follows no training job: set spec\.drafter\.from\.trainingJobRef",
            id="no lineage",
        ),
        pytest.param(
            lambda: {"jobs": []}, "no training job of the lineage agent exists: apply the first one", id="no job"
        ),
        pytest.param(
            lambda: {"jobs": [job("agent-v1"), job("agent-v2", "running")]},
            "training job agent-v2 has not ended: one run of a lineage at a time",
            id="one at a time",
        ),
        pytest.param(
            lambda: {"jobs": [job("agent-v1", "new")]}, "training job agent-v1 has not ended", id="nothing said yet"
        ),
        pytest.param(
            lambda: {"jobs": [job("agent-v1", "failed")]},
            "no training job of the lineage agent has made a drafter yet",
            id="only failures",
        ),
        pytest.param(lambda: {"datasets": []}, "the dataset agent-v1 of job agent-v1 is gone", id="no dataset"),
        pytest.param(
            lambda: {"drafters": []}, "the drafter of job agent-v1 is gone: nothing to start from", id="no start"
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
