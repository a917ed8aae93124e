"""The command line against the real API server: what it changes, what it says when it may not, who it is."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from specop.api.dataset import SpeculatorDataset
from specop.cli.main import main
from tests.cli import objects
from tests.conftest import ControlPlane

pytestmark = pytest.mark.control_plane


class User:
    """Runs `specop` in one namespace."""

    def __init__(self, plane: ControlPlane, capsys: pytest.CaptureFixture[str]) -> None:
        self.plane, self.namespace, self.capsys = plane, plane.namespace(), capsys

    def run(self, *arguments: str, kubeconfig: Path | None = None) -> tuple[int, str, str]:
        where = ["--kubeconfig", str(kubeconfig or self.plane.kubeconfig), "--namespace", self.namespace]
        code = main([*arguments, *where])
        said = self.capsys.readouterr()
        return code, said.out, said.err

    def make(self, item: Any) -> None:
        """Create an object as somebody else's operator would have left it, status included."""
        body = {"apiVersion": item.api_version, "kind": item.KIND, "spec": item.spec.to_json()}
        body["metadata"] = {"name": item.metadata.name, "namespace": self.namespace}
        self.plane.apply(body)
        status = json.dumps({"status": item.status.to_json()})
        patch = ["patch", item.PLURAL, item.metadata.name, "-n", self.namespace, "--subresource=status"]
        self.plane.kubectl(*patch, "--type=merge", "-p", status)

    def endpoint(self) -> dict[str, Any]:
        return self.plane.get("draftedendpoint", "agent", self.namespace)


@pytest.fixture
def user(control_plane: ControlPlane, capsys: pytest.CaptureFixture[str]) -> User:
    return User(control_plane, capsys)


def waiting_endpoint() -> Any:
    return objects.endpoint(status={"drafter": {"serving": objects.serving(), "candidate": objects.candidate()}})


def test_approving_is_a_change_of_the_spec_by_the_user_of_the_kubeconfig(user: User) -> None:
    user.make(waiting_endpoint())
    code, said, _ = user.run("approve", "endpoint/agent")
    approvals = user.endpoint()["spec"]["drafter"]["approval"]["approvals"]
    assert code == 0
    assert approvals == [{"digest": objects.TWO, "by": approvals[0]["by"], "attempt": 1}]
    assert said == f"2b2b2b2b approved for endpoint/agent by {approvals[0]['by']}\n"


def test_two_people_who_approve_at_once_both_count(user: User, capsys: pytest.CaptureFixture[str]) -> None:
    user.make(waiting_endpoint())
    names = [f"person-{number}" for number in range(4)]
    crowd = [threading.Thread(target=user.run, args=("approve", "endpoint/agent", "--by", name)) for name in names]
    for person in crowd:
        person.start()
    for person in crowd:
        person.join()
    approvals = user.endpoint()["spec"]["drafter"]["approval"]["approvals"]
    assert sorted(approval["by"] for approval in approvals) == names


@pytest.mark.parametrize("flag", [("--dry-run",), ("-o", "yaml")])
def test_the_lines_for_git_change_nothing(user: User, flag: tuple[str, ...]) -> None:
    user.make(waiting_endpoint())
    before = user.endpoint()["metadata"]["resourceVersion"]
    code, said, _ = user.run("approve", "endpoint/agent", "--by", "ann", *flag)
    assert code == 0
    approval = {"digest": objects.TWO, "by": "ann", "attempt": 1}
    assert yaml.safe_load(said) == {"spec": {"drafter": {"approval": {"approvals": [approval]}}}}
    assert user.endpoint()["metadata"]["resourceVersion"] == before


def test_rejecting(user: User) -> None:
    user.make(waiting_endpoint())
    code, said, _ = user.run("reject", "agent", "--digest", "2b2b")
    assert (code, said) == (0, "2b2b2b2b rejected for endpoint/agent\n")
    assert user.endpoint()["spec"]["drafter"]["approval"]["rejectedDigests"] == [objects.TWO]


def test_the_next_generation_is_accepted_by_the_server(user: User) -> None:
    for item in (objects.endpoint(), objects.dataset("agent-v1"), objects.job("agent-v1"), objects.drafter("agent-v1")):
        user.make(item)
    code, said, _ = user.run("retrain", "endpoint/agent", "--min-requests", "10")
    assert (code, said.split(":")[0]) == (0, "agent-v2 made")
    made = user.plane.get("speculatortrainingjob", "agent-v2", user.namespace)
    assert made["spec"]["warmStart"] == {"drafterRef": {"name": "agent-v1"}}
    source = user.plane.get("speculatordataset", "agent-v2", user.namespace)["spec"]["sources"][0]
    assert source["requestLog"]["since"] == "2026-01-01T01:00:00Z"
    code, _, said = user.run("retrain", "endpoint/agent")
    assert (code, said) == (1, "specop: training job agent-v2 has not ended: one run of a lineage at a time\n")


def test_status_and_report_read_what_the_operator_wrote(user: User) -> None:
    for item in (waiting_endpoint(), objects.dataset("agent-v1"), objects.job("agent-v1"), objects.drafter("agent-v1")):
        user.make(item)
    code, said, _ = user.run("status")
    assert code == 0
    assert "specop approve endpoint/agent (agent-v2 2b2b2b2b)" in said
    code, said, _ = user.run("report", "endpoint/agent", "-o", "json")
    assert code == 0
    assert json.loads(said)["serving"]["name"] == "agent-v1"


def test_an_editor_who_may_not_approve_is_told_so(user: User, tmp_path: Path) -> None:
    user.make(waiting_endpoint())
    user.plane.kubectl("create", "serviceaccount", "editor", "-n", user.namespace)
    account = f"--serviceaccount={user.namespace}:editor"
    user.plane.kubectl("create", "rolebinding", "editor", "--clusterrole=edit", account, "-n", user.namespace)
    token = user.plane.kubectl("create", "token", "editor", "-n", user.namespace).stdout
    content = yaml.safe_load(user.plane.kubeconfig.read_text())
    content["users"][0]["user"] = {"token": token}
    kubeconfig = tmp_path / "editor"
    kubeconfig.write_text(yaml.safe_dump(content))
    code, _, said = user.run("approve", "endpoint/agent", kubeconfig=kubeconfig)
    assert code == 1
    assert "approve" in said
    assert said.count("\n") == 1
    assert user.endpoint()["spec"]["drafter"]["approval"].get("approvals", []) == []


def test_what_does_not_exist(user: User) -> None:
    assert user.run("report", "endpoint/agent") == (
        1,
        "",
        f"specop: there is no DraftedEndpoint agent in namespace {user.namespace}\n",
    )
    assert user.run("approve", "endpoint/agent", "--by", "ann") == (
        1,
        "",
        f"specop: there is no DraftedEndpoint agent in namespace {user.namespace}\n",
    )


def test_no_cluster(user: User, tmp_path: Path) -> None:
    code, _, said = user.run("status", kubeconfig=tmp_path / "none")
    assert (code, said.count("\n")) == (3, 1)
    content = yaml.safe_load(user.plane.kubeconfig.read_text())
    content["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:9"
    (tmp_path / "dead").write_text(yaml.safe_dump(content))
    assert user.run("status", kubeconfig=tmp_path / "dead") == (
        3,
        "",
        "specop: no cluster answers at https://127.0.0.1:9\n",
    )


def test_an_estimate_of_a_job_before_it_is_applied(user: User, tmp_path: Path) -> None:
    data = objects.dataset("agent-v1").to_json()
    sizes = {"intermediateSize": 128, "numHeads": 2, "numKvHeads": 1, "headDim": 32, "weightMib": 1}
    data["status"]["result"]["target"]["sizes"] = sizes
    user.make(SpeculatorDataset.model_validate(data))
    job = {"kind": "SpeculatorTrainingJob", **objects.job("agent-v1", "new", preset="house").to_json()}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    preset = f"house-{user.namespace}"
    assert user.run("estimate", "-f", str(tmp_path / "job.yaml"))[0] == 1
    job["spec"]["preset"] = preset
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    body = {"apiVersion": job["apiVersion"], "kind": "SpeculatorPreset", "metadata": {"name": preset}}
    user.plane.apply({**body, "spec": {"hyperparameters": {"epochs": 3}}})
    code, said, _ = user.run("estimate", "-f", str(tmp_path / "job.yaml"), "-o", "json")
    assert code == 0
    assert json.loads(said)["tokens"] == 3 * 90_000
    code, _, error = user.run("estimate", "job/agent-v1")
    assert code == 1
    assert "there is no SpeculatorTrainingJob agent-v1" in error
    assert user.run("estimate")[0] == 2
