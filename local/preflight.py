"""What the machine must have, asked before anything is started: each thing that is missing is one clear line.

Debian packages that are missing are installed, and named, where this is root's right.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from local import cache, claim, console, network, processes, settings
from local.settings import Settings

NODE_PACKAGES = {  # Debian package -> a program of it, or a pattern of a file
    "containerd": "containerd",
    "runc": "runc",
    "containernetworking-plugins": "/usr/lib/cni/bridge",
    "nftables": "nft",
    "iproute2": "ip",
    "mount": "umount",
}
IMAGE_PACKAGES = {
    "buildah": "buildah",
    "busybox-static": "busybox",
    "libelf1": "/usr/lib/*/libelf.so.1",
    "libgomp1": "/usr/lib/*/libgomp.so.1",
    "libnuma1": "/usr/lib/*/libnuma.so.1",
}
PYTHON_PACKAGES = {"python3-venv": f"{Path(os.__file__).parent}/ensurepip/__init__.py"}

_GIB = 1 << 30
_PORT_SECONDS = 2
_PORT_OWNERS = {
    "apiserver": "kube-apiserver",
    "s3": "versitygw",
    "s3-admin": "versitygw",
    "kubelet": "kubelet",
    "proxy-health": "kube-proxy",
    "proxy-metrics": "kube-proxy",
}


def check(chosen: Settings, *, more_disk_gib: int = 0) -> None:
    """Raise with all that is missing, one line each; install the packages that root may install."""
    problems = [*_everywhere(chosen, more_disk_gib), *(_for_a_node(chosen) if chosen.node else ())]
    if problems:
        lines = [f"  - {problem}" for problem in problems]
        raise console.LocalError("\n".join(["this machine cannot run the cluster yet:", *lines]))
    if chosen.node:
        install(NODE_PACKAGES)


def install(packages: dict[str, str]) -> None:
    """Install the Debian packages whose programs are missing."""
    missing = [package for package, program in packages.items() if not _has(program)]
    if not missing:
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        message = f"missing: install {' '.join(missing)} (names of Debian 12) as root and try again"
        raise console.LocalError(message)
    log = cache.folder("logs") / "apt.log"
    with console.step(f"installing Debian packages: {' '.join(missing)}"):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        command = ["apt-get", "install", "-y", "--no-install-recommends", *missing]
        if subprocess.run([*command, "--simulate"], capture_output=True, check=False).returncode != 0:
            console.run(["apt-get", "update"], log, env=environment)  # the lists are missing or too old
        console.run(command, log, env=environment)


def _has(program: str) -> bool:
    if program.startswith("/"):
        return any(Path("/").glob(program.removeprefix("/")))
    return shutil.which(program) is not None


def _everywhere(chosen: Settings, more_disk_gib: int) -> Iterator[str]:
    if sys.platform != "linux" or platform.machine() not in {"x86_64", "aarch64"}:
        yield f"Linux on x86_64 or aarch64 is needed, this is {sys.platform} on {platform.machine()}"
    chosen.state.parent.mkdir(parents=True, exist_ok=True)
    if not _keeps_attributes(chosen.state.parent):
        yield f"the file system of {chosen.state.parent} has no extended attributes, which the object storage needs"
    needs = {chosen.state.parent: 5 if chosen.node else 1, cache.root(): 1 + more_disk_gib}
    for path, need in needs.items():
        free = shutil.disk_usage(path).free
        if free < need * _GIB:
            yield f"{need} GiB of disk are needed at {path}, {free / _GIB:.1f} are free"
    need = 3 if chosen.node else 1
    available = _available_memory()
    if available < need * _GIB:
        yield f"{need} GiB of memory are needed, {available / _GIB:.1f} are available"
    running = processes.parts(chosen.state)
    for name, owner in _PORT_OWNERS.items():
        if owner not in running and not _becomes_free(chosen.ports[name]):
            yield f"port {chosen.ports[name]}, which {owner} of this cluster had, is in use by another process"


def _for_a_node(chosen: Settings) -> Iterator[str]:
    if os.geteuid() != 0:
        yield "a node needs root (without one: --control-plane-only)"
        return
    filesystems = Path("/proc/filesystems").read_text()
    for name in ("overlay", "cgroup"):
        if name not in filesystems and subprocess.run(["modprobe", name], capture_output=True, check=False).returncode:
            yield f"the kernel has no {name} file system"
    owner = claim.owner()
    if owner == chosen.state:
        return
    if owner is not None:
        yield claim.refusal()
    elif shutil.which("nft") and network.has_proxy_tables():
        yield "another Kubernetes runs on this machine (nft table 'kube-proxy'): its Services and ours would mix"
    for route in network.overlapping_routes() if shutil.which("ip") else ():
        yield f"the network of pods or Services ({settings.SUBNET}, {settings.SERVICES}) is taken by route {route}"


def _becomes_free(port: int) -> bool:
    """Return whether a port is free; a process that was just killed may hold it for a moment."""
    deadline = time.monotonic() + _PORT_SECONDS
    while not settings.is_free(port):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _keeps_attributes(path: Path) -> bool:
    with tempfile.NamedTemporaryFile(dir=path) as probe:
        try:
            os.setxattr(probe.name, "user.specop", b"1")
        except OSError:
            return False
    return True


def _available_memory() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0
