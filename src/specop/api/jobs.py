"""What a Job's process is told and what it says back.

The operator writes `SPECOP_CONFIG`; the process writes `result.json`. Three ways back, all with the same JSON
(`Outcome`): the object `<output>/runs/<uid>/result.json`, written once; the container's termination message; and, while
the process runs, the page `/progress` on `PROGRESS_PORT`.
"""

from typing import Annotated, Literal

from pydantic import Field

from specop.api.base import Digest, Model, Observed, Uri
from specop.api.dataset import DatasetFacts, Engine, Holdout, ObjectsSource, ResolvedWindow, SeedsSource, Transform
from specop.api.hyperparameters import Hyperparameters
from specop.api.privacy import Privacy
from specop.api.quality import Consent, Period, Quality, RowFilter
from specop.api.regenerate import ServedName
from specop.api.shared import Contract, TargetFacts, Weights
from specop.api.training_job import TrainingSummary

CONFIG_ENV = "SPECOP_CONFIG"
"""Environment variable with the process's configuration, as JSON."""
PROGRESS_PORT = 8090
"""`/progress` (JSON of the kind's progress model), `/metrics`, `/healthz`."""
TERMINATION_LOG = "/dev/termination-log"
WORK_DIR = "/work"
"""Scratch space of Job pods (emptyDir); also HOME and TMPDIR."""


class StoreConfig(Model):
    """One object store as a process reaches it; credentials come from the environment."""

    endpoint_url: str | None = None
    region: str | None = None
    ca_bundle: str | None = Field(default=None, description="Path of a mounted file.")


class RunConfig(Model):
    """Common to all Jobs."""

    uid: str = Field(description="uid of the object that the Job works for: names its folder under runs/.")
    namespace: str
    name: str
    output: Uri
    store: StoreConfig = Field(default_factory=StoreConfig)
    target: Uri


class SourceConfig(Model):
    """One source, resolved."""

    name: str
    weight: int = 1
    max_conversations: int | None = None
    repeat: int = 1
    objects: ObjectsSource | None = None
    window: ResolvedWindow | None = None
    seeds: SeedsSource | None = None
    dataset: Weights | None = Field(default=None, description="Another dataset's manifest.")
    min_requests: int = 1
    filter: RowFilter = Field(default_factory=RowFilter)
    exclude_periods: list[Period] = Field(default_factory=list)
    store: StoreConfig | None = None


class RegenerateConfig(Model):
    """Whom to ask for answers, and for which; the key, if there is one, is in the environment."""

    mode: Literal["Never", "IfTargetDiffers", "Always"] = "IfTargetDiffers"
    url: str
    model: str
    target_names: list[ServedName] = Field(default_factory=list)
    concurrency: int = 16
    max_tokens: int = 2048


class DatasetConfig(RunConfig):
    """`python -m specop.data`."""

    sources: list[SourceConfig]
    holdout: Holdout = Field(default_factory=Holdout)
    transform: Transform = Field(default_factory=Transform)
    consent: Consent = Field(default_factory=Consent)
    privacy: Privacy = Field(default_factory=Privacy)
    quality: Quality = Field(default_factory=Quality)
    regenerate: RegenerateConfig | None = None
    engine: Engine = Field(default_factory=Engine)


class TrainingConfig(RunConfig):
    """`python -m specop.trainer`."""

    dataset: Weights = Field(description="The dataset's manifest.")
    hyperparameters: Hyperparameters = Field(description="Complete.")
    sharding: Literal["Full"] | None = Field(
        default=None, description="Full: weights, gradients and optimiser state are cut over all processes."
    )
    state_cache_bytes: int | None = Field(
        default=None, description="Most disk that the target's states may take; unset means what is free."
    )
    warm_start: Weights | None = None


class InspectConfig(RunConfig):
    """`python -m specop.serving.inspect`: facts of a target; of weights, where given, digest and contract."""

    weights: Uri | None = None
    expected_digest: Digest | None = None


class FetchConfig(Model):
    """`python -m specop.serving.fetch`, the init container of a serving pod."""

    target: Uri
    store: StoreConfig = Field(default_factory=StoreConfig)
    drafter: Weights | None = None
    contract: Contract | None = None
    speculative_tokens: int | None = None


class CompanionConfig(Model):
    """`python -m specop.serving.companion`, beside the engine."""

    namespace: str
    endpoint: str
    served_name: str
    arm: str
    engine_url: str = "http://127.0.0.1:8000"
    capture: Uri | None = None
    retention_days: int | None = None
    store: StoreConfig = Field(default_factory=StoreConfig)


class TrainingFacts(Observed):
    """A finished run."""

    drafter: Weights
    contract: Contract
    summary: TrainingSummary


class InspectFacts(Observed):
    """What an inspect Job found."""

    target: TargetFacts
    weights: Weights | None = None
    contract: Contract | None = None


class Outcome(Observed):
    """`result.json`: exactly one of the facts where ok, reason and message where not."""

    kind: Literal["dataset", "training", "inspect", "fetch"]
    ok: bool
    reason: Annotated[str, Field(max_length=128)] = ""
    message: Annotated[str, Field(max_length=1024)] = ""
    dataset: DatasetFacts | None = None
    training: TrainingFacts | None = None
    inspect: InspectFacts | None = None
