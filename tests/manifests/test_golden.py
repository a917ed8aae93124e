"""Every child object, whole, against a file that people review: `SPECOP_GOLDEN=update pytest …` rewrites it."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from specop.api.dataset import DatasetStatus
from specop.api.endpoint import DraftedEndpoint
from specop.api.shared import Json, PodTemplate
from specop.api.training_job import SpeculatorTrainingJob, TrainingStatus
from specop.domain import training_job as training_plan
from specop.domain.observed import TrainingObserved
from specop.manifests.job import dataset_job, inspect_drafter_job, inspect_target_job, rendezvous_service, training_job
from specop.manifests.serving import ArmSpec, default_images, deployment, scale, service
from tests.domain import build


class Plain(yaml.SafeDumper):
    """Writes what is shared in memory as often as it is used."""

    def ignore_aliases(self, data: object) -> bool:
        return True


GOLDEN = Path(__file__).parent.parent / "golden"
RUNTIMES = build.runtimes()
TEMPLATE = {
    "nodeSelector": {"gpu": "h200"},
    "tolerations": [{"key": "gpu", "operator": "Exists"}],
    "labels": {"team": "a", "specop.dev/arm": "not-yours"},
    "env": [{"name": "NCCL_DEBUG", "value": "WARN"}],
    "resources": {"limits": {"nvidia.com/gpu": "2"}},
    "priorityClassName": "low",
}
CA = {"caBundleRef": {"name": "corporate.ca"}}


def dataset(**regenerate: Any) -> Json:
    resolved = {
        "output": "s3://team-a/specop",
        "image": "specop/data:1",
        "windows": [
            {
                "source": "logs",
                "since": "2026-01-01T01:00:00Z",
                "until": "2026-01-01T02:00:00Z",
                "prefix": "s3://team-a/captured/team-a/agent",
            }
        ],
        "regenerate": {"url": "http://asked.team-a.svc/v1", "model": "asked", "targetNames": ["asked", "agent"]},
        "datasets": [
            {
                "source": "before",
                "name": "seeds",
                "uri": "s3://team-a/specop/datasets/d/manifest.json",
                "digest": build.sha("data"),
            }
        ],
    }
    obj = build.mixed_dataset(
        storage={**CA, "credentials": {"serviceAccountName": "reader"}},
        regenerate=regenerate
        or {"url": "http://asked.team-a.svc/v1", "model": "asked", "keySecretRef": {"name": "asked"}},
    )
    status = DatasetStatus.model_validate({"resolved": resolved})
    return dataset_job(obj.model_copy(update={"status": status}), RUNTIMES)


def dataset_with_engine() -> Json:
    return dataset(engine={"args": ["--enforce-eager"], "resources": {"limits": {"nvidia.com/gpu": "1"}}})


def training() -> Json:
    obj = build.training(queueName="gpus", podTemplate=TEMPLATE, backoffLimit=5)
    status = training_plan.plan(TrainingObserved(obj, RUNTIMES, dataset=build.finished_dataset()), build.at(0)).status
    stored = obj.model_copy(update={"status": TrainingStatus.model_validate(status)})
    return training_job(stored, RUNTIMES, PodTemplate(runtime_class_name="nvidia"))


def several(**parallelism: Any) -> SpeculatorTrainingJob:
    obj = build.training(parallelism=parallelism, stateCache="200Gi")
    status = training_plan.plan(TrainingObserved(obj, RUNTIMES, dataset=build.finished_dataset()), build.at(0)).status
    return obj.model_copy(update={"status": TrainingStatus.model_validate(status)})


def training_nodes() -> Json:
    return training_job(several(nodes=2, processesPerNode=8, sharding="Full"), RUNTIMES, None)


def rendezvous() -> Json:
    return rendezvous_service(several(nodes=2))


def endpoint(**spec: Any) -> DraftedEndpoint:
    given = {"drafter": build.asks_for(), "podTemplate": TEMPLATE, "engine": {"args": ["--enforce-eager"]}, **spec}
    return build.endpoint(**given)


def arm(*, drafted: bool = False, **spec: Any) -> Json:
    obj = endpoint(**spec)
    made = ArmSpec(build.weights("agent-v1"), build.contract()) if drafted else ArmSpec()
    return deployment(obj, RUNTIMES, made, default_images(obj, RUNTIMES))


CASES: dict[str, Callable[[], Json]] = {
    "job-dataset": dataset,
    "job-dataset-engine": dataset_with_engine,
    "job-training": training,
    "job-training-nodes": training_nodes,
    "service-rendezvous": rendezvous,
    "job-inspect": lambda: inspect_drafter_job(build.drafter("mine"), RUNTIMES, "s3://team-a/specop"),
    "job-target": lambda: inspect_target_job(endpoint(), RUNTIMES, "s3://team-a/specop"),
    "deployment-base": arm,
    "deployment-drafted": lambda: arm(drafted=True, capture={"uri": "s3://team-a/captured", "retentionDays": 30}),
    "deployment-in-place": lambda: arm(capture=None, podTemplate=None, rollout={"surge": "Never"}),
    "service": lambda: service(endpoint()),
    "scale": lambda: scale(endpoint(), "base", 3),
}


@pytest.mark.parametrize("name", sorted(CASES))
def test_golden(name: str) -> None:
    path = GOLDEN / f"{name}.yaml"
    body = CASES[name]()
    if os.environ.get("SPECOP_GOLDEN") == "update":
        path.write_text(yaml.dump(body, Dumper=Plain, sort_keys=True, width=120))
    assert yaml.safe_load(path.read_text()) == body


def test_no_golden_file_is_left_over() -> None:
    assert sorted(path.stem for path in GOLDEN.glob("*.yaml")) == sorted(CASES)
