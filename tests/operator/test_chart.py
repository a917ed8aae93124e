"""The chart: what it renders, word for word; what it refuses; and that it says to the operator what the operator reads.

`SPECOP_UPDATE_GOLDEN=1` writes the rendered files anew, for review.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from local import binaries
from specop.kube.resources import RECONCILED, WATCHED
from specop.operator.settings import Settings
from tests.conftest import ROOT, SYSTEM

CHART = ROOT / "charts" / "specop"
CASES: dict[str, tuple[Path, list[str]]] = {
    "default": (ROOT / "operator" / "install.yaml", []),
    "namespaced": (
        ROOT / "tests" / "operator" / "golden" / "namespaced.yaml",
        [
            *("--set", "watchNamespaces={team-a,team-b}", "--set", "networkPolicy.enabled=true"),
            *("--set", "replicas=2", "--set", "lease.enabled=true", "--set", "storage.output=s3://bucket/specop"),
            *("--set", "unprovenTargets=Refuse"),
            *(
                "--set",
                "runtimes.serving.mounts[0].claimName=env",
                "--set",
                "runtimes.serving.mounts[0].mountPath=/env",
            ),
            *("--set", "storage.credentials.serviceAccountName=specop-storage"),
            *("--set", "storage.credentials.secretRef=null"),
        ],
    ),
}
Json = dict[str, Any]


def render(*values: str) -> str:
    """Render the chart; raises CalledProcessError with what helm says."""
    helm = binaries.path("helm") / "helm"
    command = [helm, "template", "specop", CHART, "-n", SYSTEM, *values]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def objects(text: str) -> dict[str, Json]:
    found = [body for body in yaml.safe_load_all(text) if body]
    return {f"{body['kind']}/{body['metadata']['name']}": body for body in found}


@pytest.fixture(scope="module")
def default() -> dict[str, Json]:
    return objects(render())


@pytest.mark.parametrize("name", CASES)
def test_what_is_rendered_is_what_was_reviewed(name: str) -> None:
    path, values = CASES[name]
    rendered = "\n".join(line.rstrip() for line in render(*values).splitlines()) + "\n"
    if os.environ.get("SPECOP_UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(rendered)
    assert rendered == path.read_text()


def test_lint() -> None:
    helm = binaries.path("helm") / "helm"
    for chart in ("specop", "specop-crds"):
        linted = subprocess.run(
            [helm, "lint", "--strict", ROOT / "charts" / chart], capture_output=True, text=True, check=False
        )
        assert linted.returncode == 0, linted.stdout


@pytest.mark.parametrize(
    ("values", "wrong"),
    [
        pytest.param(["--set", "replica=2"], "replica", id="a name that is not known"),
        pytest.param(["--set", "replicas=2"], "lease", id="two without a lease"),
        pytest.param(["--set", "watchNamespaces={Team}"], "watchNamespaces", id="not a namespace"),
        pytest.param(["--set", "storage.output=bucket"], "output", id="not a URI"),
        pytest.param(["--set-json", "runtimes.trainer.command=[]"], "command", id="no command"),
        pytest.param(["--set", "operator.logLevel=LOUD"], "logLevel", id="not a level"),
        pytest.param(["--set", "unprovenTargets=Ignore"], "unprovenTargets", id="not a policy"),
    ],
)
def test_wrong_values_are_refused_by_name(values: list[str], wrong: str) -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        render(*values)
    assert wrong in refused.value.stderr


@pytest.mark.parametrize("name", CASES)
def test_the_operator_reads_what_the_chart_writes(name: str) -> None:
    written = objects(render(*CASES[name][1]))["ConfigMap/specop"]["data"]["settings.json"]
    settings = Settings.model_validate_json(written)
    assert settings.runtimes.data.image == "specop/operator:0.1.0"
    assert set(json.loads(written)) == {field.alias for field in Settings.model_fields.values()}


def test_null_takes_a_default_away() -> None:
    """As on a machine without a GPU; also where there is no default to take away."""
    values = {
        "runtimes": {
            role: {"resources": {"requests": {"nvidia.com/gpu": None, "cpu": 1}, "limits": None}}
            for role in ("data", "trainer")
        }
    }
    written = objects(render("--set-json", f"runtimes={json.dumps(values['runtimes'])}"))["ConfigMap/specop"]
    settings = Settings.model_validate_json(written["data"]["settings.json"])
    assert settings.runtimes.trainer.resources == {"requests": {"cpu": "1"}}
    assert settings.runtimes.data.resources == {"requests": {"cpu": "1", "memory": "2Gi"}}


def test_the_pod_is_restricted(default: dict[str, Json]) -> None:
    deployment = default["Deployment/specop"]["spec"]
    pod = deployment["template"]["spec"]
    assert (deployment["replicas"], deployment["strategy"]) == (1, {"type": "Recreate"})
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert pod["containers"][0]["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_rights_are_least() -> None:
    """Per resource exactly these verbs; nothing of Secrets, ConfigMaps, namespaces; no spec of ours is ever written."""
    rules = objects(render())["ClusterRole/specop-operator"]["rules"]
    rights: dict[str, set[str]] = {}
    for rule in rules:
        for resource in rule["resources"]:
            rights.setdefault(resource, set()).update(rule["verbs"])
    watch, child = {"get", "list", "watch"}, {"create", "delete", "list", "patch", "watch"}
    assert rights == {
        "draftedendpoints": watch,
        "drafters": {*watch, "create"},
        "speculatordatasets": {*watch, "create"},
        "speculatortrainingjobs": {*watch, "create"},
        "speculatorpresets": watch,
        **{f"{kind.plural}/status": {"patch"} for kind in RECONCILED},
        "deployments": child,
        "jobs": child,
        "services": child,
        "pods": {"list", "watch"},
        "events": {"create", "get", "patch"},
    }
    assert all({"list", "watch"} <= rights[kind.plural] for kind in WATCHED)


def test_in_namespaces_there_are_no_rights_beyond_them() -> None:
    found = objects(render(*CASES["namespaced"][1]))
    assert [rule["resources"] for rule in found["ClusterRole/specop-operator"]["rules"]] == [["speculatorpresets"]]
