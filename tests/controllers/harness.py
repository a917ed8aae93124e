"""The operator's own parts over the double, on a virtual clock; and a cluster that lives around them."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

from specop.api.jobs import Outcome
from specop.common.names import LABEL_NAME, LABEL_ROLE
from specop.controllers.executor import Executor
from specop.controllers.gather import Gatherer
from specop.controllers.intake import Intake
from specop.controllers.queue import Queue
from specop.controllers.readings import Readings
from specop.controllers.recorder import Recorder
from specop.controllers.resync import Resync
from specop.controllers.routing import interests
from specop.controllers.worker import Worker
from specop.kube.cache import Cache, Key, key_of
from tests.domain import build
from tests.kube.fakekube import FakeKube

Json = dict[str, Any]
START = datetime(2026, 1, 1, tzinfo=UTC)
TEAM = build.NAMESPACE


def clock() -> datetime:
    """The virtual loop's time."""
    return START + timedelta(seconds=asyncio.get_running_loop().time())


class Operator:
    """One life of an operator process."""

    def __init__(self, kube: FakeKube, workers: int = 3) -> None:
        self.queue: Queue[Key] = Queue(jitter=lambda: 1.0)
        self.cache = Cache(interests)
        self.intake = Intake(self.cache, self.queue)
        self.readings = Readings()
        self.resync = Resync(kube, self.intake, ())
        self.gatherer = Gatherer(kube, self.intake, self.readings, build.runtimes())
        self.executor = Executor(kube, self.intake, Recorder(kube, self.cache, clock), clock)
        self.results: list[tuple[str, str]] = []
        self.workers = [
            Worker(
                self.queue,
                self.gatherer,
                self.executor,
                self.readings,
                clock,
                observer=lambda kind, result, _: self.results.append((kind, result)),
            )
            for _ in range(workers)
        ]
        self.tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """List everything, then work."""
        await self.resync.once()
        self.tasks = [asyncio.create_task(worker.run()) for worker in self.workers]

    async def kill(self) -> None:
        """End it without a word."""
        self.queue.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def idle(self) -> None:
        """Wait until nothing waits, without time passing."""
        for _ in range(10_000):
            if self.queue.idle:
                return
            await asyncio.sleep(0)
        raise AssertionError("it never comes to rest")


def obj(kind: str, name: str, **spec: Any) -> Json:
    """An object as a user applies it."""
    return {
        "apiVersion": "specop.dev/v1alpha1",
        "kind": kind,
        "metadata": {"name": name, "namespace": TEAM},
        "spec": {"target": {"uri": build.TARGET_URI}, **spec},
    }


def endpoint(**spec: Any) -> Json:
    return obj("DraftedEndpoint", "agent", servedName="agent", **spec)


def dataset() -> Json:
    return obj("SpeculatorDataset", "agent-v1", sources=[{"name": "seeds", "objects": {"uri": "s3://seeds/a.jsonl"}}])


def training() -> Json:
    return obj("SpeculatorTrainingJob", "agent-v1", datasetRef={"name": "agent-v1"}, preset="balanced")


def answer(job: Json) -> Outcome:
    """What the process of a Job finds, if all is well."""
    role, name = (job["metadata"]["labels"][label] for label in (LABEL_ROLE, LABEL_NAME))
    if role == "dataset":
        return build.dataset_outcome()
    if role == "training":
        return build.training_outcome(name)
    return build.inspect_outcome()


def end_job(kube: FakeKube, job: Json, outcome: Outcome) -> None:
    """Let a Job's pod say something and end, as kubelet and Job controller do."""
    key, metadata = key_of(job), job["metadata"]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{key.name}-{metadata['uid']}",
            "namespace": key.namespace,
            "labels": {**metadata["labels"], "batch.kubernetes.io/controller-uid": metadata["uid"]},
            "ownerReferences": [{"kind": "Job", "name": key.name, "uid": metadata["uid"]}],
        },
        "spec": {"containers": [{"name": "main"}]},
    }
    made = kube.put(pod)
    ended = {"terminated": {"exitCode": 0 if outcome.ok else 64, "message": outcome.model_dump_json(by_alias=True)}}
    status = {"phase": "Succeeded" if outcome.ok else "Failed", "containerStatuses": [{"name": "main", "state": ended}]}
    kube.change(key_of(made), status=status)
    kube.change(key, status={"conditions": [{"type": "Complete" if outcome.ok else "Failed", "status": "True"}]})


def serve(kube: FakeKube, deployment: Json, *, ready: bool) -> None:
    """Let a Deployment's pods be ready or not, as its controller says it."""
    replicas, generation = deployment["spec"]["replicas"], deployment["metadata"]["generation"]
    counts = {"replicas": replicas, "updatedReplicas": replicas, "observedGeneration": generation}
    kube.change(key_of(deployment), status={**counts, "readyReplicas": replicas if ready else 0})


def live(kube: FakeKube) -> None:
    """Let everything that can come up come up: Jobs end well, Deployments are ready."""
    for job in list(kube.all("Job")):
        if not job.get("status") and not job["spec"].get("suspend"):
            end_job(kube, job, answer(job))
    for deployment in list(kube.all("Deployment")):
        serve(kube, deployment, ready=True)
