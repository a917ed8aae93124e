"""The process of a training Job: from configuration to a published drafter, through kills and stops; its refusals."""

import json
import signal
import subprocess
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from specop.api import reasons
from specop.api.estimate import drafter_shape
from specop.api.jobs import CONFIG_ENV, Outcome, TrainingConfig, TrainingFacts
from specop.api.shared import Contract, Weights
from specop.api.training_job import TrainingRows
from specop.cli.lineage import Artefact, Question
from specop.cli.storage import read_made
from specop.common.errors import EXIT_PREEMPTED, EXIT_USER_ERROR, UserError
from specop.serving.inspect import check_folder
from specop.storage.base import ObjectInfo, StorageUnreachable
from specop.storage.blobs import Manifest, download_files, drafter_digest, write_manifest
from specop.storage.job import Job, run_job
from specop.storage.local import LocalStore
from specop.storage.target import target_facts
from specop.trainer.checkpoint import KEPT
from specop.trainer.config import recipe
from specop.trainer.disk import SPARE_BYTES, check_room, reserved, taken
from specop.trainer.main import train
from tests.tiny import build_tiny
from tests.trainer.quantised import METHODS, quantised
from tests.trainer.tiny_run import Attempts, World, publish

PARENT_DIFFERS = {"tokenizer_hash": f"sha256:{0:064}", "vocab_size": 1000, "hidden_size": 128, "num_layers": 8}
LONG = {"max_steps": 300, "evaluations": 6}
STOP_SECONDS = 10

pytestmark = pytest.mark.timeout(400)


def wait_for(process: subprocess.Popen[bytes], log: Path, text: str) -> None:
    """Wait until the process has said this, and for a few steps more."""
    while text not in log.read_text():
        assert process.poll() is None, log.read_text()
        time.sleep(0.02)
    time.sleep(0.3)


def test_a_run_that_is_stopped_and_killed_makes_the_drafter_of_one_that_is_not(world: World, tmp_path: Path) -> None:
    whole = Attempts(world, world.config("u-whole", **LONG), tmp_path / "whole")
    code, expected, log = whole.run()
    assert code == 0, log
    assert expected
    assert expected.training

    broken = Attempts(world, world.config("u-broken", **LONG), tmp_path / "broken")
    process = broken.start("first")
    wait_for(process, broken.log("first"), "stage: Training")
    process.send_signal(signal.SIGTERM)
    asked = time.monotonic()
    assert process.wait() == EXIT_PREEMPTED, broken.log("first").read_text()
    assert time.monotonic() - asked < STOP_SECONDS
    (kept,) = (broken.stored / "checkpoints").iterdir()
    step = int(kept.stem.removeprefix("step-"))
    assert 0 < step < 300

    process = broken.start("second")
    wait_for(process, broken.log("second"), f"goes on after step {step}")
    process.kill()
    process.wait()

    code, found, log = broken.run("third")
    assert code == 0, log
    assert found
    assert found.training
    assert found.training.summary.resumes == 1  # what was killed left no checkpoint of its own
    assert found.training.drafter == expected.training.drafter  # the digest is over the weights' bytes
    curves = [[{**point, "seconds": 0} for point in world.manifest(run).info["curve"]] for run in (expected, found)]
    assert curves[0] == curves[1]


def test_a_run_ends_in_a_published_drafter_that_serving_accepts(world: World, tmp_path: Path) -> None:
    long, mute = {**world.train[0], "input_ids": world.train[0]["input_ids"] * 9}, {**world.train[0], "spans": []}
    dataset = publish(tmp_path / "data", world.target, [*world.train, long, mute], world.holdout)
    config = world.config("u-once", max_steps=60, max_length=64, long_rows="Drop", dataset=dataset)
    job = Job(config, tmp_path)
    facts = train(config, job)
    assert facts
    manifest = world.manifest(_outcome(facts))
    target = target_facts(LocalStore(), world.target)
    download_files(LocalStore(), facts.drafter.uri, manifest, tmp_path / "got")
    accepted = check_folder(tmp_path / "got", target)
    same = {"trained_length": facts.contract.trained_length, "serving_temperature": facts.contract.serving_temperature}
    assert accepted.model_copy(update=same) == facts.contract
    assert facts.contract.trained_length == max(len(row["input_ids"]) for row in world.train)
    summary = facts.summary
    assert (summary.steps, summary.resumes) == (60, 0)
    assert summary.rows == TrainingRows(learned=len(world.train), dropped=1, unlabelled=1)
    assert summary.evaluation
    assert float(summary.evaluation.acceptance_length) > 1
    assert job.page.body["stage"] == "Exporting"
    assert job.page.body["step"] == job.page.body["totalSteps"] == 60
    assert job.page.body["mfuPercent"] > 0
    assert b"specop_training_step 60.0" in job.page.render("/metrics")[2]
    assert summary.mfu_percent
    run = world.root / "out" / "runs" / "u-once"
    assert summary.report == f"file://{run}/report.html"
    assert "Training run team-a/run" in (run / "report.html").read_text()
    assert f"learned {len(world.train)} cut 0 dropped 1 unlabelled 1" in (run / "report.html").read_text()
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    assert [event["stage"] for event in events if event["event"] == "stage"] == [
        *("Downloading", "Teacher", "Training", "Evaluating", "Exporting")
    ]
    assert [event["step"] for event in events if event["event"] == "evaluation"] == [20, 40, 60]
    assert events[-1]["reason"] == "Completed"
    (counted,) = [event for event in events if event["event"] == "rows"]
    assert (counted["learned"], counted["dropped"]) == (len(world.train), 1)

    child = world.config("u-child", max_steps=2, learning_rate="0.0001", evaluations=1, warm_start=facts.drafter)
    born = train(child, Job(child, tmp_path / "child"))
    assert born
    assert born.contract.draft_vocab_size == facts.contract.draft_vocab_size
    made = read_made(Artefact("drafter", born.drafter.digest, "", born.drafter.uri), Question(), None)
    assert made
    assert [one.digest for one in made.of] == [child.dataset.digest, facts.drafter.digest]
    assert born.summary.evaluation
    assert float(born.summary.evaluation.acceptance_length) > 0.9 * float(summary.evaluation.acceptance_length)
    other = world.config("u-other", max_steps=2, architecture="Eagle3", warm_start=facts.drafter)
    with pytest.raises(UserError, match="norm_before_residual is True") as raised:
        train(other, Job(other, tmp_path / "other"))
    assert raised.value.reason == reasons.WARM_START_MISMATCH


class Outage(LocalStore):
    """Storage that is gone from the first checkpoint on: no object answers before it was asked for the third time."""

    def __init__(self) -> None:
        self.refused: Counter[str] = Counter()

    def head(self, uri: str) -> ObjectInfo:
        self._answers(uri)
        return super().head(uri)

    def put(self, uri: str, data: bytes) -> None:
        self._answers(uri)
        super().put(uri, data)

    def put_if_absent(self, uri: str, data: bytes) -> bool:
        self._answers(uri)
        return super().put_if_absent(uri, data)

    def upload(self, path: Path, uri: str) -> None:
        self._answers(uri)
        super().upload(path, uri)

    def _answers(self, uri: str) -> None:
        if self.refused or "/checkpoints/" in uri:
            self.refused[uri] += 1
            if self.refused[uri] < 3:
                raise StorageUnreachable(f"{uri}: no answer")


def test_storage_that_is_gone_for_a_while_costs_a_run_nothing_that_is_finished(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store, config = Outage(), world.config("u-outage", max_steps=12)
    for module in ("specop.storage.job", "specop.trainer.main"):
        monkeypatch.setattr(f"{module}.open_store", lambda *_: store)
    monkeypatch.setattr("specop.trainer.main.recipe", lambda knobs: replace(recipe(knobs), checkpoint_seconds=0.0))
    monkeypatch.setattr("specop.storage.job.RETRY_SECONDS", 0.01)
    monkeypatch.setattr("specop.storage.job.json_logging.setup", lambda: None)
    monkeypatch.setenv(CONFIG_ENV, config.model_dump_json(by_alias=True))
    said = tmp_path / "said"
    options = ["--port=0", f"--work={tmp_path}/work", f"--termination-log={said}"]
    assert run_job("training", TrainingConfig, train, options) == 0
    assert "step-00000001.safetensors was not uploaded" in caplog.text
    made = {uri.rpartition("/")[2] for uri in store.refused if "/checkpoints/" not in uri}
    assert {"report.html", "manifest.json", "result.json"} <= made  # each of which was refused, and asked for again
    outcome = Outcome.model_validate_json(said.read_bytes())
    assert outcome == Outcome.model_validate_json((world.root / "out/runs/u-outage/result.json").read_bytes())
    assert outcome.training
    download_files(LocalStore(), outcome.training.drafter.uri, world.manifest(outcome), tmp_path / "got")
    check_folder(tmp_path / "got", target_facts(LocalStore(), world.target))


@pytest.mark.parametrize("method", METHODS)
def test_the_drafter_of_a_quantised_target_says_so_in_its_contract(method: str, world: World, tmp_path: Path) -> None:
    target = f"file://{quantised(method, world.folder, tmp_path / 'target')}"
    dataset = publish(tmp_path, target, world.train, world.holdout)
    config = world.config(f"u-{method}", target=target, dataset=dataset, max_steps=2, evaluations=1)
    facts = train(config, Job(config, tmp_path / "work"))
    assert facts
    assert facts.contract.target.quantization == method
    assert facts.contract.target == target_facts(LocalStore(), target).identity


def _outcome(facts: TrainingFacts) -> Outcome:
    return Outcome(kind="training", ok=True, training=facts)


@pytest.mark.parametrize(
    ("file", "field"), [("chat_template.jinja", "chatTemplateHash"), ("tokenizer.json", "tokenizerHash")]
)
def test_a_dataset_for_another_target_is_refused(file: str, field: str, world: World, tmp_path: Path) -> None:
    other = build_tiny(tmp_path / "other") / file
    text = other.read_text()
    other.write_text(text.replace("<|im_start|>", "<|begin|>"))
    assert other.read_text() != text
    dataset = publish(tmp_path / "changed", f"file://{other.parent}", world.train[:2], world.holdout[:1])
    config = world.config("u-mismatch", dataset=dataset)
    with pytest.raises(UserError, match=field) as raised:
        train(config, Job(config, tmp_path))
    assert raised.value.reason == reasons.TARGET_MISMATCH


def test_a_dataset_without_a_token_to_learn_is_refused(world: World, tmp_path: Path) -> None:
    rows = [{**row, "spans": []} for row in world.train]
    config = world.config("u-empty", dataset=publish(tmp_path, world.target, rows, []))
    with pytest.raises(UserError, match=f"{len(rows)} have no generated token") as raised:
        train(config, Job(config, tmp_path / "work"))
    assert raised.value.reason == reasons.NO_USABLE_ROWS


def test_a_holdout_that_cannot_judge_all_drafts_is_refused_before_training(world: World, tmp_path: Path) -> None:
    held = [{**row, "spans": [{**row["spans"][0], "end": row["spans"][0]["start"] + 4}]} for row in world.holdout]
    config = world.config("u-short", max_steps=1, dataset=publish(tmp_path, world.target, world.train, held))
    assert train(config, Job(config, tmp_path / "enough"))  # three drafts, whose answers have four tokens
    config = world.config("u-shorter", dataset=config.dataset, decoding_heads=4)
    with pytest.raises(UserError, match=r"answer of 5 tokens .* lower decodingHeads") as raised:
        train(config, Job(config, tmp_path / "short"))
    assert raised.value.reason == reasons.HOLDOUT_TOO_SHORT


def test_a_damaged_shard_is_refused(world: World, tmp_path: Path) -> None:
    dataset: Weights = publish(tmp_path, world.target, world.train[:3], world.holdout[:1])
    for blob in (tmp_path / "out" / "blobs" / "sha256").iterdir():
        blob.write_bytes(b"PAR1" + blob.read_bytes()[4:-1])
    attempts = Attempts(world, world.config("u-damaged", dataset=dataset), tmp_path / "run")
    code, said, _ = attempts.run()
    assert code == EXIT_USER_ERROR
    assert said
    assert (said.ok, said.reason) == (False, reasons.DATASET_CORRUPT)


def test_a_disk_that_is_too_small_is_found_before_anything_is_downloaded(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("specop.trainer.disk.SPARE_BYTES", 1 << 60)
    config = world.config("u-disk")
    with pytest.raises(UserError, match="more ephemeral storage") as raised:
        train(config, Job(config, tmp_path))
    assert raised.value.reason == reasons.DISK_FULL
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("decay", [None, "0.99"])
def test_checkpoints_are_as_large_as_is_reckoned_and_what_a_run_wrote_itself_counts_as_free(
    decay: str | None, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = world.config(f"u-disk-{decay}", max_steps=1, evaluations=1, ema_decay=decay)
    assert train(config, Job(config, tmp_path))
    (checkpoint,) = (tmp_path / "checkpoints").iterdir()
    target, knobs = target_facts(LocalStore(), world.target), recipe(config.hyperparameters)
    assert target.sizes
    parameters = drafter_shape(target, target.sizes, config.hyperparameters).parameters
    needed = reserved(knobs, parameters)
    assert checkpoint.stat().st_size == pytest.approx((needed - SPARE_BYTES) / (KEPT + 1), rel=0.05)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=needed))
    check_room(tmp_path, taken(tmp_path), knobs, parameters)
    with pytest.raises(UserError, match="give the pods 2 MiB more"):
        check_room(tmp_path, taken(tmp_path) + (1 << 20) + 1, knobs, parameters)


@pytest.mark.parametrize(("field", "value"), PARENT_DIFFERS.items())
def test_a_parent_made_for_other_tokens_or_shapes_is_refused_by_the_field_that_differs(
    field: str, value: object, world: World, tmp_path: Path
) -> None:
    store = LocalStore()
    target = target_facts(store, world.target).identity.model_copy(update={field: value})
    contract = Contract(target=target, draft_vocab_size=128, aux_layers=[1, 2, 3], decoding_heads=3, trained_length=64)
    digest = drafter_digest((), contract.to_json())
    manifest = Manifest(format="specop.drafter/1", digest=digest, files=(), contract=contract.to_json())
    parent = Weights(digest=digest, uri=write_manifest(store, f"file://{tmp_path}/out", manifest))
    config = world.config("u-parent", warm_start=parent)
    with pytest.raises(UserError, match=f"with {field} ") as raised:
        train(config, Job(config, tmp_path / "work"))
    assert raised.value.reason == reasons.WARM_START_MISMATCH


OUT_OF_MEMORY = {
    "cpu": RuntimeError("[enforce fail at alloc_cpu.cpp] . DefaultCPUAllocator: can't allocate memory"),
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
}


@pytest.mark.parametrize("error", OUT_OF_MEMORY.values(), ids=OUT_OF_MEMORY)
def test_memory_that_ran_out_has_its_reason(
    error: RuntimeError, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*_: object) -> None:
        raise error

    monkeypatch.setattr("specop.trainer.loop.Loop._step", exhausted)
    config = world.config("u-memory")
    with pytest.raises(UserError) as raised:
        train(config, Job(config, tmp_path))
    assert raised.value.reason == reasons.OUT_OF_MEMORY


@pytest.mark.parametrize(
    ("changed", "path"),
    [
        ({"epochs": None}, "hyperparameters.epochs"),
        ({"learning_rate": "0"}, "hyperparameters.learningRate"),
        ({"step_decay": "1.5"}, "hyperparameters.stepDecay"),
        ({"evaluations": 3, "early_stop_evaluations": 3}, "hyperparameters.earlyStopEvaluations"),
        ({"scheduler": "WSD", "warmup_percent": 60, "decay_percent": 50}, "hyperparameters.decayPercent"),
        ({"ema_decay": "1"}, "hyperparameters.emaDecay"),
    ],
    ids=["unset", "zero", "above-one", "never-stops", "up-and-down", "forgets-nothing"],
)
def test_knobs_that_make_no_sense_are_refused_by_their_path(changed: dict[str, Any], path: str, world: World) -> None:
    with pytest.raises(UserError, match=path) as raised:
        recipe(world.config("u", **changed).hyperparameters)
    assert raised.value.reason == reasons.HYPERPARAMETERS_INVALID
