"""SpeculatorTrainingJob: the waits, what is frozen, suspending, and the Drafter at the end."""

from dataclasses import replace
from typing import Any

import pytest

from specop.api.dataset import SpeculatorDataset
from specop.api.preset import DEFAULTS, SpeculatorPreset
from specop.api.shared import Json
from specop.api.training_job import SpeculatorTrainingJob
from specop.domain import training_job
from specop.domain.observed import TrainingObserved
from specop.domain.plan import Apply
from tests.domain import build
from tests.domain.world import World

FAILED = {"type": "Succeeded", "status": "False", "reason": "NoUsableRows", "message": "none"}
WARM = {"warmStart": {"drafterRef": {"name": "agent-v0"}}}


def observed(obj: SpeculatorTrainingJob, *, output: str | None = "s3://out/here", **more: Any) -> TrainingObserved:
    given = {"dataset": build.finished_dataset(), **more}
    return TrainingObserved(obj, build.runtimes(output=output), **given)


def preset(name: str = "house", **spec: Any) -> SpeculatorPreset:
    return SpeculatorPreset.model_validate({"metadata": {"name": name, "uid": "p"}, "spec": spec})


WAITS = [
    pytest.param(observed(build.training(), output=None), "NoOutputStorage", True, id="no output"),
    pytest.param(observed(build.training(preset="house")), "PresetNotFound", True, id="no preset"),
    pytest.param(observed(build.training(), dataset=None), "WaitingForDataset", False, id="no dataset"),
    pytest.param(observed(build.training(), dataset=build.dataset()), "WaitingForDataset", False, id="new dataset"),
    pytest.param(
        observed(build.training(), dataset=build.dataset(status={"conditions": [FAILED]})),
        "DatasetFailed",
        True,
        id="failed dataset",
    ),
    pytest.param(observed(build.training(**WARM)), "WaitingForDrafter", False, id="no parent"),
    pytest.param(
        observed(build.training(**WARM), parent=build.drafter("agent-v0", digest=None)),
        "WaitingForDrafter",
        False,
        id="parent not ready",
    ),
    pytest.param(
        observed(build.training(hyperparameters={"draftVocabSize": 8192}, **WARM), parent=build.drafter("agent-v0")),
        "WarmStartMismatch",
        True,
        id="another draft vocabulary",
    ),
]


@pytest.mark.parametrize(("inputs", "reason", "stalled"), WAITS)
def test_waits(inputs: TrainingObserved, reason: str, stalled: bool) -> None:
    plan = training_job.plan(inputs, build.at(0))
    assert plan.status is not None
    found = {c["type"]: (c["status"], c["reason"]) for c in plan.status["conditions"]}
    assert found == {"Succeeded": ("Unknown", reason), **({"Stalled": ("True", reason)} if stalled else {})}
    assert (plan.creates, plan.applies, plan.deletes) == ((), (), ())


def told(conditions: list[Json]) -> dict[str, tuple[str, str, str]]:
    return {c["type"]: (c["status"], c["reason"], c["message"]) for c in conditions}


@pytest.mark.parametrize(
    ("hyperparameters", "house", "words"),
    [
        ({"earlyStopEvaluations": 500}, {}, "spec.hyperparameters.earlyStopEvaluations must be less than evaluations"),
        ({"evaluations": 3}, {"earlyStopEvaluations": 4}, "spec.hyperparameters.earlyStopEvaluations must be less"),
        ({"scheduler": "WSD", "warmupPercent": 90}, {}, "spec.hyperparameters.decayPercent with warmupPercent (90)"),
        ({"decayPercent": 30}, {}, "spec.hyperparameters.decayPercent is read by scheduler WSD alone"),
        ({"lkEta": "2"}, {}, "spec.hyperparameters.lkEta is read by the loss LKHybrid alone"),
    ],
)
def test_a_contradiction_of_spec_preset_and_defaults_stalls_before_a_job_is_made(
    hyperparameters: Json, house: Json, words: str
) -> None:
    job = build.training(preset="house", hyperparameters=hyperparameters)
    plan = training_job.plan(observed(job, preset=preset(hyperparameters=house)), build.at(0))
    assert plan.status is not None
    found = told(plan.status["conditions"])
    assert found["Stalled"][:2] == ("True", "HyperparametersInvalid")
    assert found["Succeeded"][:2] == ("Unknown", "HyperparametersInvalid")
    assert words in found["Stalled"][2]
    assert "resolved" not in plan.status
    assert plan.creates == ()


def test_what_the_preset_makes_read_is_no_contradiction() -> None:
    hybrid = preset(hyperparameters={"loss": [{"name": "LKHybrid"}], "scheduler": "WSD"})
    job = build.training(preset="house", hyperparameters={"lkEta": "2", "decayPercent": 30})
    assert resolved(observed(job, preset=hybrid))["hyperparameters"]["lkEta"] == "2"


def test_a_loss_for_sampled_drafts_is_trained_for_greedy_ones_with_a_warning() -> None:
    hybrid = {"loss": [{"name": "LKHybrid"}]}
    found = world(hyperparameters=hybrid)
    found.settle()
    assert conditions(found) == {
        "Succeeded": ("Unknown", "Queued"),
        "RecipeSound": ("False", "LossUnlikeServing"),
    }
    sampled = world(hyperparameters={**hybrid, "draftSampleMethod": "Probabilistic"})
    sampled.settle()
    assert conditions(sampled) == {"Succeeded": ("Unknown", "Queued")}


def resolved(inputs: TrainingObserved) -> Json:
    status = training_job.plan(inputs, build.at(0)).status
    assert status is not None
    found: Json = status["resolved"]
    return found


def test_everything_is_frozen_before_the_job() -> None:
    parent = build.drafter("agent-v0")
    found = resolved(observed(build.training(hyperparameters={"epochs": 7}, **WARM), parent=parent))
    expected = {**DEFAULTS.to_json(), "epochs": 7, "evaluations": 14, "draftVocabSize": 4096}
    assert found["hyperparameters"] == expected
    assert {"name": "epochs", "source": "spec"} in found["setBy"]
    assert {"name": "seed", "source": "default"} in found["setBy"]
    assert {"name": "draftVocabSize", "source": "warmStart"} in found["setBy"]
    assert {key: found[key] for key in ("output", "image", "preset", "datasetDigest", "warmStart")} == {
        "output": "s3://out/here",
        "image": "specop/trainer:1",
        "preset": "balanced",
        "datasetDigest": build.sha("data"),
        "warmStart": {"name": "agent-v0", **build.weights("agent-v0").to_json()},
    }


def test_the_parents_draft_vocabulary_goes_before_the_presets_and_may_be_set() -> None:
    parent, house = build.drafter("agent-v0"), preset(hyperparameters={"draftVocabSize": 8192})
    found = resolved(observed(build.training(preset="house", **WARM), parent=parent, preset=house))
    assert found["hyperparameters"]["draftVocabSize"] == 4096
    same = build.training(hyperparameters={"draftVocabSize": 4096}, **WARM)
    assert resolved(observed(same, parent=parent))["hyperparameters"]["draftVocabSize"] == 4096


@pytest.mark.parametrize(
    ("name", "objects", "epochs"),
    [
        pytest.param("quality", None, 10, id="built in"),
        pytest.param("house", preset(hyperparameters={"epochs": 5}), 5, id="administrator's"),
        pytest.param("quality", preset("quality", hyperparameters={"epochs": 6}), 6, id="administrator's goes first"),
    ],
)
def test_presets(name: str, objects: SpeculatorPreset | None, epochs: int) -> None:
    found = resolved(observed(build.training(preset=name), preset=objects))
    assert found["hyperparameters"]["epochs"] == epochs
    assert {"name": "epochs", "source": f"preset/{name}"} in found["setBy"]


def test_the_presets_pod_patch_fills_what_the_job_leaves_open() -> None:
    template = {"nodeSelector": {"gpu": "h200"}, "priorityClassName": "low"}
    inputs = observed(
        build.training(preset="house", podTemplate={"priorityClassName": "high"}), preset=preset(podTemplate=template)
    )
    status = training_job.plan(inputs, build.at(0)).status
    stored = build.training(preset="house", podTemplate={"priorityClassName": "high"}, status=status)
    (create,) = training_job.plan(replace(inputs, obj=stored), build.at(1)).creates
    spec = create.body["spec"]["template"]["spec"]
    assert (spec["nodeSelector"], spec["priorityClassName"]) == ({"gpu": "h200"}, "high")


def world(**spec: Any) -> World:
    found = World()
    found.put(build.finished_dataset())
    found.put(build.training(**spec))
    return found


def conditions(found: World) -> dict[str, tuple[str, str]]:
    return {c.type: (c.status, c.reason) for c in found.get("SpeculatorTrainingJob", "agent-v1").status.conditions}


def test_makes_a_drafter_without_an_owner_and_concludes_when_it_is_there() -> None:
    found = world()
    found.settle()
    assert conditions(found) == {"Succeeded": ("Unknown", "Queued")}
    found.outcomes["agent-v1-training"] = build.training_outcome()
    found.settle()
    made = found.objects["Drafter", "agent-v1"]
    assert "ownerReferences" not in made["metadata"]
    assert made["spec"] == {
        "target": {"uri": build.TARGET_URI},
        "weights": build.weights("agent-v1").to_json(),
        "lineage": {
            "trainingJob": {"name": "agent-v1", "uid": "uid-agent-v1"},
            "dataset": {"name": "agent-v1", "uid": "uid-agent-v1", "digest": build.sha("data")},
        },
    }
    status = found.get("SpeculatorTrainingJob", "agent-v1").status
    assert conditions(found) == {"Succeeded": ("True", "Completed")}
    assert (status.drafter.digest, status.contract, status.result.steps) == (
        build.sha("agent-v1"),
        build.contract(),
        100,
    )
    drafter = found.get("Drafter", "agent-v1")
    assert (drafter.status.digest, drafter.status.contract, drafter.status.evaluation) == (
        build.sha("agent-v1"),
        build.contract(),
        build.evaluation(),
    )
    del found.objects["Drafter", "agent-v1"]
    found.settle()
    assert found.named("Drafter") == [], "a drafter that a person deleted stays deleted"


def test_the_drafter_is_made_from_status_when_the_job_is_gone() -> None:
    found = world()
    found.outcomes["agent-v1-training"] = build.training_outcome()
    while found.get("SpeculatorTrainingJob", "agent-v1").status.drafter is None:
        found.reconcile("SpeculatorTrainingJob", "agent-v1")
        found.live()
    del found.objects["Job", "agent-v1-training"], found.objects["Drafter", "agent-v1"]
    found.settle()
    assert conditions(found) == {"Succeeded": ("True", "Completed")}
    assert found.named("Job") == []


def test_a_name_taken_by_another_drafter() -> None:
    found = world()
    found.put(build.drafter("agent-v1", job=None))
    found.outcomes["agent-v1-training"] = build.training_outcome()
    found.settle()
    assert conditions(found) == {"Succeeded": ("Unknown", "DrafterNameTaken"), "Stalled": ("True", "DrafterNameTaken")}
    del found.objects["Drafter", "agent-v1"]
    found.settle()
    assert conditions(found) == {"Succeeded": ("True", "Completed")}


def test_lineage_names_the_parent() -> None:
    found = world(**WARM)
    found.put(build.drafter("agent-v0"))
    found.outcomes["agent-v1-training"] = build.training_outcome()
    found.settle()
    parent = found.get("Drafter", "agent-v1").spec.lineage.parent
    assert (parent.name, parent.uid, parent.digest) == ("agent-v0", "uid-agent-v0", build.sha("agent-v0"))


def test_suspend_is_one_field_of_its_own() -> None:
    found = world()
    found.settle()
    found.edit("SpeculatorTrainingJob", "agent-v1", lambda spec: spec.update(suspend=True))
    (apply,) = found.plan("SpeculatorTrainingJob", "agent-v1").applies
    uid = found.objects["Job", "agent-v1-training"]["metadata"]["uid"]
    metadata = {"name": "agent-v1-training", "namespace": "team-a", "uid": uid}
    body = {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": {"suspend": True}}
    assert apply == Apply(body, manager="specop/suspend")
    found.settle()
    assert conditions(found) == {"Succeeded": ("Unknown", "Suspended")}
    found.edit("SpeculatorTrainingJob", "agent-v1", lambda spec: spec.update(suspend=False))
    found.settle()
    assert conditions(found) == {"Succeeded": ("Unknown", "Queued")}


def test_a_queue_decides_over_suspend() -> None:
    found = world(queueName="gpus")
    found.settle()
    job = found.objects["Job", "agent-v1-training"]
    assert (job["spec"]["suspend"], job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]) == (True, "gpus")
    assert conditions(found) == {"Succeeded": ("Unknown", "Queued")}
    job["spec"]["suspend"] = False
    found.settle()
    assert found.objects["Job", "agent-v1-training"]["spec"]["suspend"] is False


def test_a_failed_run_is_final_until_the_object_changes() -> None:
    found = world()
    found.outcomes["agent-v1-training"] = build.refused("training", "TrainingDiverged", "loss is not a number")
    found.settle()
    assert conditions(found) == {"Succeeded": ("False", "TrainingDiverged"), "Stalled": ("True", "TrainingDiverged")}
    found.outcomes["agent-v1-training"] = build.training_outcome()
    found.edit("SpeculatorTrainingJob", "agent-v1", lambda spec: spec.update(podTemplate={}))
    found.settle()
    assert conditions(found) == {"Succeeded": ("True", "Completed")}


def test_several_nodes_meet_at_a_service_that_is_made_before_their_job() -> None:
    inputs = observed(build.training(parallelism={"nodes": 2, "processesPerNode": 4}))
    status = training_job.plan(inputs, build.at(0)).status
    stored = build.training(parallelism={"nodes": 2, "processesPerNode": 4}, status=status)
    service, job = (create.body for create in training_job.plan(replace(inputs, obj=stored), build.at(1)).creates)
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": job["metadata"]["name"]}
    pod = job["spec"]["template"]["spec"]
    assert pod["subdomain"] == service["metadata"]["name"]
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == 2
    (main,) = pod["containers"]
    assert main["args"] == ["--nodes=2", "--processes=4", "--rendezvous=agent-v1-training-0.agent-v1-training:29400"]
    assert main["resources"] == {"limits": {"nvidia.com/gpu": "4"}}


def test_a_run_of_several_nodes_settles() -> None:
    found = world(parallelism={"nodes": 2})
    found.outcomes["agent-v1-training"] = build.training_outcome()
    found.settle()
    assert conditions(found) == {"Succeeded": ("True", "Completed")}


def dataset_for(architecture: str) -> SpeculatorDataset:
    dataset = build.finished_dataset()
    assert dataset.status.result
    result = dataset.status.result.model_copy(update={"target": build.facts(architecture=architecture)})
    return dataset.model_copy(update={"status": dataset.status.model_copy(update={"result": result})})


def test_a_target_of_a_family_that_is_not_proven_is_trained_for_with_a_warning() -> None:
    for given, warned in ((dataset_for("UnheardForCausalLM"), True), (build.finished_dataset(), False)):
        status = training_job.plan(observed(build.training(), dataset=given), build.at(0)).status
        assert status
        assert ("TargetUnproven" in {c["reason"] for c in status["conditions"]}) == warned
        assert status["resolved"]


def test_where_unproven_targets_are_refused_there_is_no_pod_for_one_until_the_policy_changes() -> None:
    refusing = build.runtimes().model_copy(update={"unproven_targets": "Refuse"})
    unheard = replace(observed(build.training(), dataset=dataset_for("UnheardForCausalLM")), runtimes=refusing)
    plan = training_job.plan(unheard, build.at(0))
    assert plan.status
    found = {c["type"]: (c["status"], c["reason"]) for c in plan.status["conditions"]}
    assert found == {
        "Succeeded": ("Unknown", "TargetUnproven"),
        "Stalled": ("True", "TargetUnproven"),
        "TargetProven": ("False", "TargetUnproven"),
    }
    message = next(c["message"] for c in plan.status["conditions"] if c["type"] == "Stalled")
    assert "UnheardForCausalLM" in message
    assert "use a target of one of these" in message
    assert (plan.creates, plan.applies, "resolved" in plan.status) == ((), (), False)
    proven = replace(observed(build.training()), runtimes=refusing)
    assert resolved(proven)
    refused = build.training(status=plan.status)
    assert resolved(replace(unheard, obj=refused, runtimes=build.runtimes()))


def test_a_run_that_has_begun_goes_on_where_its_target_is_refused_from_now_on() -> None:
    inputs = observed(build.training(), dataset=dataset_for("UnheardForCausalLM"))
    begun = build.training(status=training_job.plan(inputs, build.at(0)).status)
    refusing = build.runtimes().model_copy(update={"unproven_targets": "Refuse"})
    plan = training_job.plan(replace(inputs, obj=begun, runtimes=refusing), build.at(1))
    assert [create.body["kind"] for create in plan.creates] == ["Job"]


def test_another_parallelism_holds_from_the_next_resume_on() -> None:
    found = world(parallelism={"nodes": 4})
    found.settle()
    found.edit("SpeculatorTrainingJob", "agent-v1", lambda spec: spec.update(parallelism={"nodes": 2}))
    found.settle()
    assert found.objects["Job", "agent-v1-training"]["spec"]["completions"] == 4  # a Job that runs is left alone
    found.edit("SpeculatorTrainingJob", "agent-v1", lambda spec: spec.update(suspend=True))
    found.settle()
    job = found.objects["Job", "agent-v1-training"]["spec"]
    assert (job["completions"], job["suspend"]) == (2, True)
    found.edit("SpeculatorTrainingJob", "agent-v1", lambda spec: (spec.pop("parallelism"), spec.update(suspend=False)))
    found.settle()
    assert "completions" not in found.objects["Job", "agent-v1-training"]["spec"]
    assert conditions(found) == {"Succeeded": ("Unknown", "Queued")}
