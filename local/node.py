"""The node: containerd, kubelet, kube-proxy and the scheduler, on a bridge, a cgroup root and folders of their own.

It is: their command lines and configuration, the order in which they come up, and what they leave behind.
It is not: more than one node, and not for two clusters at once: kube-proxy's tables are the machine's.
Minds: removal happens with everything killed first, so it is the same after an orderly end and after `kill -9`.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from local import api, binaries, cache, cgroups, claim, console, env, mounts, network, oci, processes
from local.settings import BRIDGE, GATEWAY, NODE, NODE_SOCKETS, SUBNET, Settings

PAUSE_IMAGE = "docker.io/specop/pause:dev"
_NETWORK = "specop"
# Folders outside of ours that the parts write to whatever they are told.
_SHIM_SOCKETS = Path("/run/containerd/s")
_CNI_RESULTS = Path("/var/lib/cni/results")
_LOG_LINKS = Path("/var/log/containers")
_DEVICE_PLUGINS = Path("/var/lib/kubelet/device-plugins")


def prepare(settings: Settings) -> None:
    """Make what must exist before the API server starts: it listens on the bridge."""
    claim.take(settings.state)
    network.prepare()
    cgroups.prepare()


def start(settings: Settings) -> None:
    """Start what does not run, and return when the node is ready for pods."""
    kube = binaries.path("kube") / "kube"
    configuration = _write_configuration(settings)

    def part(name: str, *command: str | Path) -> None:
        if name not in processes.parts(settings.state):
            processes.start(settings.state, name, command)

    def wait(name: str, ready: Callable[[], bool]) -> None:
        processes.wait(settings.state, name, ready)

    containerd = shutil.which("containerd") or "containerd"
    if "nameserver" not in processes.parts(settings.state):
        python = env.path() / "venv/bin/python"
        variables = {"PYTHONPATH": str(cache.REPOSITORY)}
        processes.start(settings.state, "nameserver", [python, "-m", "local.nameserver", settings.state], variables)
    part("containerd", containerd, "--config", configuration / "containerd.toml")
    part("kube-scheduler", kube, "kube-scheduler", *_scheduler(settings))
    part("kube-proxy", kube, "kube-proxy", *_proxy(settings))
    wait("containerd", lambda: _ctr_works(settings))
    if PAUSE_IMAGE not in ctr(settings, "images", "list", "-q"):
        with oci.image(PAUSE_IMAGE, {"pause": binaries.path("kube") / "pause"}, ["/pause"]) as archive:
            ctr(settings, "images", "import", str(archive))
    _mount_kubelet_folder(settings)
    part("kubelet", kube, "kubelet", *_kubelet(settings, configuration))
    server = api.ApiServer(settings.apiserver, settings.pki)
    wait("kubelet", lambda: _is_ready(server.get(f"/api/v1/nodes/{NODE}")))


def remove(state: Path) -> None:
    """Remove all traces of a cluster's node after its processes have been killed, pods aside; none of another's."""
    if claim.owner() != state:
        return
    cgroups.remove()
    for address in NODE_SOCKETS.glob("containerd/io.containerd.runtime.v2.task/*/*/address"):  # where a shim listened
        _unlink(_SHIM_SOCKETS / Path(address.read_text()).name)
    for folder in (state, NODE_SOCKETS):
        mounts.unmount_below(folder)
    _remove_cni_results()
    for link in _entries(_LOG_LINKS):
        if link.is_symlink() and link.readlink().is_relative_to(state):
            _unlink(link)
    for leftover in _entries(_DEVICE_PLUGINS):
        _unlink(leftover)
    for folder in (
        *(_SHIM_SOCKETS, _SHIM_SOCKETS.parent, _CNI_RESULTS, _CNI_RESULTS.parent, _LOG_LINKS),
        *(_DEVICE_PLUGINS, _DEVICE_PLUGINS.parent),
    ):
        with contextlib.suppress(OSError):
            folder.rmdir()  # only if nobody else has something in it
    network.remove()
    claim.give_back()


def ctr(settings: Settings, *arguments: str) -> str:
    """Run containerd's own client on this cluster's images and containers."""
    return console.output(["ctr", "--address", _socket(settings), "--namespace", "k8s.io", *arguments])


def _socket(settings: Settings) -> Path:
    return settings.sockets / "containerd.sock"


def _ctr_works(settings: Settings) -> bool:
    command = ["ctr", "--address", str(_socket(settings)), "--connect-timeout", "1s", "plugins", "ls"]
    shown = subprocess.run(command, capture_output=True, text=True, check=False)
    rows = [line.split() for line in shown.stdout.splitlines()]
    return any(row[:2] == ["io.containerd.grpc.v1", "cri"] and row[-1] == "ok" for row in rows)


def _is_ready(node: Any) -> bool:
    conditions = node["status"].get("conditions", []) if node else []
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def _remove_cni_results() -> None:
    """Remove what the CNI library remembers of our pods; the loopback network's results carry only their ids."""
    ours = {result.name.split("-")[1] for result in _entries(_CNI_RESULTS) if result.name.startswith(f"{_NETWORK}-")}
    for result in _entries(_CNI_RESULTS):
        if ours.intersection(result.name.split("-")):
            _unlink(result)


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _unlink(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _scheduler(settings: Settings) -> list[str]:
    kubeconfig = f"--kubeconfig={settings.pki}/scheduler.kubeconfig"
    return [kubeconfig, "--leader-elect=false", "--secure-port=0", "--profiling=false"]


def _mount_kubelet_folder(settings: Settings) -> None:
    """Give the kubelet's folder, which lies on the state's disk, a short name: its sockets lie there."""
    folder, name = settings.state / "kubelet", settings.sockets / "kubelet"
    folder.mkdir(exist_ok=True)
    name.mkdir(exist_ok=True)
    if name not in mounts.below(name):
        console.output(["mount", "--bind", folder, name])


def _proxy(settings: Settings) -> list[str]:
    return [
        *(f"--kubeconfig={settings.pki}/kube-proxy.kubeconfig", f"--hostname-override={NODE}"),
        *("--proxy-mode=nftables", f"--cluster-cidr={SUBNET}", "--nodeport-addresses=127.0.0.0/8"),
        f"--healthz-bind-address=127.0.0.1:{settings.ports['proxy-health']}",
        f"--metrics-bind-address=127.0.0.1:{settings.ports['proxy-metrics']}",
        # leave the machine's connection tracking as it is
        *("--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0s"),
        "--conntrack-tcp-timeout-close-wait=0s",
    ]


def _kubelet(settings: Settings, configuration: Path) -> list[str]:
    return [
        *(f"--config={configuration}/kubelet.json", f"--kubeconfig={settings.pki}/kubelet.kubeconfig"),
        *(f"--root-dir={settings.sockets}/kubelet", f"--cert-dir={settings.state}/kubelet-certs"),
        *(f"--hostname-override={NODE}", f"--node-ip={GATEWAY}"),
    ]


def _write_configuration(settings: Settings) -> Path:
    folder = settings.state / "node"
    (folder / "cni").mkdir(parents=True, exist_ok=True)
    (folder / "containerd.toml").write_text(_containerd(settings, folder))
    (folder / "cni" / "10-specop.conflist").write_text(json.dumps(_cni(folder)))
    (folder / "kubelet.json").write_text(json.dumps(_kubelet_configuration(settings)))
    return folder


def _containerd(settings: Settings, folder: Path) -> str:
    """Return containerd's configuration; network namespaces lie in our folder: unmounting ends them."""
    skipped = ["aufs", "btrfs", "devmapper", "zfs"]
    return f"""version = 2
root = "{settings.state}/containerd"
state = "{settings.sockets}/containerd"
disabled_plugins = {json.dumps([f"io.containerd.snapshotter.v1.{name}" for name in skipped])}
[grpc]
address = "{_socket(settings)}"
[plugins."io.containerd.internal.v1.opt"]
path = "{folder}/opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE_IMAGE}"
netns_mounts_under_state_dir = true
restrict_oom_score_adj = true  # without CAP_SYS_RESOURCE scores cannot be lowered
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{folder}/cni"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
Root = "{settings.sockets}/runc"
SystemdCgroup = false
"""


def _cni(folder: Path) -> dict[str, Any]:
    addresses = {"type": "host-local", "ranges": [[{"subnet": SUBNET}]], "dataDir": f"{folder}/addresses"}
    bridge = {"type": "bridge", "bridge": BRIDGE, "isGateway": True, "hairpinMode": True}
    routes = {"routes": [{"dst": "0.0.0.0/0"}]}
    return {"cniVersion": "1.0.0", "name": _NETWORK, "plugins": [{**bridge, "ipam": {**addresses, **routes}}]}


def _kubelet_configuration(settings: Settings) -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": GATEWAY,
        "port": settings.ports["kubelet"],
        "readOnlyPort": 0,
        "healthzPort": 0,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{settings.pki}/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": f"{settings.pki}/kubelet.crt",
        "tlsPrivateKeyFile": f"{settings.pki}/kubelet.key",
        "containerRuntimeEndpoint": f"unix://{_socket(settings)}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{cgroups.NAME}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "oomScoreAdj": 0,
        "makeIPTablesUtilChains": False,
        "evictionHard": {"memory.available": "100Mi"},  # the machine's disk is not ours to judge
        "imageGCHighThresholdPercent": 100,  # an image that is removed cannot be pulled again
        "clusterDNS": [GATEWAY],
        "clusterDomain": "cluster.local",
        "podLogsDir": f"{settings.state}/pods",
        "volumePluginDir": f"{settings.state}/volume-plugins",
    }
