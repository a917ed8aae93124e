"""A tiny pure cluster: carries plans out, lets Deployments and Jobs live, and shows the result to the next plan."""

import copy
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from specop.api.base import Resource
from specop.api.dataset import SpeculatorDataset
from specop.api.drafter import Drafter
from specop.api.endpoint import DraftedEndpoint, Measured
from specop.api.jobs import Outcome
from specop.api.shared import Json
from specop.api.training_job import SpeculatorTrainingJob
from specop.common.names import LABEL_ARM, LABEL_KIND, LABEL_NAME
from specop.domain import dataset, drafter, endpoint, training_job
from specop.domain.observed import (
    CaptureReading,
    Children,
    DatasetObserved,
    DrafterObserved,
    EndpointObserved,
    TrainingObserved,
)
from specop.domain.plan import Apply, Plan
from tests.domain import build

KINDS: dict[str, type[Resource]] = {
    kind.KIND: kind for kind in (SpeculatorDataset, SpeculatorTrainingJob, Drafter, DraftedEndpoint)
}
Behaviour = Callable[[Json], str]
"""Of a pod's arm or a Job: ready, starting, pending, crash, refused."""


@dataclass
class World:
    """Objects by (kind, name), a clock, and how pods behave by arm."""

    objects: dict[tuple[str, str], Json] = field(default_factory=dict)
    seconds: float = 0
    runtimes: Any = field(default_factory=build.runtimes)
    arms: dict[str, str] = field(default_factory=dict)
    """Behaviour by arm; `ready` where nothing is said."""
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    """By name of the Job: what it will say."""
    writes: int = 0
    uids: Any = field(default_factory=lambda: itertools.count(1))
    history: list[tuple[int, int]] = field(default_factory=list)
    """Ready pods and pods of all arms, after each round."""

    @property
    def now(self) -> datetime:
        return build.at(self.seconds)

    def put(self, obj: Resource) -> None:
        self.objects[obj.KIND, obj.metadata.name] = obj.model_dump(mode="json", by_alias=True, exclude_none=True)

    def edit(self, kind: str, name: str, change: Callable[[Json], None]) -> None:
        body = self.objects[kind, name]
        change(body["spec"])
        body["metadata"]["generation"] += 1

    def remove(self, kind: str, name: str) -> None:
        body = self.objects.pop((kind, name), None)
        if body is not None:
            self._drop_orphans(body["metadata"]["uid"])

    def get(self, kind: str, name: str) -> Any:
        body = self.objects.get((kind, name))
        return KINDS[kind].model_validate(body) if body else None

    def named(self, kind: str) -> list[str]:
        return sorted(name for found, name in self.objects if found == kind)

    def all(self, kind: str) -> list[Any]:
        return [self.get(kind, name) for name in self.named(kind)]

    def children(self, owner: Resource) -> Children:
        def of(kind: str) -> tuple[Json, ...]:
            found = [copy.deepcopy(body) for (name, _), body in self.objects.items() if name == kind]
            wanted = {LABEL_KIND: owner.KIND.lower(), LABEL_NAME: owner.metadata.name}
            return tuple(b for b in found if wanted.items() <= b["metadata"].get("labels", {}).items())

        jobs = of("Job")
        outcomes = {
            job["metadata"]["uid"]: self.outcomes[job["metadata"]["name"]]
            for job in jobs
            if job.get("status", {}).get("conditions") and job["metadata"]["name"] in self.outcomes
        }
        return Children(jobs, of("Deployment"), of("Service"), of("Pod"), outcomes)

    def observe(self, kind: str, name: str) -> Any:
        obj = self.get(kind, name)
        children = self.children(obj)
        if kind == "SpeculatorDataset":
            endpoints = {item.metadata.name: item for item in self.all("DraftedEndpoint")}
            datasets = {item.metadata.name: item for item in self.all("SpeculatorDataset")}
            return DatasetObserved(obj, self.runtimes, children, endpoints, datasets)
        if kind == "SpeculatorTrainingJob":
            warm = obj.spec.warm_start
            return TrainingObserved(
                obj,
                self.runtimes,
                children,
                dataset=self.get("SpeculatorDataset", obj.spec.dataset_ref.name),
                parent=self.get("Drafter", warm.drafter_ref.name) if warm else None,
                drafter=self.get("Drafter", name),
            )
        if kind == "Drafter":
            claim = obj.spec.lineage.training_job if obj.spec.lineage else None
            job = self.get("SpeculatorTrainingJob", claim.name) if claim else None
            same = job is not None and claim is not None and job.metadata.uid == claim.uid
            endpoints = tuple(self.all("DraftedEndpoint"))
            return DrafterObserved(obj, self.runtimes, children, job if same else None, endpoints)
        return EndpointObserved(obj, self.runtimes, children, tuple(self.all("Drafter")))

    def plan(self, kind: str, name: str, **readings: CaptureReading | Measured) -> Plan:
        planner = {
            "SpeculatorDataset": dataset.plan,
            "SpeculatorTrainingJob": training_job.plan,
            "Drafter": drafter.plan,
            "DraftedEndpoint": endpoint.plan,
        }[kind]
        return planner(replace(self.observe(kind, name), **readings), self.now)  # type: ignore[operator]

    def reconcile(self, kind: str, name: str, **readings: Any) -> Plan:
        """One reconcile, as the executor does it."""
        plan = self.plan(kind, name, **readings)
        for create in plan.creates:
            key = create.body["kind"], create.body["metadata"]["name"]
            if key not in self.objects:
                self.objects[key] = self._made(create.body)
                self.writes += 1
        for apply in plan.applies:
            self._apply(apply)
        for delete in plan.deletes:
            body = self.objects.get((delete.kind, delete.name))
            if body is not None and body["metadata"]["uid"] == delete.uid:
                del self.objects[delete.kind, delete.name]
                self._drop_orphans(delete.uid)
                self.writes += 1
        body = self.objects[kind, name]
        if plan.status is not None and body.get("status") != plan.status:
            body["status"] = plan.status
            self.writes += 1
        return plan

    def round(self) -> int:
        """Reconcile everything, let time and controllers work; returns the number of writes."""
        before = self.writes
        for kind in KINDS:
            for name in self.named(kind):
                self.reconcile(kind, name)
        self.live()
        self.seconds += 1
        return self.writes - before

    def settle(self, rounds: int = 40) -> None:
        """Go on until nothing is written, twice in a row: Deployments may have moved after the first."""
        still = 0
        for _ in range(rounds):
            still = still + 1 if self.round() == 0 else 0
            if still == 2:
                return
        raise AssertionError("no fixed point")

    def _made(self, body: Json) -> Json:
        made = copy.deepcopy(body)
        stamp = self.now.strftime("%Y-%m-%dT%H:%M:%SZ")
        made["metadata"] |= {"uid": f"uid-{next(self.uids)}", "generation": 1, "creationTimestamp": stamp}
        return made

    def _apply(self, apply: Apply) -> None:
        key = apply.body["kind"], apply.body["metadata"]["name"]
        before = copy.deepcopy(self.objects.get(key))
        if before is None:
            assert apply.manager == "specop", "a one-field apply would make a broken child"
            self.objects[key] = self._made(apply.body)
            self.objects[key]["spec"].setdefault("replicas", 1)
        else:
            merged = copy.deepcopy(before)
            merged["spec"] |= copy.deepcopy(apply.body["spec"])
            merged["metadata"].setdefault("annotations", {}).update(apply.body["metadata"].get("annotations", {}))
            if merged["spec"] != before["spec"]:
                merged["metadata"]["generation"] += 1
            if merged == before:
                return
            self.objects[key] = merged
        self.writes += 1

    # --- what controllers and kubelets do

    def live(self) -> None:
        for (kind, _), body in list(self.objects.items()):
            if kind == "Deployment":
                self._deployment(body)
            elif kind == "Job":
                self._job(body)
        live = [body.get("status", {}) for (kind, _), body in self.objects.items() if kind == "Deployment"]
        pods = sum(1 for kind, _ in self.objects if kind == "Pod")
        self.history.append((sum(status.get("readyReplicas", 0) for status in live), pods))

    def _deployment(self, body: Json) -> None:
        arm, wanted = body["metadata"]["labels"][LABEL_ARM], body["spec"]["replicas"]
        behaviour = self.arms.get(arm, "ready")
        self._drop_orphans(body["metadata"]["uid"])
        for index in range(wanted):
            pod = _pod(body, index, behaviour, self.now)
            self.objects["Pod", pod["metadata"]["name"]] = pod
        body["status"] = {
            "observedGeneration": body["metadata"]["generation"],
            "replicas": wanted,
            "updatedReplicas": wanted,
            "readyReplicas": wanted if behaviour == "ready" else 0,
        }

    def _job(self, body: Json) -> None:
        if body["spec"].get("suspend") or body.get("status", {}).get("conditions"):
            return
        said = self.outcomes.get(body["metadata"]["name"])
        if said is not None:
            body["status"] = {"conditions": [{"type": "Complete" if said.ok else "Failed", "status": "True"}]}

    def _drop_orphans(self, owner: str) -> None:
        for key, body in list(self.objects.items()):
            if any(ref.get("uid") == owner for ref in body["metadata"].get("ownerReferences", [])):
                del self.objects[key]


def _pod(deployment: Json, index: int, behaviour: str, now: datetime) -> Json:
    template, meta = deployment["spec"]["template"], deployment["metadata"]
    scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": meta["creationTimestamp"]}
    pending = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes: gpu"}
    ready = {"type": "Ready", "status": "True" if behaviour == "ready" else "False"}
    status: Json = {"phase": "Running", "conditions": [pending if behaviour == "pending" else scheduled, ready]}
    if behaviour == "crash":
        ended = {"terminated": {"exitCode": 1, "reason": "Error"}}
        waiting = {"waiting": {"reason": "CrashLoopBackOff"}}
        status["containerStatuses"] = [{"name": "engine", "state": waiting, "lastState": ended, "restartCount": 3}]
    if behaviour == "refused":
        said = build.refused("fetch", "DigestMismatch", "other bytes").model_dump_json(by_alias=True)
        ended = {"terminated": {"exitCode": 64, "message": said}}
        status["initContainerStatuses"] = [{"name": "fetch", "state": ended, "restartCount": 0}]
    owner = {"kind": "Deployment", "uid": meta["uid"]}
    metadata = {**copy.deepcopy(template["metadata"]), "name": f"{meta['name']}-{index}", "ownerReferences": [owner]}
    metadata["creationTimestamp"] = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"kind": "Pod", "metadata": metadata, "status": status}
