"""The operator, the test kubelet and, where asked, the faulty way between operator and API server."""

import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ControlPlane
from tests.controllers import harness
from tests.domain import build
from tests.integration.process import OperatorProcess, wait
from tests.integration.proxy import Proxy
from tests.integration.testkubelet import Kubelet

Json = dict[str, Any]


@dataclass
class Team:
    """One namespace with a kubelet, the API server seen from it, and the operator that looks after it."""

    plane: ControlPlane
    namespace: str
    kubelet: Kubelet
    proxy: Proxy
    operator: OperatorProcess

    def apply(self, *objects: Json, user: str | None = None, check: bool = True) -> str:
        """Apply objects in this namespace."""
        for body in objects:
            body["metadata"]["namespace"] = self.namespace
        return self.plane.apply(*objects, user=user, check=check)

    def get(self, kind: str, name: str) -> Json:
        """Read an object; {} if there is none."""
        found = self.plane.kubectl("get", kind, name, "-n", self.namespace, "-o", "json", check=False)
        return json.loads(found.stdout) if found.returncode == 0 else {}

    def names(self, kind: str) -> set[str]:
        """Names of all objects of a kind."""
        found = self.plane.kubectl("get", kind, "-n", self.namespace, "-o", "name").stdout
        return {line.partition("/")[2] for line in found.split()}

    def condition(self, kind: str, name: str, type_: str) -> tuple[str, str]:
        """Status and reason of a condition of the present generation; empty if there is none."""
        body = self.get(kind, name)
        for each in body.get("status", {}).get("conditions", ()):
            if each["type"] == type_ and each["observedGeneration"] == body["metadata"]["generation"]:
                return each["status"], each["reason"]
        return "", ""

    def wait_for(self, kind: str, name: str, type_: str, expected: tuple[str, str], seconds: float = 60) -> None:
        """Wait until a condition has a status and a reason."""
        try:
            wait(lambda: self.condition(kind, name, type_) == expected, seconds, "")
        except AssertionError as error:
            found = self.get(kind, name).get("status")
            raise AssertionError(f"{kind} {name}: {type_} is not {expected}: {found}") from error

    def serves_drafter(self, seconds: float = 60) -> None:
        """Wait until the endpoint serves its drafter."""
        self.wait_for("draftedendpoint", "agent", "DrafterServing", ("True", "ServingDrafter"), seconds)


@contextlib.contextmanager
def teamed(plane: ControlPlane, folder: Path) -> Iterator[Team]:
    """Make a namespace and all that it needs, and take it away afterwards; the operator is not started yet."""
    namespace = plane.namespace()
    kubelet = Kubelet(plane.kubeconfig, namespace)
    proxy = Proxy(plane.kubeconfig, plane.up.apiserver)
    with kubelet, proxy:
        operator = OperatorProcess(plane, folder, namespace, server=proxy.url)
        try:
            yield Team(plane, namespace, kubelet, proxy, operator)
        finally:
            operator.kill()
            if operator.log.exists():
                sys.stderr.write(operator.log.read_text()[-4000:])
            plane.kubectl("delete", "namespace", namespace, "--wait=false")


@pytest.fixture
def team(control_plane: ControlPlane, tmp_path: Path) -> Iterator[Team]:
    with teamed(control_plane, tmp_path) as made:
        yield made


def loop_objects(*approvals: Json) -> list[Json]:
    """Endpoint, dataset and training job of the whole loop."""
    drafter = build.asks_for("agent-v1", *approvals)
    return [harness.endpoint(drafter=drafter), harness.dataset(), harness.training()]
