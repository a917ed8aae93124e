"""A job's estimate: made once with what is frozen, from its own pods' devices and from earlier runs of its lineage."""

from dataclasses import replace

import pytest

from specop.api.dataset import SpeculatorDataset
from specop.api.estimate import devices_of
from specop.api.shared import TargetSizes
from specop.api.training_job import Estimate, SpeculatorTrainingJob, TrainingStatus, TrainingSummary
from specop.domain import training_job
from specop.domain.estimate import measured_by
from specop.domain.observed import TrainingObserved
from tests.domain import build

SIZES = TargetSizes(intermediate_size=1536, num_heads=9, num_kv_heads=3, head_dim=64, weight_mib=257)


def dataset() -> SpeculatorDataset:
    made = build.finished_dataset()
    assert made.status.result
    counted = {"tokens": 100_000, "supervised_tokens": 40_000, "target": build.facts(sizes=SIZES)}
    result = made.status.result.model_copy(update=counted)
    return made.model_copy(update={"status": made.status.model_copy(update={"result": result})})


def finished(
    name: str, created: float = 0, *, gigaflops: int = 4000, devices: int = 2, **target: str
) -> SpeculatorTrainingJob:
    summary = TrainingSummary(steps=10, gigaflops=gigaflops, evaluation=build.evaluation("2.60"))
    spec = {"target": {"uri": target["uri"]}} if target else {}
    body = build.training(name, **spec)
    then = estimate().model_copy(update={"devices": devices, "device": "H100 (assumed)"})
    status = TrainingStatus(result=summary, contract=build.contract(), estimate=then)
    metadata = body.metadata.model_copy(
        update={"creation_timestamp": build.meta(name, created=created)["creationTimestamp"]}
    )
    return body.model_copy(update={"status": status, "metadata": metadata})


def observed(*others: SpeculatorTrainingJob, name: str = "agent-v2") -> TrainingObserved:
    return TrainingObserved(build.training(name), build.runtimes(), dataset=dataset(), others=others)


def estimate(*others: SpeculatorTrainingJob) -> Estimate:
    status = training_job.plan(observed(*others), build.at(0)).status
    assert status
    return Estimate.model_validate(status["estimate"])


def test_it_is_made_with_what_is_frozen_and_kept() -> None:
    inputs = observed()
    first = training_job.plan(inputs, build.at(0))
    assert first.status
    assert first.creates == ()
    made = Estimate.model_validate(first.status["estimate"])
    assert (made.devices, made.device, made.basis) == (1, "H100 (assumed)", "usual figures")
    frozen = inputs.obj.model_copy(update={"status": TrainingStatus.model_validate(first.status)})
    later = training_job.plan(replace(inputs, obj=frozen, others=(finished("agent-v1"),)), build.at(1))
    assert later.creates
    assert later.status
    assert later.status["estimate"] == first.status["estimate"]


def test_a_run_of_the_lineage_says_how_fast_and_how_good() -> None:
    found = estimate(finished("agent-v1"))
    assert found.basis == "measured by agent-v1"
    assert (found.acceptance_low, found.acceptance_high) == ("2.4", "2.8")
    assert found.device_hours != estimate().device_hours


@pytest.mark.parametrize(
    ("others", "name"),
    [
        ((finished("agent-v1", 1), finished("agent-v3", 5), finished("agent", 2)), "agent-v3"),
        ((finished("agents-v1"), finished("agent-v1", uri="s3://models/other")), None),
        ((finished("agent-v2"),), None),
        ((build.training("agent-v1"),), None),
    ],
    ids=["newest", "other lineage, other target", "itself", "unfinished"],
)
def test_which_run_counts(others: tuple[SpeculatorTrainingJob, ...], name: str | None) -> None:
    found = measured_by(build.training("agent-v2"), devices_of({"nvidia.com/gpu": "1"}, {}, 1), others)
    assert (found.name if found else None) == name


def test_speed_counts_a_device_and_only_of_the_same_kind() -> None:
    job, past = build.training("agent-v2"), (finished("agent-v1"),)
    same = measured_by(job, devices_of({"nvidia.com/gpu": "1"}, {}, 1), past)
    other = measured_by(job, devices_of({"cpu": "2"}, {}, 1), past)
    assert same
    assert other
    assert same.flops == 2000e9
    assert (other.flops, other.acceptance_length) == (None, 2.6)
