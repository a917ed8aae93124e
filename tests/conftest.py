"""What tests share: one real control plane a run, with the charts installed, and a namespace for each test."""

import base64
import itertools
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import yaml

from local import binaries, cluster

hypothesis.settings.register_profile("patient", deadline=None)  # several test runs may share the machine
hypothesis.settings.load_profile("patient")

ROOT = Path(__file__).parent.parent
SYSTEM = "specop-system"
VALUES = ROOT / "tests" / "integration" / "values.yaml"


@dataclass
class ControlPlane:
    """A real API server with the real controllers, without a node; specop's CRDs and chart are installed."""

    up: cluster.Cluster
    settings: str = ""
    """The operator's settings file, as the chart writes it."""
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        return self.up.kubeconfig

    @property
    def s3(self) -> cluster.S3:
        """The object storage."""
        return self.up.s3

    def kubectl(
        self, *arguments: str, stdin: str | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl as administrator."""
        return subprocess.run(
            [self.up.programs["kubectl"], f"--kubeconfig={self.kubeconfig}", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            check=check,
        )

    def apply(self, *objects: dict[str, Any], user: str | None = None, check: bool = True) -> str:
        """Apply objects; returns what kubectl says, errors included."""
        text = yaml.safe_dump_all(objects)
        done = self.kubectl("apply", "-f", "-", *(("--as", user) if user else ()), stdin=text, check=check)
        return done.stdout + done.stderr

    def get(self, kind: str, name: str, namespace: str) -> dict[str, Any]:
        """Read one object."""
        found: dict[str, Any] = json.loads(self.kubectl("get", kind, name, "-n", namespace, "-o", "json").stdout)
        return found

    def namespace(self) -> str:
        """Make a namespace of its own for a test."""
        name = f"test-{os.getpid()}-{next(self._numbers)}"
        self.kubectl("create", "namespace", name)
        return name

    def helm(self, *arguments: str) -> str:
        """Run helm."""
        helm = binaries.path("helm") / "helm"
        return subprocess.run([helm, *arguments], capture_output=True, text=True, check=True).stdout

    def service_account_kubeconfig(self, path: Path, *, server: str | None = None, name: str = "specop") -> Path:
        """Write a kubeconfig with nothing but the operator's own token; `server` may be a proxy with the same name."""
        token = self.kubectl("create", "token", name, "-n", SYSTEM, "--duration=2h").stdout
        admin = yaml.safe_load(self.kubeconfig.read_text())
        authority = Path(admin["clusters"][0]["cluster"].get("certificate-authority", ""))
        data = admin["clusters"][0]["cluster"].get("certificate-authority-data")
        reach = {
            "server": server or self.up.apiserver,
            "certificate-authority-data": data or base64.b64encode(authority.read_bytes()).decode(),
        }
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "it",
            "clusters": [{"name": "it", "cluster": reach}],
            "users": [{"name": "it", "user": {"token": token}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        }
        path.write_text(yaml.safe_dump(content))
        return path


def install(plane: ControlPlane) -> None:
    """Install CRDs and chart as an administrator would, but without a pod: nobody runs one here."""
    plane.kubectl("apply", "--server-side", "-f", str(ROOT / "crds"))
    plane.kubectl("create", "namespace", SYSTEM)
    chart = plane.helm("template", "specop", str(ROOT / "charts" / "specop"), "-n", SYSTEM, "-f", str(VALUES))
    documents = [body for body in yaml.safe_load_all(chart) if body and body["kind"] != "Deployment"]
    plane.apply(*documents)
    plane.settings = next(body["data"]["settings.json"] for body in documents if body["kind"] == "ConfigMap")
    plane.kubectl("wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """One instance for the whole run; a test takes a namespace of its own from it."""
    state = cluster.state_of(f"pytest-{os.getpid()}")
    plane = ControlPlane(cluster.up(state, node_wanted=False))
    try:
        install(plane)
        yield plane
    finally:
        cluster.down(state)
