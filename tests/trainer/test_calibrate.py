"""`specop-train estimate` on the tiny target: measured speeds replace assumed ones, and nothing else changes."""

from pathlib import Path

import pytest
import torch
import yaml

from specop.api.estimate import Devices, estimate
from specop.api.hyperparameters import Hyperparameters
from specop.api.preset import BUILT_IN, resolve
from specop.common.errors import EXIT_USER_ERROR
from specop.trainer import calibrate
from tests.tiny import NUM_LAYERS, build_tiny

JOB = """\
kind: SpeculatorTrainingJob
metadata: {name: agent-v1}
spec:
  target: {uri: "s3://models/tiny"}
  datasetRef: {name: agent-v1}
  preset: balanced
  hyperparameters: {draftVocabSize: 128, batchTokens: 512, computeDtype: Float32}
"""
COUNTS = ["--rows=1000", "--tokens=100000", "--supervised-tokens=50000"]


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    build_tiny(tmp_path / "target")
    (tmp_path / "job.yaml").write_text(JOB)
    return ["estimate", f"--file={tmp_path}/job.yaml", f"--target={tmp_path}/target"]


def test_an_estimate_rests_on_what_was_measured_here(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert calibrate.main([*files, *COUNTS]) == 0
    said = yaml.safe_load(capsys.readouterr().out)
    found, measured = said["estimate"], said["measured"]
    assert (found["basis"], found["device"], found["devices"]) == ("calibrated", "CPU cores", torch.get_num_threads())
    assert all(measured[what]["percentOfPeak"] > 0 for what in ("training", "capture"))
    target = calibrate.target_of(Path(files[2].removeprefix("--target=")))
    assert (target.num_layers, target.hidden_size, target.sizes and target.sizes.num_heads) == (NUM_LAYERS, 64, 2)
    dataset = calibrate.counted(target, 1000, 100_000, 50_000)
    knobs, _ = resolve("balanced", BUILT_IN["balanced"], Hyperparameters(), dataset)
    knobs = knobs.model_copy(update={"draft_vocab_size": 128, "batch_tokens": 512, "compute_dtype": "Float32"})
    usual = estimate(target, dataset, knobs, Devices(torch.get_num_threads(), "CPU cores", None), None)
    assert usual
    same = ("steps", "tokens", "memoryGib", "diskGib", "drafterParameters", "acceptanceLow", "acceptanceHigh")
    assert {name: found[name] for name in same} == {name: usual.to_json()[name] for name in same}
    assert found["deviceHours"] != usual.device_hours


def test_what_is_missing_is_named(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert calibrate.main(files) == EXIT_USER_ERROR
    assert "SpeculatorDataset agent-v1 is not in the files" in capsys.readouterr().err
    assert calibrate.main([*files[:2], "--target=/nowhere", *COUNTS]) == EXIT_USER_ERROR
    assert "TargetUnsupported" in capsys.readouterr().err
    assert calibrate.main([*files, files[1], *COUNTS]) == EXIT_USER_ERROR
    assert "2 SpeculatorTrainingJobs" in capsys.readouterr().err
