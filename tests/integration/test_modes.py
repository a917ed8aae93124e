"""The other ways to run it: in some namespaces only, with a standby, under `kopf run`; and figures from pods' pages."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from specop.api.jobs import PROGRESS_PORT
from specop.controllers.pages import COMPANION_PORT, METRICS_PORT
from tests.conftest import ROOT, SYSTEM, VALUES
from tests.controllers import harness
from tests.controllers.test_samples import PAGE
from tests.domain import build
from tests.integration.conftest import Team, loop_objects
from tests.integration.process import OperatorProcess, wait
from tests.integration.test_loop import APPROVED

pytestmark = [pytest.mark.control_plane, pytest.mark.timeout(180)]
Json = dict[str, Any]
ADDRESS = "127.0.0.77"


@pytest.fixture
def narrow(team: Team) -> Iterator[str]:
    """The chart once more, for this namespace alone and with a Lease; returns its ServiceAccount."""
    name = "narrow"
    chart = team.plane.helm(
        *("template", name, str(ROOT / "charts" / "specop"), "-n", SYSTEM, "-f", str(VALUES)),
        *("--set", f"watchNamespaces={{{team.namespace}}}", "--set", f"serviceAccount.name={name}"),
        *("--set", "lease.enabled=true", "--set", "replicas=2"),
    )
    objects = [body for body in yaml.safe_load_all(chart) if body and body["kind"] != "Deployment"]
    team.plane.apply(*objects)
    yield name
    team.plane.kubectl("delete", "--ignore-not-found", "-f", "-", stdin=yaml.safe_dump_all(objects))


def test_with_rights_in_one_namespace_the_loop_closes_there(team: Team, narrow: str, tmp_path: Path) -> None:
    team.apply(*loop_objects(APPROVED))
    with OperatorProcess(team.plane, tmp_path, team.namespace, account=narrow, lease=True):
        team.serves_drafter()
    user = f"system:serviceaccount:{SYSTEM}:{narrow}"
    for resource in ("pods", "draftedendpoints.specop.dev"):
        asked = ("auth", "can-i", "list", resource, "-n", "default", "--as", user)
        assert team.plane.kubectl(*asked, check=False).stdout.strip() == "no"


def test_a_standby_waits_and_takes_over(team: Team, narrow: str, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    one, two = (OperatorProcess(team.plane, each, team.namespace, account=narrow, lease=True) for each in folders)
    with one:
        one.wait_ready()  # it holds the lease before there is another
        with two:
            wait(lambda: "pages on port" in two.said, 20, "the standby")
            assert [two.page(path)[0] for path in ("/healthz", "/readyz")] == [200, 200]
            assert "reconciling" not in two.said
            assert one.terminate() == 0
            two.wait_ready(20)
            team.apply(harness.endpoint())
            team.wait_for("draftedendpoint", "agent", "Ready", ("True", "ServingBase"))


def test_kopf_may_run_it(team: Team, tmp_path: Path) -> None:
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps({**json.loads(team.plane.settings), "port": 0}))
    environment = {
        **os.environ,
        "KUBECONFIG": str(team.plane.service_account_kubeconfig(tmp_path / "kubeconfig")),
        "SPECOP_SETTINGS": str(settings),
        "PYTHONPATH": str(ROOT / "src"),
    }
    command = [sys.executable, "-m", "kopf", "run", str(ROOT / "operator" / "main.py"), "--namespace", team.namespace]
    team.apply(harness.endpoint())
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            team.wait_for("draftedendpoint", "agent", "Ready", ("True", "ServingBase"))
        finally:
            process.send_signal(signal.SIGTERM)
    assert process.returncode == 0


class Pages:
    """What all pods of a test say: one address, three ports."""

    def __init__(self) -> None:
        self.answers = {"/metrics": PAGE, "/capture": json.dumps({"requests": 0}), "/progress": "{}"}

    @contextlib.contextmanager
    def served(self) -> Iterator[None]:
        """Serve until the context ends."""
        answers = self.answers

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(answers[self.path].encode())

            def log_message(self, format: str, *_: Any) -> None:  # noqa: A002 - the library's name
                """Say nothing."""

        ports = (METRICS_PORT, COMPANION_PORT, PROGRESS_PORT)
        servers = [ThreadingHTTPServer((ADDRESS, port), Handler) for port in ports]
        threads = [threading.Thread(target=server.serve_forever, daemon=True) for server in servers]
        for thread in threads:
            thread.start()
        yield
        for server in servers:
            server.shutdown()
            server.server_close()


def test_figures_of_the_pods_are_in_status_within_seconds(team: Team) -> None:
    team.kubelet.pod_ip = ADDRESS
    pages = Pages()
    with pages.served():
        pages.answers["/metrics"] = ""
        team.operator.start()
        team.apply(harness.endpoint(capture={"uri": "s3://team-a/captured"}))
        team.wait_for("draftedendpoint", "agent", "Ready", ("True", "ServingBase"))
        wait(lambda: 'page="metrics",result="ok"' in team.operator.page("/metrics")[1], 20, "a first look")
        # Later than the figures of the pages, for they are rounds of one second.
        pages.answers |= {
            "/metrics": PAGE,
            "/capture": json.dumps({"requests": 8, "shippedUntil": "2026-01-01T00:00:00Z"}),
        }
        status = wait(lambda: _measured(team), 20, "figures")
    assert status["measured"]["requests"] == 8
    assert (status["measured"]["acceptanceLength"], status["measured"]["perPosition"][0]) == ("1.70", "0.311")
    assert status["capture"] == {"requests": 8, "shippedUntil": "2026-01-01T00:00:00Z"}


def _measured(team: Team) -> Json | None:
    status: Json = team.get("draftedendpoint", "agent").get("status", {})
    return status if status.get("measured") and status.get("capture", {}).get("requests") else None


def test_a_dataset_begins_when_enough_was_captured_and_shows_how_far_it_is(team: Team) -> None:
    team.kubelet.pod_ip = ADDRESS
    team.kubelet.jobs["dataset"] = "running"
    pages = Pages()
    log = {"endpointRef": {"name": "agent"}, "lastSeconds": 3600, "minRequests": 5}
    with pages.served():
        team.operator.start()
        team.apply(harness.endpoint(capture={"uri": "s3://team-a/captured"}))
        team.apply(harness.obj("SpeculatorDataset", "agent-v1", sources=[{"name": "logs", "requestLog": log}]))
        team.wait_for("speculatordataset", "agent-v1", "Succeeded", ("Unknown", "WaitingForRequests"))
        pages.answers["/capture"] = json.dumps({"requests": 5, "shippedUntil": "2026-01-01T00:00:00Z"})
        team.wait_for("speculatordataset", "agent-v1", "Succeeded", ("Unknown", "Running"))
        pages.answers["/progress"] = json.dumps({"stage": "read", "rows": 123})
        wait(lambda: _progress(team).get("rows") == 123, 20, "progress")
        team.kubelet.jobs.clear()
        team.wait_for("speculatordataset", "agent-v1", "Succeeded", ("True", "Completed"))
    assert team.get("speculatordataset", "agent-v1")["status"]["result"]["digest"] == build.sha("data")


def _progress(team: Team) -> Json:
    found: Json = team.get("speculatordataset", "agent-v1").get("status", {}).get("progress") or {}
    return found
