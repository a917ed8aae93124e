"""Plays the controllers of Deployments and Jobs, and the kubelets behind them, for any number of endpoints.

It is: a watch of each kind, and the writes that those controllers make, with a start-up time that engines and Jobs
have in common with nothing real but the order of events: seen, starting, ready.
It is not: a model of a cluster; there is room for every pod, and no serving pod is an object.
"""

import asyncio
import json
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any

from benchmarks.server import MERGE, Json, Server
from specop.common.names import LABEL_MANAGED_BY, MANAGED_BY
from tests.controllers import harness

READY_SECONDS = 2.0
"""From the first status of a Deployment to its ready pods."""
JOB_SECONDS = 4.0
"""From a Job to its end."""
_OURS = f"{LABEL_MANAGED_BY}={MANAGED_BY}"


class Simulator:
    """The controllers of one namespace."""

    def __init__(self, server: Server, namespace: str) -> None:
        self._server = server
        self._namespace = namespace
        self._generations: dict[str, int] = {}
        """By name of a Deployment: the newest generation that was seen."""
        self._jobs: set[str] = set()

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._deployments(group))
            group.create_task(self._ended_jobs(group))

    async def _deployments(self, group: asyncio.TaskGroup) -> None:
        path = f"/apis/apps/v1/namespaces/{self._namespace}/deployments"
        async for change, body in self._server.watch(path, _OURS):
            name, generation = body["metadata"]["name"], body["metadata"]["generation"]
            if change != "DELETED" and self._generations.get(name) != generation:
                self._generations[name] = generation
                group.create_task(self._roll(f"{path}/{name}/status", body))

    async def _roll(self, path: str, body: Json) -> None:
        """Bring up the pods of a new generation, beside those that are ready."""
        metadata, wanted = body["metadata"], body["spec"]["replicas"]
        ready = body.get("status", {}).get("readyReplicas", 0)
        seen = {"observedGeneration": metadata["generation"], "updatedReplicas": wanted}
        await self._patch(path, {**seen, "replicas": wanted + ready, "unavailableReplicas": wanted})
        await asyncio.sleep(READY_SECONDS)
        if self._generations[metadata["name"]] == metadata["generation"]:
            counts = dict.fromkeys(("replicas", "readyReplicas", "availableReplicas"), wanted)
            await self._patch(path, {**seen, **counts, "unavailableReplicas": 0})

    async def _ended_jobs(self, group: asyncio.TaskGroup) -> None:
        path = f"/apis/batch/v1/namespaces/{self._namespace}/jobs"
        async for _, body in self._server.watch(path, _OURS):
            uid = body["metadata"]["uid"]
            if uid not in self._jobs:
                self._jobs.add(uid)
                group.create_task(self._end(f"{path}/{body['metadata']['name']}/status", body))

    async def _end(self, path: str, job: Json) -> None:
        """Make the pod of a Job, and let it say a good result and end."""
        await asyncio.sleep(JOB_SECONDS)
        pods, pod = f"/api/v1/namespaces/{self._namespace}/pods", _pod_of(job)
        await self._server.send("POST", pods, json.dumps(pod).encode())
        await self._patch(f"{pods}/{pod['metadata']['name']}/status", _last_words(pod))
        now = _now()
        conditions = [
            {"type": type_, "status": "True", "reason": "CompletionsReached", "lastTransitionTime": now}
            for type_ in ("SuccessCriteriaMet", "Complete")
        ]
        await self._patch(path, {"startTime": now, "completionTime": now, "succeeded": 1, "conditions": conditions})

    def _patch(self, path: str, status: Json) -> Coroutine[Any, Any, Json]:
        return self._server.send("PATCH", path, json.dumps({"status": status}).encode(), MERGE)


def _pod_of(job: Json) -> Json:
    metadata, template = job["metadata"], job["spec"]["template"]
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": metadata["name"], "uid": metadata["uid"]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{metadata['name']}-0",
            "labels": template["metadata"]["labels"],
            "ownerReferences": [{**owner, "controller": True}],
        },
        "spec": template["spec"],
    }


def _last_words(pod: Json) -> Json:
    main, now = pod["spec"]["containers"][0], _now()
    message = harness.answer(pod).model_dump_json(by_alias=True)
    ended = {"exitCode": 0, "message": message, "reason": "Completed", "startedAt": now, "finishedAt": now}
    container = {"name": main["name"], "image": main["image"], "imageID": "none", "ready": False, "restartCount": 0}
    return {"phase": "Succeeded", "containerStatuses": [{**container, "state": {"terminated": ended}}]}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
