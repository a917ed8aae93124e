"""The kinds that specop speaks of, and their paths on the API server: a static table, no discovery at run time."""

from dataclasses import dataclass

from specop.api.dataset import SpeculatorDataset
from specop.api.drafter import Drafter
from specop.api.endpoint import DraftedEndpoint
from specop.api.preset import SpeculatorPreset
from specop.api.training_job import SpeculatorTrainingJob
from specop.common.names import API_VERSION, LABEL_MANAGED_BY, MANAGED_BY


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of object."""

    api_version: str
    name: str
    plural: str
    namespaced: bool = True
    ours: bool = False
    """Defined by specop: its status is ours to write, its spec never."""

    @property
    def group(self) -> str:
        """API group; empty for the core group."""
        return self.api_version.rpartition("/")[0]

    @property
    def selector(self) -> str:
        """Label selector of the objects that concern us: of built-in kinds only children, of our kinds all."""
        return "" if self.ours else f"{LABEL_MANAGED_BY}={MANAGED_BY}"

    def path(self, namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
        """URL path; `namespace` None means all namespaces, and is the only choice for cluster-scoped kinds."""
        root = f"/apis/{self.api_version}" if self.group else f"/api/{self.api_version}"
        parts = [root]
        if namespace is not None and self.namespaced:
            parts += ["namespaces", namespace]
        parts += [part for part in (self.plural, name, subresource) if part is not None]
        return "/".join(parts)


def _ours(
    model: type[SpeculatorDataset | SpeculatorTrainingJob | Drafter | DraftedEndpoint | SpeculatorPreset],
) -> Kind:
    return Kind(API_VERSION, model.KIND, model.PLURAL, namespaced=model is not SpeculatorPreset, ours=True)


DATASET = _ours(SpeculatorDataset)
TRAINING_JOB = _ours(SpeculatorTrainingJob)
DRAFTER = _ours(Drafter)
ENDPOINT = _ours(DraftedEndpoint)
PRESET = _ours(SpeculatorPreset)
JOB = Kind("batch/v1", "Job", "jobs")
DEPLOYMENT = Kind("apps/v1", "Deployment", "deployments")
SERVICE = Kind("v1", "Service", "services")
POD = Kind("v1", "Pod", "pods")
EVENT = Kind("v1", "Event", "events")
LEASE = Kind("coordination.k8s.io/v1", "Lease", "leases")

RECONCILED = (DATASET, TRAINING_JOB, DRAFTER, ENDPOINT)
"""Kinds that have a plan."""
WATCHED = (*RECONCILED, PRESET, JOB, DEPLOYMENT, SERVICE, POD)
"""Kinds that the cache holds."""
MODELS = {
    model.KIND: model
    for model in (SpeculatorDataset, SpeculatorTrainingJob, Drafter, DraftedEndpoint, SpeculatorPreset)
}

_BY_NAME = {kind.name: kind for kind in (*WATCHED, EVENT, LEASE)}


def kind_named(name: str) -> Kind:
    """Look a kind up by its name, as in a body's `kind`; KeyError for kinds that specop does not speak of."""
    return _BY_NAME[name]
