"""Builds what a plan may look at, one function a kind, from the cache and from what pods' pages said.

It is: selection and parsing. It is not: a decision; and it reads the API server only for one thing, the pods of a Job
that ended, because the Job's event may come before its pod's and a missing outcome would look like a lost one.

An object of ours that this version cannot read is `Terminal(InvalidSpec)` if it is the one to reconcile, and absent if
it is a neighbour.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import TypeVar

from pydantic import ValidationError

from specop.api import reasons
from specop.api.dataset import DatasetProgress, SpeculatorDataset
from specop.api.drafter import Drafter
from specop.api.endpoint import DraftedEndpoint
from specop.api.jobs import Outcome
from specop.api.preset import SpeculatorPreset
from specop.api.shared import Json
from specop.api.training_job import SpeculatorTrainingJob, TrainingProgress
from specop.common.errors import Terminal
from specop.common.names import LABEL_INDEX
from specop.controllers.intake import Intake
from specop.controllers.readings import Readings
from specop.controllers.routing import is_awaited
from specop.domain import dataset, drafter, endpoint, training_job
from specop.domain.observed import Children, DatasetObserved, DrafterObserved, EndpointObserved, TrainingObserved
from specop.domain.plan import Plan
from specop.kube.cache import Cache, Key
from specop.kube.port import Port
from specop.kube.resources import (
    DATASET,
    DEPLOYMENT,
    DRAFTER,
    ENDPOINT,
    JOB,
    POD,
    PRESET,
    SERVICE,
    TRAINING_JOB,
    Kind,
)
from specop.manifests.engine import FETCH
from specop.manifests.runtime import Runtimes

T = TypeVar("T")
P = TypeVar("P", DatasetProgress, TrainingProgress)

_JOB_UID = "batch.kubernetes.io/controller-uid"


class Gatherer:
    """Observations of one cluster."""

    def __init__(self, port: Port, intake: Intake, readings: Readings, runtimes: Runtimes) -> None:
        self._port = port
        self._intake = intake
        self._cache: Cache = intake.cache
        self._readings = readings
        self._runtimes = runtimes
        self._looked: set[str] = set()
        """uids of ended Jobs whose pods were listed."""

    async def plan(self, key: Key, now: datetime) -> Plan | None:
        """Return what to do for an object; None if there is no such object. Terminal if it cannot be read."""
        await self._complete(key)
        # From here to the plan nothing is awaited: it is made from one state of the cache, and the executor finds that.
        try:
            obj = self._cache.model(key)
        except ValidationError as error:
            raise Terminal(reasons.INVALID_SPEC, _what_is_wrong(error)) from error
        if obj is None or obj.metadata.deletion_timestamp is not None:
            return None
        children = self._children(key)
        match obj:
            case SpeculatorDataset():
                return dataset.plan(self.dataset(key, obj, children), now)
            case SpeculatorTrainingJob():
                return training_job.plan(self.training_job(key, obj, children), now)
            case Drafter():
                return drafter.plan(self.drafter(key, obj, children), now)
            case DraftedEndpoint():
                return endpoint.plan(self.endpoint(key, obj, children), now)
            case _:
                raise TypeError(f"{key.kind} has no plan")

    def dataset(self, key: Key, obj: SpeculatorDataset, children: Children) -> DatasetObserved:
        """Observe a dataset."""
        names = {source.request_log.endpoint_ref.name for source in obj.spec.sources if source.request_log is not None}
        if obj.spec.regenerate and obj.spec.regenerate.endpoint_ref:
            names.add(obj.spec.regenerate.endpoint_ref.name)
        found = {name: self._neighbour(DraftedEndpoint, ENDPOINT, key.namespace, name) for name in names}
        references = {source.dataset_ref.name for source in obj.spec.sources if source.dataset_ref is not None}
        datasets = {name: self._neighbour(SpeculatorDataset, DATASET, key.namespace, name) for name in references}
        return DatasetObserved(
            obj=obj,
            runtimes=self._runtimes,
            children=children,
            endpoints={name: value for name, value in found.items() if value is not None},
            datasets={name: value for name, value in datasets.items() if value is not None},
            progress=_parsed(DatasetProgress, self._readings.progress(key)),
        )

    def training_job(self, key: Key, obj: SpeculatorTrainingJob, children: Children) -> TrainingObserved:
        """Observe a training job."""
        spec, namespace = obj.spec, key.namespace
        parent = spec.warm_start.drafter_ref.name if spec.warm_start is not None else None
        return TrainingObserved(
            obj=obj,
            runtimes=self._runtimes,
            children=children,
            dataset=self._neighbour(SpeculatorDataset, DATASET, namespace, spec.dataset_ref.name),
            preset=self._neighbour(SpeculatorPreset, PRESET, "", spec.preset),
            parent=self._neighbour(Drafter, DRAFTER, namespace, parent) if parent is not None else None,
            drafter=self._neighbour(Drafter, DRAFTER, namespace, key.name),
            others=self._all(SpeculatorTrainingJob, TRAINING_JOB, namespace) if obj.status.resolved is None else (),
            progress=_parsed(TrainingProgress, self._readings.progress(key)),
        )

    def drafter(self, key: Key, obj: Drafter, children: Children) -> DrafterObserved:
        """Observe a drafter."""
        wanted = obj.spec.lineage.training_job if obj.spec.lineage is not None else None
        job = (
            self._neighbour(SpeculatorTrainingJob, TRAINING_JOB, key.namespace, wanted.name)
            if wanted is not None
            else None
        )
        same = job is not None and wanted is not None and wanted.uid in (None, job.metadata.uid)
        return DrafterObserved(
            obj=obj,
            runtimes=self._runtimes,
            children=children,
            training_job=job if same else None,
            endpoints=self._all(DraftedEndpoint, ENDPOINT, key.namespace),
        )

    def endpoint(self, key: Key, obj: DraftedEndpoint, children: Children) -> EndpointObserved:
        """Observe an endpoint."""
        follows = obj.spec.drafter is not None and obj.spec.drafter.from_ is not None
        return EndpointObserved(
            obj=obj,
            runtimes=self._runtimes,
            children=children,
            drafters=self._all(Drafter, DRAFTER, key.namespace) if follows else (),
            measured=self._readings.measured(key),
            capture=self._readings.shipped(key, obj.status.capture, awaited=is_awaited(self._cache, key)),
        )

    def _neighbour(self, model: type[T], kind: Kind, namespace: str, name: str) -> T | None:
        try:
            found = self._cache.model(Key(kind.name, namespace, name))
        except ValidationError:
            return None
        assert found is None or isinstance(found, model)
        return found

    def _all(self, model: type[T], kind: Kind, namespace: str) -> tuple[T, ...]:
        """All of a namespace, by name."""
        names = sorted(key.name for key in self._cache.keys(kind, namespace))
        found = (self._neighbour(model, kind, namespace, name) for name in names)
        return tuple(value for value in found if value is not None)

    async def _complete(self, key: Key) -> None:
        """List the pods of Jobs that ended and whose outcome the cache does not have, once a Job."""
        found = self._alive(key)
        outcomes = _outcomes(found[JOB.name], found[POD.name])
        for job in found[JOB.name]:
            uid = job["metadata"]["uid"]
            if uid not in outcomes and _ended(job) and uid not in self._looked:
                for pod in (await self._port.list(POD, key.namespace, f"{_JOB_UID}={uid}")).items:
                    self._intake.seen(pod)
                self._looked.add(uid)

    def _children(self, key: Key) -> Children:
        found = self._alive(key)
        return Children(
            jobs=found[JOB.name],
            deployments=found[DEPLOYMENT.name],
            services=found[SERVICE.name],
            pods=found[POD.name],
            outcomes=_outcomes(found[JOB.name], found[POD.name]),
        )

    def _alive(self, key: Key) -> dict[str, tuple[Json, ...]]:
        """Children by kind, newest first, without what is being deleted."""
        children = [body for body in self._cache.children(key) if "deletionTimestamp" not in body["metadata"]]
        children.sort(key=lambda body: (body["metadata"]["creationTimestamp"], body["metadata"]["name"]), reverse=True)
        return {
            kind.name: tuple(body for body in children if body["kind"] == kind.name)
            for kind in (JOB, DEPLOYMENT, SERVICE, POD)
        }


def _outcomes(jobs: tuple[Json, ...], pods: tuple[Json, ...]) -> Mapping[str, Outcome]:
    """By uid of the Job: what the newest pod that ended with a readable message said. Pods come newest first.

    Of several pods of one run, index 0 speaks; the others are heard where they say what went wrong.
    """
    outcomes: dict[str, Outcome] = {}
    wanted = {job["metadata"]["uid"] for job in jobs}
    for pod in pods:
        labels = pod["metadata"].get("labels", {})
        uid = labels.get(_JOB_UID)
        if uid not in wanted or uid in outcomes:
            continue
        outcome = _outcome(pod)
        if outcome is not None and (not outcome.ok or labels.get(LABEL_INDEX, "0") == "0"):
            outcomes[uid] = outcome
    return outcomes


def _outcome(pod: Json) -> Outcome | None:
    """Parse what the main container, the first one, said at its end; or fetch, which failed before that began."""
    status = pod.get("status", {})
    statuses = status.get("containerStatuses") or [{}]
    main = pod.get("spec", {}).get("containers", [{}])[0].get("name")
    said = _said(next((each for each in statuses if each.get("name") == main), statuses[0]))
    if said is not None:
        return _parsed_text(said)
    before = (_said(each) for each in status.get("initContainerStatuses") or [] if each.get("name") == FETCH)
    fetched = _parsed_text(next(before, None) or "")
    return None if fetched is None or fetched.ok else fetched


def _said(container: Json) -> str | None:
    for state in (container.get("state", {}), container.get("lastState", {})):
        message: str | None = state.get("terminated", {}).get("message")
        if message:
            return message
    return None


def _parsed_text(message: str) -> Outcome | None:
    try:
        return Outcome.model_validate_json(message)
    except ValidationError:
        return None


def _parsed(model: type[P], page: Json | None) -> P | None:
    """Return a page from a pod; one that is not understood is as good as none."""
    try:
        return model.model_validate(page) if page is not None else None
    except ValidationError:
        return None


def _ended(job: Json) -> bool:
    conditions = job.get("status", {}).get("conditions") or ()
    return any(each["type"] in ("Complete", "Failed") and each["status"] == "True" for each in conditions)


def _what_is_wrong(error: ValidationError) -> str:
    """Paths and rules of the first errors, without the values."""
    parts = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors(include_input=False)[:3]]
    return "this version of the operator cannot read the object: " + "; ".join(parts)
