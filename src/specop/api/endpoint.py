"""DraftedEndpoint: a target served by vLLM with, or, while none is approved, without a drafter."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from specop.api.base import Condition, Digest, Model, Observed, Ref, Resource, Time, Uri, exactly_one
from specop.api.markers import ListMap, ListSet, ServerDefault
from specop.api.shared import (
    Contract,
    DrafterRefStatus,
    NamedUid,
    PodTemplate,
    Resources,
    Storage,
    TargetFacts,
    TargetSpec,
)


class Engine(Model):
    """How vLLM runs. Both arms get the same flags; only the speculative configuration differs."""

    version: Annotated[str, Field(max_length=64)] | None = Field(default=None, description="Tag of the operator's serving image.")
    image: Annotated[str, Field(min_length=1, max_length=512)] | None = Field(default=None, description="Another image.")
    args: Annotated[list[Annotated[str, Field(max_length=1024)]], Field(max_length=64)] = Field(
        default_factory=list, description="Further flags of vLLM's OpenAI server."
    )
    tensor_parallel: Annotated[int, Field(ge=1, le=64)] = 1
    dtype: Literal["Auto", "Float32", "Float16", "BFloat16"] = "Auto"
    max_model_length: Annotated[int, Field(ge=64, le=16_777_216)] | None = None
    resources: Resources | None = Field(default=None, description="Requests and limits of the engine's container.")


class Capture(Model):
    """Requests and answers are kept in object storage, for datasets. Requests with the header X-Specop-No-Train never are."""

    uri: Uri = Field(description="Captures lie under <uri>/<namespace>/<endpoint>/dt=…/hour=….")
    sample_percent: Annotated[int, Field(ge=0, le=100)] = 100
    storage: Storage | None = Field(default=None, description="Where captures lie, if elsewhere.")


class DrafterFrom(Model):
    """Which drafters are candidates."""

    training_job_ref: Ref | None = Field(default=None, description="That job's drafter and every later generation of its lineage.")
    drafter_ref: Ref | None = Field(default=None, description="One drafter.")


class Approval(Model):
    """A person's yes to exactly these bytes."""

    digest: Digest
    by: Annotated[str, Field(min_length=1, max_length=253)] = Field(description="Who approves.")
    attempt: Annotated[int, Field(ge=1, le=1000)] = Field(default=1, description="Raise it to try a digest again that failed.")
    expires_at: Time | None = None


class ApprovalPolicy(Model):
    """The gate."""

    policy: Annotated[Literal["Required", "Automatic"], ServerDefault("Required")] = Field(
        default="Required", description="Automatic serves what passed qualification; Required waits for a person."
    )
    approvals: Annotated[list[Approval], Field(max_length=64), ListMap(("digest", "by"))] = Field(default_factory=list)
    rejected_digests: Annotated[list[Digest], Field(max_length=64), ListSet()] = Field(default_factory=list)


class DrafterPolicy(Model):
    """Which drafter may serve beside the target."""

    from_: Annotated[DrafterFrom, exactly_one("trainingJobRef", "drafterRef")] | None = Field(default=None, alias="from")
    speculative_tokens: Annotated[int, Field(ge=1, le=16)] | None = Field(
        default=None, description="Tokens drafted per step; default and upper bound: the drafter's decoding heads."
    )
    approval: ApprovalPolicy = Field(default_factory=ApprovalPolicy)


class Rollout(Model):
    """How an arm replaces another."""

    surge: Annotated[Literal["IfPossible", "Never"], ServerDefault("IfPossible")] = Field(
        default="IfPossible", description="IfPossible: the new arm beside the old. Never: in place, with a gap at one replica."
    )
    ready_deadline_seconds: Annotated[int, Field(ge=10, le=86_400)] = Field(
        default=900, description="A drafted arm that is not ready by then has failed; the base goes on serving."
    )


class DriftTrigger(Model):
    """Retrain when the workload has moved."""


class RetrainTriggers(Model):
    """What starts a retraining."""

    drift: DriftTrigger | None = None


class Retrain(Model):
    """When a new generation of the lineage is trained without being asked."""

    on: RetrainTriggers = Field(default_factory=RetrainTriggers)
    cooldown_seconds: Annotated[int, Field(ge=60, le=31_536_000)] = 86_400


class EndpointSpec(Model):
    """A served model."""

    target: TargetSpec
    served_name: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][-A-Za-z0-9._/]*$")] = Field(
        description="Model name in requests."
    )
    engine: Engine = Field(default_factory=Engine)
    replicas: Annotated[int, Field(ge=0, le=1000), ServerDefault(1)] = 1
    pod_template: PodTemplate | None = None
    storage: Storage | None = None
    capture: Capture | None = None
    drafter: DrafterPolicy | None = None
    rollout: Rollout = Field(default_factory=Rollout)
    retrain: Retrain | None = None


class ArmStatus(Observed):
    """One Deployment of the endpoint."""

    name: Annotated[str, Field(max_length=16)] = Field(description="base, or d- and the digest's first 8 digits.")
    deployment: Annotated[str, Field(max_length=63)]
    drafter: DrafterRefStatus | None = None
    replicas: int = 0
    ready_replicas: int = 0


class ServingDrafter(DrafterRefStatus):
    """The drafter that serves; kept here so that it serves on when the Drafter object is gone."""

    contract: Contract
    since: Time = ""
    attempt: int = 1


class FailedDrafter(Observed):
    """A digest that did not come up, or was rolled back."""

    digest: Digest
    attempt: int = 1
    reason: Annotated[str, Field(max_length=128)]
    message: Annotated[str, Field(max_length=1024)] = ""
    time: Time = ""


class CandidateDrafter(DrafterRefStatus):
    """The newest drafter of the lineage that is not serving, and why."""

    acceptance_length: Annotated[str, Field(max_length=16)] | None = None
    state: Annotated[str, Field(max_length=32)] = Field(default="", description="AwaitingApproval, RollingOut, Failed, Rejected, Incompatible.")
    attempt: int = 1
    started: Time | None = Field(default=None, description="When its arm was first made.")


class EndpointDrafterStatus(Observed):
    """Drafters of this endpoint."""

    serving: ServingDrafter | None = None
    candidate: CandidateDrafter | None = None
    failed: Annotated[list[FailedDrafter], Field(max_length=32), ListMap(("digest",))] = Field(default_factory=list)


class CaptureStatus(Observed):
    """What the serving pods have shipped."""

    requests: int = Field(default=0, description="Requests shipped since the endpoint was made.")
    shipped_until: Time | None = Field(default=None, description="Watermark: everything captured before it lies in storage.")


class Measured(Observed):
    """Serving figures over the last window with traffic, from differences of the engine's counters; rounded."""

    window_seconds: int = 0
    requests: int = 0
    acceptance_rate: Annotated[str, Field(max_length=16)] | None = None
    acceptance_length: Annotated[str, Field(max_length=16)] | None = None
    per_position: Annotated[list[Annotated[str, Field(max_length=16)]], Field(max_length=32)] | None = None
    tokens_per_second: Annotated[str, Field(max_length=16)] | None = Field(default=None, description="What one stream sees: 1 / time per output token.")
    throughput: Annotated[str, Field(max_length=16)] | None = Field(default=None, description="Generated tokens per second, all streams.")
    ttft_p50_ms: int | None = None
    e2e_p50_ms: int | None = None
    e2e_p90_ms: int | None = None


class EndpointStatus(Observed):
    """What is observed."""

    observed_generation: int = -1
    conditions: Annotated[list[Condition], Field(max_length=16), ListMap(("type",))] = Field(default_factory=list)
    url: Annotated[str, Field(max_length=512)] | None = None
    replicas: int = 0
    ready_replicas: int = 0
    selector: Annotated[str, Field(max_length=512)] | None = None
    image: Annotated[str, Field(max_length=512)] | None = Field(default=None, description="Image of pods' companion, frozen per generation.")
    job: NamedUid | None = Field(default=None, description="The inspect Job of the target.")
    target: TargetFacts | None = None
    target_uri: Uri | None = Field(default=None, description="The URI that `target` speaks of.")
    arms: Annotated[list[ArmStatus], Field(max_length=8), ListMap(("name",))] = Field(default_factory=list)
    drafter: EndpointDrafterStatus = Field(default_factory=EndpointDrafterStatus)
    capture: CaptureStatus | None = None
    measured: Measured | None = None


class DraftedEndpoint(Resource):
    """A model served by vLLM, with a drafter made for its own traffic once one is approved."""

    KIND: ClassVar[str] = "DraftedEndpoint"
    PLURAL: ClassVar[str] = "draftedendpoints"

    spec: EndpointSpec
    status: EndpointStatus = Field(default_factory=EndpointStatus)


