"""Plays every kubelet: writes the status of pods that real controllers made, because no node runs them here.

It is: a thread that looks at one namespace ten times a second and says of each pod what it was told to say.
It is not: a kubelet; nothing runs, no probe is asked. What a node enforces is tested on the node.
"""

import asyncio
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kubernetes.aio.client import Configuration
from kubernetes.aio.config import load_kube_config

from specop.api.jobs import Outcome
from specop.common.errors import SpecopError
from specop.common.names import LABEL_ARM, LABEL_NAME, LABEL_ROLE
from specop.kube.client import Client
from specop.kube.resources import POD
from tests.controllers.harness import answer

Json = dict[str, Any]
NOW = "2026-01-01T00:00:00Z"


@dataclass
class Kubelet:
    """Says what pods do. By default Jobs end well and engines are ready."""

    kubeconfig: Path
    namespace: str
    engines: dict[str, str] = field(default_factory=dict)
    """By arm: `ready`, `never` (runs and is not ready), `crash` (in back-off)."""
    jobs: dict[str, str] = field(default_factory=dict)
    """By role: `done`, `running`, `crash` (exit code 1, no word)."""
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    """By role, or by role and name as `role/name`: what a Job's pod says instead of a good result."""
    pod_ip: str | None = None
    """Where pages of running pods are served, if anywhere."""

    def __enter__(self) -> Self:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="kubelet", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(10)

    async def _run(self) -> None:
        configuration = Configuration()
        await load_kube_config(str(self.kubeconfig), client_configuration=configuration)
        client = Client(configuration)
        try:
            while not self._stop.is_set():
                for pod in (await client.list(POD, self.namespace)).items:
                    await self._say(client, pod)
                await asyncio.sleep(0.1)
        finally:
            await client.close()

    async def _say(self, client: Client, pod: Json) -> None:
        status = self._status(pod)
        if status is None or pod.get("status", {}).get("message") == status["message"]:
            return
        metadata = {field: pod["metadata"][field] for field in ("name", "namespace")}
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "status": status}
        try:
            await client.apply_status(body, "testkubelet")
        except SpecopError:
            return  # it was deleted meanwhile, or has ended: the next round tells

    def _status(self, pod: Json) -> Json | None:
        labels = pod["metadata"].get("labels", {})
        role, phase = labels.get(LABEL_ROLE), pod.get("status", {}).get("phase")
        if role is None or phase in ("Succeeded", "Failed"):
            return None
        if role == "engine":
            return self._engine(pod, self.engines.get(labels.get(LABEL_ARM, ""), "ready"))
        return self._job(pod, role, labels[LABEL_NAME])

    def _engine(self, pod: Json, mode: str) -> Json:
        ready = mode == "ready"
        state: Json = {"running": {"startedAt": NOW}}
        if mode == "crash":
            state = {"waiting": {"reason": "CrashLoopBackOff"}}
        containers = [
            {**_container(each["name"]), "ready": ready, "state": state, "restartCount": 0 if ready else 5}
            for each in pod["spec"]["containers"]
        ]
        return self._running(mode, containers, ready=ready)

    def _job(self, pod: Json, role: str, name: str) -> Json:
        mode = self.jobs.get(role, "done")
        main = _container(pod["spec"]["containers"][0]["name"])
        if mode == "running":
            return self._running(mode, [{**main, "ready": True, "state": {"running": {"startedAt": NOW}}}], ready=True)
        outcome = self.outcomes.get(f"{role}/{name}", self.outcomes.get(role)) or answer(pod)
        ended: Json = {"exitCode": 1, "startedAt": NOW, "finishedAt": NOW}
        if mode == "done":
            ended |= {"exitCode": 0 if outcome.ok else 64, "message": outcome.model_dump_json(by_alias=True)}
        phase = "Succeeded" if ended["exitCode"] == 0 else "Failed"
        return {"phase": phase, "message": mode, "containerStatuses": [{**main, "state": {"terminated": ended}}]}

    def _running(self, mode: str, containers: list[Json], *, ready: bool) -> Json:
        conditions = [
            {"type": type_, "status": "True" if ready else "False", "lastTransitionTime": NOW}
            for type_ in ("Ready", "ContainersReady")
        ]
        status: Json = {"phase": "Running", "message": mode, "conditions": conditions, "containerStatuses": containers}
        if self.pod_ip is not None:
            status |= {"podIP": self.pod_ip, "podIPs": [{"ip": self.pod_ip}]}
        return status


def _container(name: str) -> Json:
    return {"name": name, "image": "test", "imageID": "test", "ready": False, "restartCount": 0, "started": True}
