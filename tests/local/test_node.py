"""The node: real pods under `restricted`, and a machine afterwards as it was before, even if everything was killed."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from local import cache, cgroups, cluster, console, env, image, processes, volumes

pytestmark = [pytest.mark.node, pytest.mark.timeout(600)]
SYSCTLS = ["net/ipv4/ip_forward", "net/bridge/bridge-nf-call-iptables", "kernel/panic", "kernel/panic_on_oops"]
FOLDERS = ["/etc/cni", "/run/containerd", "/run/runc", "/run/specop", "/run/netns", "/var/lib/cni", "/var/lib/kubelet"]
FOLDERS += ["/var/log/containers", "/var/log/pods", "/opt/cni", "/opt/containerd", "/usr/libexec/kubernetes"]
NAMESPACE = "restricted"


def traces() -> dict[str, Any]:
    """What a node changes on a machine."""
    return {
        "mounts": sorted(line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()),
        "interfaces": sorted(path.name for path in Path("/sys/class/net").iterdir()),
        "tables": subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout,
        "cgroups": sorted(map(str, Path("/sys/fs/cgroup").glob(f"*/{cgroups.NAME}"))),
        "sysctls": {name: Path("/proc/sys", name).read_text() for name in [*SYSCTLS, "vm/overcommit_memory"]},
        "files": sorted(str(path) for folder in FOLDERS for path in [Path(folder), *Path(folder).rglob("*")]),
        "exists": [folder for folder in FOLDERS if Path(folder).exists()],
    }


def kubectl(up: cluster.Cluster, *arguments: str, stdin: str | None = None) -> str:
    command = [up.programs["kubectl"], f"--kubeconfig={up.kubeconfig}", "--namespace", NAMESPACE, *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def pod(name: str, script: str, **container: Any) -> dict[str, Any]:
    """Return a pod as Pod Security `restricted` wants it, with the mounted environment and project."""
    claims = {volumes.ENV_CLAIM: env.POD_ENV, volumes.SRC_CLAIM: env.POD_SRC}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "restartPolicy": "Never",
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "runAsGroup": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "main",
                    "image": image.RUNTIME,
                    "command": [env.POD_PYTHON, "-c", script],
                    "env": [{"name": key, "value": value} for key, value in env.POD_VARIABLES.items()],
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                    "volumeMounts": [{"name": claim, "mountPath": path} for claim, path in claims.items()],
                    **container,
                }
            ],
            "volumes": [
                {"name": claim, "persistentVolumeClaim": {"claimName": claim, "readOnly": True}} for claim in claims
            ],
        },
    }


@pytest.fixture(scope="module")
def before() -> dict[str, Any]:
    return traces()


@pytest.fixture(scope="module")
def up(before: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[cluster.Cluster]:
    state = tmp_path_factory.mktemp("node") / "cluster"
    running = cluster.up(state, node_wanted=True)
    try:
        image.load(state, image.RUNTIME)
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}}
        apply(running, namespace, *volumes.manifests(NAMESPACE))
        yield running
    finally:
        cluster.down(state)
    assert traces() == before


def apply(up: cluster.Cluster, *objects: dict[str, Any]) -> None:
    kubectl(up, "apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))


def finished(up: cluster.Cluster, name: str) -> str:
    """Wait until a pod has ended; return its phase."""
    for _ in range(120):
        phase = kubectl(up, "get", "pod", name, "-o", "jsonpath={.status.phase}")
        if phase in {"Succeeded", "Failed"}:
            return phase
        time.sleep(0.5)
    pytest.fail(f"{name} did not end: {kubectl(up, 'describe', 'pod', name)}")


def test_a_pod_runs_in_the_mounted_environment(up: cluster.Cluster) -> None:
    apply(up, pod("environment", "import os, sys, numpy, specop; print(sys.prefix, specop.__file__, os.getuid())"))
    assert finished(up, "environment") == "Succeeded"
    said = kubectl(up, "logs", "environment").split()
    assert said == [f"{env.POD_ENV}/venv", f"{env.POD_SRC}/specop/__init__.py", "65532"]


def test_pods_reach_storage_the_api_server_and_each_other_through_services(up: cluster.Cluster) -> None:
    serve = [env.POD_PYTHON, "-m", "http.server", "8080", "--directory", "/etc"]
    probe = {"httpGet": {"path": "/passwd", "port": 8080}, "periodSeconds": 1}
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "server"},
        "spec": {"clusterIP": "10.96.0.77", "selector": {"app": "server"}, "ports": [{"port": 80, "targetPort": 8080}]},
    }
    apply(up, service, pod("server", "", command=serve, readinessProbe=probe))
    kubectl(up, "wait", "--for=condition=Ready", "--timeout=60s", "pod/server")
    script = f"""
import ssl, time, urllib.request
account = "/var/run/secrets/kubernetes.io/serviceaccount"
context = ssl.create_default_context(cafile=account + "/ca.crt")
def get(url, **more):
    for _ in range(20):
        try:
            return urllib.request.urlopen(url, timeout=2, **more).status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            time.sleep(0.5)
request = urllib.request.Request("https://10.96.0.1/api/v1/secrets")
request.add_header("Authorization", "Bearer " + open(account + "/token").read())
urls = ["http://10.96.0.77/passwd", "http://server.{NAMESPACE}/passwd", "{up.s3.pod_endpoint}/health"]
print(*map(get, urls), get(request, context=context))
"""
    apply(up, pod("client", script))
    assert finished(up, "client") == "Succeeded"
    assert kubectl(up, "logs", "client").split() == ["200", "200", "200", "403"]
    assert "65532" in kubectl(up, "exec", "server", "--", "id")
    kubectl(up, "delete", "pod", "server", "--now")


def test_a_memory_limit_is_kept(up: cluster.Cluster) -> None:
    apply(up, pod("greedy", "bytearray(200 << 20)", resources={"limits": {"memory": "64Mi"}}))
    assert finished(up, "greedy") == "Failed"
    ended = "jsonpath={.status.containerStatuses[0].state.terminated.reason}"
    assert kubectl(up, "get", "pod", "greedy", "-o", ended) == "OOMKilled"


def test_a_second_cluster_is_told_who_has_the_node(up: cluster.Cluster, tmp_path: Path) -> None:
    with pytest.raises(console.LocalError, match=f"another cluster has the node.*{up.state}"):
        cluster.up(tmp_path / "second", node_wanted=True)
    assert set(cluster.status(up.state)) >= {"kubelet", "containerd"}


def test_containers_outlive_the_death_of_every_component_and_are_found_again(up: cluster.Cluster) -> None:
    apply(up, pod("survivor", "import time; time.sleep(600)"))
    kubectl(up, "wait", "--for=condition=Ready", "--timeout=60s", "pod/survivor")
    for process in processes.running(up.state):
        if "shim" not in Path(f"/proc/{process.pid}/comm").read_text():
            subprocess.run(["kill", "-9", str(process.pid)], check=False)
    assert cluster.up(up.state, node_wanted=True) == up
    kubectl(up, "wait", "--for=condition=Ready", "--timeout=60s", "pod/survivor")
    assert kubectl(up, "get", "pod", "survivor", "-o", "jsonpath={.status.containerStatuses[0].restartCount}") == "0"


def test_everything_killed_at_once_is_cleaned_exactly(up: cluster.Cluster, before: dict[str, Any]) -> None:
    processes.kill(up.state)
    cluster.down(up.state)
    cluster.down(up.state)
    assert traces() == before
    assert processes.running(up.state) == []


@pytest.mark.parametrize("seconds", [0.5, 1.5, 3.0, 4.5])
def test_interrupted_at_any_time_it_leaves_the_machine_as_it_was(
    before: dict[str, Any], tmp_path: Path, seconds: float
) -> None:
    command = [sys.executable, "-m", "local", "up", f"--state={tmp_path / 'cluster'}"]
    heard = ["env", "--default-signal=INT"]  # what runs in the background of a script inherits that it is ignored
    with subprocess.Popen([*heard, *command], cwd=cache.REPOSITORY, stderr=subprocess.DEVNULL) as starting:
        time.sleep(seconds)
        starting.send_signal(signal.SIGINT)
        assert starting.wait(30) in {130, -signal.SIGINT}
    assert traces() == before
    assert not (tmp_path / "cluster").exists()
