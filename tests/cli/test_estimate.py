import io
from pathlib import Path

import pytest
from rich.console import Console

from specop.api.dataset import SpeculatorDataset
from specop.api.preset import SpeculatorPreset
from specop.cli.errors import CliError
from specop.cli.estimate import make, read_job, table
from specop.cli.render import page
from tests.cli.objects import dataset, job

SIZES = {"intermediateSize": 128, "numHeads": 2, "numKvHeads": 1, "headDim": 32, "weightMib": 1}
MANIFEST = """\
apiVersion: specop.dev/v1alpha1
kind: SpeculatorDataset
metadata: {name: agent-v1}
---
apiVersion: specop.dev/v1alpha1
kind: SpeculatorTrainingJob
metadata: {name: agent-v1}
spec:
  target: {uri: "s3://models/small"}
  datasetRef: {name: agent-v1}
  preset: quick
"""


def sized() -> SpeculatorDataset:
    body = dataset("agent-v1").to_json()
    body["status"]["result"]["target"]["sizes"] = SIZES
    return SpeculatorDataset.model_validate(body)


def test_a_job_that_is_not_applied_yet(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(MANIFEST)
    found = make(read_job(tmp_path / "job.yaml", "team-a"), [sized()], None, [])
    assert found.tokens == 2 * 90_000
    console = Console(file=io.StringIO(), width=200, no_color=True)
    console.print(page([table("agent-v1", found)]))
    assert isinstance(console.file, io.StringIO)
    lines = [line.split() for line in console.file.getvalue().splitlines()]
    assert lines[0] == ["ESTIMATE", "agent-v1"]
    assert "core hours" in console.file.getvalue()
    assert "on 1 x CPU cores" in console.file.getvalue()
    kept = job("agent-v1", "new")
    kept = kept.model_copy(update={"status": kept.status.model_copy(update={"estimate": found})})
    assert make(kept, [], None, []) is found


def test_processes_and_the_pods_of_the_preset_count(tmp_path: Path) -> None:
    pods = {"nodeSelector": {"gpu": "NVIDIA-H200"}, "resources": {"limits": {"nvidia.com/gpu": 1}}}
    house = SpeculatorPreset.model_validate({"metadata": {"name": "house", "uid": "p"}, "spec": {"podTemplate": pods}})
    text = MANIFEST.replace("quick", "house") + "  parallelism: {nodes: 2, processesPerNode: 4}\n"
    (tmp_path / "job.yaml").write_text(text)
    found = make(read_job(tmp_path / "job.yaml", "team-a"), [sized()], house, [])
    assert (found.devices, found.device) == (8, "H200")


def test_a_contradiction_is_told_before_the_job_is_applied(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(MANIFEST + "  hyperparameters: {earlyStopEvaluations: 30}\n")
    with pytest.raises(CliError, match=r"spec\.hyperparameters\.earlyStopEvaluations must be less"):
        make(read_job(tmp_path / "job.yaml", "team-a"), [sized()], None, [])


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(MANIFEST)
    wanted = read_job(file, "team-a")
    with pytest.raises(CliError, match="SpeculatorDataset agent-v1 is not finished"):
        make(wanted, [dataset("agent-v1", done=False)], None, [])
    with pytest.raises(CliError, match="build it again"):
        make(wanted, [dataset("agent-v1")], None, [])
    unknown = wanted.model_copy(update={"spec": wanted.spec.model_copy(update={"preset": "house"})})
    with pytest.raises(CliError, match="there is no preset house"):
        make(unknown, [sized()], None, [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as YAML"),
        ("kind: Other", "holds 0 objects"),
        (MANIFEST + "---\n" + MANIFEST, "holds 2 objects"),
        (MANIFEST.replace("quick", "Quick!"), r"spec\.preset"),
    ],
    ids=["no YAML", "no job", "two jobs", "invalid"],
)
def test_a_file_that_is_no_job_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(text)
    with pytest.raises(CliError, match=message):
        read_job(tmp_path / "job.yaml", "team-a")
