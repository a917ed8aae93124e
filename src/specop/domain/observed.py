"""What a plan may look at: frozen inputs, one class per kind, gathered by `controllers` from cache and pods' pages.

Children are plain dicts as the API server sent them; our own objects are models. A stale cache is a legal input.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from specop.api.dataset import DatasetProgress, SpeculatorDataset
from specop.api.drafter import Drafter
from specop.api.endpoint import DraftedEndpoint, Measured
from specop.api.jobs import Outcome
from specop.api.preset import SpeculatorPreset
from specop.api.shared import Json
from specop.api.training_job import SpeculatorTrainingJob, TrainingProgress
from specop.manifests.runtime import Runtimes


@dataclass(frozen=True, slots=True)
class Children:
    """What an owner's label selects, newest first, without what is being deleted in the background."""

    jobs: tuple[Json, ...] = ()
    deployments: tuple[Json, ...] = ()
    services: tuple[Json, ...] = ()
    pods: tuple[Json, ...] = ()
    outcomes: Mapping[str, Outcome] = field(default_factory=dict)
    """By uid of the Job: the parsed termination message of its newest ended pod, if it has one."""


@dataclass(frozen=True, slots=True)
class DatasetObserved:
    """Inputs of `domain.dataset.plan`."""

    obj: SpeculatorDataset
    runtimes: Runtimes
    children: Children = field(default_factory=Children)
    endpoints: Mapping[str, DraftedEndpoint] = field(default_factory=dict)
    """Endpoints named by requestLog sources and by regenerate, by name; a missing one is not in the map."""
    datasets: Mapping[str, SpeculatorDataset] = field(default_factory=dict)
    """Datasets named by datasetRef sources, in the same way."""
    progress: DatasetProgress | None = None


@dataclass(frozen=True, slots=True)
class TrainingObserved:
    """Inputs of `domain.training_job.plan`."""

    obj: SpeculatorTrainingJob
    runtimes: Runtimes
    children: Children = field(default_factory=Children)
    dataset: SpeculatorDataset | None = None
    preset: SpeculatorPreset | None = None
    """A SpeculatorPreset object of that name; built-in presets are found by the plan itself."""
    parent: Drafter | None = None
    """The drafter of warmStart."""
    drafter: Drafter | None = None
    """The drafter that bears this job's name, whoever made it."""
    others: tuple[SpeculatorTrainingJob, ...] = ()
    """All training jobs of the namespace, until this one's inputs are frozen: earlier runs say what it will cost."""
    progress: TrainingProgress | None = None


@dataclass(frozen=True, slots=True)
class DrafterObserved:
    """Inputs of `domain.drafter.plan`."""

    obj: Drafter
    runtimes: Runtimes
    children: Children = field(default_factory=Children)
    training_job: SpeculatorTrainingJob | None = None
    """The job that lineage names, if its uid still is the same."""
    endpoints: tuple[DraftedEndpoint, ...] = ()
    """All endpoints of the namespace, for approvedBy."""


@dataclass(frozen=True, slots=True)
class CaptureReading:
    """What the companions of an endpoint's pods said since the last reconcile."""

    requests: int
    """Newly shipped requests, from counter differences."""
    shipped_until: str | None
    """The oldest watermark of all running pods."""


@dataclass(frozen=True, slots=True)
class EndpointObserved:
    """Inputs of `domain.endpoint.plan`."""

    obj: DraftedEndpoint
    runtimes: Runtimes
    children: Children = field(default_factory=Children)
    drafters: tuple[Drafter, ...] = ()
    """All drafters of the namespace."""
    measured: Measured | None = None
    """The newest complete window, or None when nothing new was measured."""
    capture: CaptureReading | None = None
