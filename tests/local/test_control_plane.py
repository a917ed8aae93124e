"""The control plane without a node: up in seconds, heals after every process was killed, leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from local import cache, cluster, console, processes, settings

pytestmark = pytest.mark.control_plane
PARTS = {"etcd", "kube-apiserver", "kube-controller-manager", "versitygw"}


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "cluster"
    yield path
    cluster.down(path)


def kubectl(up: cluster.Cluster, *arguments: str) -> str:
    command = [up.programs["kubectl"], f"--kubeconfig={up.kubeconfig}", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _sockets(state: Path) -> Path:
    chosen = settings.load(state)
    assert chosen
    return chosen.sockets


def test_it_comes_up_answers_and_leaves_nothing(state: Path) -> None:
    up = cluster.up(state, node_wanted=False)
    assert set(cluster.status(state)) == PARTS
    assert kubectl(up, "get", "--raw", "/readyz") == "ok"
    assert cluster.Cluster.load(state) == up
    assert json.loads((state / "cluster.json").read_text())["s3"]["endpoint"] == up.s3.endpoint
    sockets = _sockets(state)
    cluster.down(state)
    assert cluster.status(state) == {}
    assert not state.exists()
    assert not sockets.exists()


def test_object_storage_takes_its_own_keys_only(state: Path) -> None:
    import boto3  # noqa: PLC0415 - slow, and needed here only
    from botocore.exceptions import ClientError  # noqa: PLC0415

    up = cluster.up(state, node_wanted=False)

    def client(secret: str) -> "boto3.client":
        return boto3.client(
            "s3",
            endpoint_url=up.s3.endpoint,
            region_name="us-east-1",
            aws_access_key_id=up.s3.access_key,
            aws_secret_access_key=secret,
        )

    storage = client(up.s3.secret_key)
    storage.create_bucket(Bucket="bucket")
    storage.put_object(Bucket="bucket", Key="a/b", Body=b"content")
    assert storage.get_object(Bucket="bucket", Key="a/b")["Body"].read() == b"content"
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        client("wrong").list_objects_v2(Bucket="bucket")


def test_everything_killed_at_once_starts_again_on_the_same_data(state: Path) -> None:
    up = cluster.up(state, node_wanted=False)
    kubectl(up, "create", "namespace", "kept")
    processes.kill(state)
    assert cluster.status(state) == {}
    again = cluster.up(state, node_wanted=False)
    assert again == up
    assert "kept" in kubectl(again, "get", "namespaces")


def test_only_the_missing_part_is_started_again(state: Path) -> None:
    cluster.up(state, node_wanted=False)
    before = cluster.status(state)
    os.kill(before["versitygw"][0], signal.SIGKILL)
    os.waitpid(before["versitygw"][0], 0)
    cluster.up(state, node_wanted=False)
    after = cluster.status(state)
    assert {part for part in PARTS if after[part] != before[part]} == {"versitygw"}


def test_controllers_can_be_left_out(state: Path) -> None:
    up = cluster.up(state, node_wanted=False, controllers="*,-deployment,-replicaset,-job")
    kubectl(up, "create", "deployment", "idle", "--image=none")
    kubectl(up, "create", "job", "idle", "--image=none")
    time.sleep(1)
    assert kubectl(up, "get", "replicasets,pods", "-o", "name") == ""
    with pytest.raises(console.LocalError, match="other options: take it down first"):
        cluster.up(state, node_wanted=False)


def test_a_part_that_cannot_start_is_an_error_with_its_log_and_leaves_nothing(state: Path) -> None:
    with pytest.raises(console.LocalError, match=r"(?s)kube-controller-manager ended.*no-such-controller"):
        cluster.up(state, node_wanted=False, controllers="no-such-controller")
    assert not state.exists()


@pytest.mark.parametrize("seconds", [0.2, 1.0, 2.0])
def test_interrupted_at_any_time_it_leaves_nothing(state: Path, seconds: float) -> None:
    command = [sys.executable, "-m", "local", "up", "--control-plane-only", f"--state={state}"]
    heard = ["env", "--default-signal=INT"]  # what runs in the background of a script inherits that it is ignored
    with subprocess.Popen([*heard, *command], cwd=cache.REPOSITORY, stderr=subprocess.DEVNULL) as starting:
        time.sleep(seconds)
        starting.send_signal(signal.SIGINT)
        assert starting.wait(20) in {130, -signal.SIGINT}  # the latter before Python runs any code of ours
    assert cluster.status(state) == {}
    assert not state.exists()
