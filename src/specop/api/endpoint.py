"""DraftedEndpoint: a target served by vLLM with, or, while none is approved, without a drafter."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from specop.api.base import (
    Conditions,
    Digest,
    Model,
    Observed,
    ObservedGeneration,
    ObservedTime,
    Ref,
    Resource,
    Time,
    Uri,
    exactly_one,
)
from specop.api.engine import Engine
from specop.api.markers import Cel, ListMap, ListSet, ServerDefault, Worded
from specop.api.shared import (
    Contract,
    DrafterRefStatus,
    NamedUid,
    NoOutput,
    PodTemplate,
    Storage,
    TargetFacts,
    TargetSpec,
)


class Capture(Model):
    """Requests and answers kept in object storage, for datasets; never those with the header X-Specop-No-Train."""

    uri: Uri = Field(description="Captures lie under URI/NAMESPACE/ENDPOINT/dt=…/hour=….")
    sample_percent: Annotated[int, Field(ge=0, le=100)] = Field(default=100, description="Share of requests kept.")
    retention_days: Annotated[int, Field(ge=1, le=3650)] | None = Field(
        default=None,
        description="Serving pods delete captures that are older; unset: kept until somebody deletes them. Like all of "
        "capture it is told to pods when they start, so a change rolls them.",
    )
    storage: Annotated[Storage, NoOutput] | None = Field(
        default=None, description="Where captures lie, if elsewhere than spec.storage."
    )


class DrafterFrom(Model):
    """Which drafters are candidates."""

    RULES: ClassVar[tuple[Cel, ...]] = (exactly_one("trainingJobRef", "drafterRef"),)

    training_job_ref: Ref | None = Field(
        default=None, description="That job's drafter and every later generation of its lineage."
    )
    drafter_ref: Ref | None = Field(default=None, description="One drafter.")


class Approval(Model):
    """A person's yes to exactly these bytes."""

    digest: Digest = Field(description="Digest of the drafter, from its status.")
    by: Annotated[str, Field(min_length=1, max_length=253)] = Field(description="Who approves.")
    attempt: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=1, description="Raise it to try a digest again that failed."
    )
    expires_at: Time | None = Field(default=None, description="The approval counts until then.")


class ApprovalPolicy(Model):
    """The gate."""

    policy: Annotated[Literal["Required", "Automatic"], ServerDefault("Required")] = Field(
        default="Required", description="Automatic serves what passed qualification; Required waits for a person."
    )
    approvals: Annotated[list[Approval], Field(max_length=64), ListMap(("digest", "by"))] = Field(
        default_factory=list, description="Digests that people said yes to."
    )
    rejected_digests: Annotated[list[Digest], Field(max_length=64), ListSet()] = Field(
        default_factory=list, description="Digests that may not serve, whoever approved them."
    )


class DrafterPolicy(Model):
    """Which drafter may serve beside the target."""

    from_: DrafterFrom | None = Field(
        default=None, alias="from", description="Which drafters are candidates; unset means the base alone."
    )
    speculative_tokens: Annotated[int, Field(ge=1, le=16)] | None = Field(
        default=None, description="Tokens drafted per step; default and upper bound: the drafter's decoding heads."
    )
    approval: Annotated[ApprovalPolicy, ServerDefault({})] = Field(
        default_factory=ApprovalPolicy, description="Who lets a drafter serve."
    )


class Rollout(Model):
    """How an arm replaces another."""

    surge: Annotated[Literal["IfPossible", "Never"], ServerDefault("IfPossible")] = Field(
        default="IfPossible",
        description="IfPossible: the new arm beside the old. Never: in place, with a gap at one replica.",
    )
    ready_deadline_seconds: Annotated[int, Field(ge=10, le=86_400)] = Field(
        default=900, description="A drafted arm that is not ready by then has failed; the base goes on serving."
    )


class DriftTrigger(Model):
    """Retrain when the workload has moved."""


class RetrainTriggers(Model):
    """What starts a retraining."""

    drift: DriftTrigger | None = Field(default=None, description="Retrain when the workload has moved.")


class Retrain(Model):
    """When a new generation of the lineage is trained without being asked."""

    RULES: ClassVar[tuple[Cel, ...]] = (
        Cel(
            "has(self.when)",
            "needs what starts it, such as when: {drift: {}}",
        ),
    )

    when: RetrainTriggers = Field(default_factory=RetrainTriggers, description="What starts a retraining.")
    cooldown_seconds: Annotated[int, Field(ge=60, le=31_536_000)] = Field(
        default=86_400, description="Time between two retrainings, at least."
    )


class EndpointSpec(Model):
    """A served model."""

    RULES: ClassVar[tuple[Cel, ...]] = (
        Cel(
            "!(has(self.engine) && has(self.engine.resources) "
            "&& has(self.podTemplate) && has(self.podTemplate.resources))",
            "set engine.resources or podTemplate.resources, not both",
            ".podTemplate.resources",
        ),
        Cel(
            "!has(self.retrain) || has(self.capture)",
            "needs spec.capture: retraining reads captured requests",
            ".retrain",
        ),
        Cel(
            "!has(self.retrain) || (has(self.drafter) && has(self.drafter.from) "
            "&& has(self.drafter.from.trainingJobRef))",
            "needs spec.drafter.from.trainingJobRef: retraining repeats that job's recipe",
            ".retrain",
        ),
    )

    target: TargetSpec = Field(description="The model that is served.")
    served_name: Annotated[
        str,
        Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][-A-Za-z0-9._/]*$"),
        Worded("must be a model name as clients send it: letters, digits, - . _ and /"),
    ] = Field(description="Model name in requests.")
    engine: Engine = Field(default_factory=Engine, description="How vLLM runs.")
    replicas: Annotated[int, Field(ge=0, le=1000), ServerDefault(1)] = Field(
        default=1, description="Pods that serve; an autoscaler may own this field through the scale subresource."
    )
    pod_template: PodTemplate | None = Field(default=None, description="Where and how serving pods run.")
    storage: Storage | None = Field(default=None, description="How target and drafters are reached.")
    capture: Capture | None = Field(default=None, description="Keep requests for datasets; unset keeps none.")
    drafter: DrafterPolicy | None = Field(
        default=None, description="Which drafter may serve beside the target; unset means the base alone."
    )
    rollout: Annotated[Rollout, ServerDefault({})] = Field(
        default_factory=Rollout, description="How an arm replaces another."
    )
    retrain: Retrain | None = Field(
        default=None, description="When a new generation is trained without being asked; unset means never."
    )


class ArmStatus(Observed):
    """One Deployment of the endpoint."""

    name: Annotated[str, Field(max_length=16)] = Field(description="base, or d- and the digest's first 8 digits.")
    deployment: Annotated[str, Field(max_length=63)] = Field(description="Name of the Deployment.")
    drafter: DrafterRefStatus | None = Field(default=None, description="Its drafter; the base has none.")
    replicas: int = Field(default=0, description="Pods wanted.")
    ready_replicas: int = Field(default=0, description="Pods that completed a request since their engine started.")


class ServingDrafter(DrafterRefStatus):
    """The drafter that serves; kept here so that it serves on when the Drafter object is gone."""

    contract: Contract = Field(description="What binds it to the target.")
    since: ObservedTime = Field(default="", description="When its arm took over.")
    attempt: int = Field(default=1, description="Attempt of the approval under which it serves.")


class FailedDrafter(Observed):
    """A digest that did not come up, or was rolled back."""

    digest: Digest = Field(description="The digest.")
    attempt: int = Field(default=1, description="The attempt that failed; a higher one is tried anew.")
    reason: Annotated[str, Field(max_length=128)] = Field(description="Why, in one CamelCase word.")
    message: Annotated[str, Field(max_length=1024)] = Field(default="", description="Why, for a person.")
    time: ObservedTime = Field(default="", description="When.")


class CandidateDrafter(DrafterRefStatus):
    """The newest drafter of the lineage that is not serving, and why."""

    acceptance_length: Annotated[str, Field(max_length=16)] | None = Field(
        default=None, description="Its held-out mean tokens per target step."
    )
    state: Annotated[str, Field(max_length=32)] = Field(
        default="", description="AwaitingApproval, RollingOut, Failed, Rejected, Incompatible."
    )
    attempt: int = Field(default=1, description="Attempt of its approval.")
    started: ObservedTime | None = Field(default=None, description="When its arm was first made.")


class EndpointDrafterStatus(Observed):
    """Drafters of this endpoint."""

    serving: ServingDrafter | None = Field(default=None, description="The drafter that serves.")
    candidate: CandidateDrafter | None = Field(default=None, description="The newest drafter that does not serve.")
    failed: Annotated[list[FailedDrafter], Field(max_length=32), ListMap(("digest",))] = Field(
        default_factory=list, description="Digests that failed, so that they are not tried for ever."
    )


class CaptureStatus(Observed):
    """What the serving pods have shipped."""

    requests: int = Field(default=0, description="Requests shipped since the endpoint was made.")
    shipped_until: ObservedTime | None = Field(
        default=None, description="Watermark: everything captured before it lies in storage."
    )


class Measured(Observed):
    """Serving figures over the last window with traffic, from differences of the engine's counters; rounded."""

    window_seconds: int = Field(default=0, description="Length of the window.")
    requests: int = Field(default=0, description="Requests that finished in it.")
    acceptance_rate: Annotated[str, Field(max_length=16)] | None = Field(
        default=None, description="Share of drafted tokens that the target kept; without those that a grammar forbids."
    )
    acceptance_length: Annotated[str, Field(max_length=16)] | None = Field(
        default=None, description="Mean tokens per target step, bonus token included."
    )
    per_position: Annotated[list[Annotated[str, Field(max_length=16)]], Field(max_length=32)] | None = Field(
        default=None, description="Share of target steps that kept the k-th drafted token, k = 1…K."
    )
    tokens_per_second: Annotated[str, Field(max_length=16)] | None = Field(
        default=None, description="What one stream sees: 1 / time per output token."
    )
    throughput: Annotated[str, Field(max_length=16)] | None = Field(
        default=None, description="Generated tokens per second, all streams."
    )
    ttft_p50_ms: int | None = Field(default=None, description="Time to first token, median.")
    e2e_p50_ms: int | None = Field(default=None, alias="e2eP50Ms", description="Time of a whole request, median.")
    e2e_p90_ms: int | None = Field(
        default=None, alias="e2eP90Ms", description="Time of a whole request, 90th percentile."
    )


class EndpointStatus(Observed):
    """What is observed."""

    observed_generation: ObservedGeneration = -1
    conditions: Conditions = Field(default_factory=list)
    url: Annotated[str, Field(max_length=512)] | None = Field(
        default=None, description="Where clients in the cluster send requests."
    )
    replicas: int = Field(default=0, description="Pods of all arms.")
    ready_replicas: int = Field(default=0, description="Pods that serve.")
    selector: Annotated[str, Field(max_length=512)] | None = Field(
        default=None, description="Label selector of the pods, for autoscalers."
    )
    image: Annotated[str, Field(max_length=512)] | None = Field(
        default=None, description="Image of pods' companion, frozen per generation."
    )
    job: NamedUid | None = Field(default=None, description="The inspect Job of the target.")
    target: TargetFacts | None = Field(default=None, description="What is known of the target's bytes.")
    target_uri: Uri | None = Field(default=None, description="The URI that `target` speaks of.")
    arms: Annotated[list[ArmStatus], Field(max_length=8), ListMap(("name",))] = Field(
        default_factory=list, description="Deployments of the endpoint."
    )
    drafter: EndpointDrafterStatus = Field(
        default_factory=EndpointDrafterStatus, description="Drafters of this endpoint."
    )
    capture: CaptureStatus | None = Field(default=None, description="What the serving pods have shipped.")
    measured: Measured | None = Field(default=None, description="Serving figures of the last window with traffic.")


class DraftedEndpoint(Resource):
    """A model served by vLLM, with a drafter made for its own traffic once one is approved."""

    KIND: ClassVar[str] = "DraftedEndpoint"
    PLURAL: ClassVar[str] = "draftedendpoints"

    spec: EndpointSpec
    status: EndpointStatus = Field(default_factory=EndpointStatus)
