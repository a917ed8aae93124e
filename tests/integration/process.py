"""The real operator as a process of its own: the chart's settings, the chart's rights, nothing else."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.conftest import ROOT, SYSTEM, ControlPlane


class OperatorProcess:
    """Started and stopped like a pod; killed, and started again, as often as a test likes."""

    def __init__(
        self,
        plane: ControlPlane,
        folder: Path,
        namespace: str,
        *,
        server: str | None = None,
        account: str = "specop",
        **more: Any,
    ) -> None:
        self.log = folder / "operator.log"
        self._settings = folder / "settings.json"
        self._kubeconfig = plane.service_account_kubeconfig(folder / "kubeconfig", server=server, name=account)
        configured = json.loads(plane.settings)
        self._settings.write_text(json.dumps({**configured, "watchNamespaces": [namespace], "port": 0, **more}))
        self._process: subprocess.Popen[bytes] | None = None
        self._began = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Begin a life."""
        environment = {
            **os.environ,
            "KUBECONFIG": str(self._kubeconfig),
            "SPECOP_SETTINGS": str(self._settings),
            "POD_NAMESPACE": SYSTEM,
            "PYTHONPATH": str(ROOT / "src"),
        }
        self._began = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "specop.operator.main"], env=environment, stdout=log, stderr=log
            )

    def kill(self) -> None:
        """End it without a word."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def terminate(self) -> int:
        """End it as a kubelet does; returns the exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(30)

    @property
    def runs(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def said(self) -> str:
        """The log of the present life."""
        return self.log.read_bytes()[self._began :].decode()

    def page(self, path: str) -> tuple[int, str]:
        """Read one of its pages."""
        port = re.findall(r"pages on port (\d+)", self.said)[-1]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def wait_ready(self, seconds: float = 30) -> None:
        """Wait until it reconciles."""
        wait(lambda: '"reconciling ' in self.said, seconds, "the operator to start")


def wait(condition: Any, seconds: float, what: str) -> Any:
    """Wait until something is true, and return it."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.25)
    return found
