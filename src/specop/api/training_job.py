"""SpeculatorTrainingJob: one training run. Every knob of the trainer is one typed field here; all are optional."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from specop.api.base import Condition, Decimal, Digest, Model, ObjectName, Observed, Ref, Resource, Uri
from specop.api.markers import Immutable, ListMap, ServerDefault
from specop.api.shared import Contract, DrafterRefStatus, Evaluation, NamedUid, PodTemplate, Storage, TargetSpec

LossName = Literal["KL", "LKHybrid", "CE"]


class LossTerm(Model):
    """One term of a weighted sum of losses."""

    name: LossName = Field(
        description="KL: to the target's distribution. LKHybrid: KL and total variation by acceptance. CE: the served token."
    )
    weight: Decimal = "1"


class Hyperparameters(Model):
    """Every knob of the trainer. What is unset comes from the preset, and `status.resolved` says which."""

    architecture: Literal["Eagle3", "Eagle31"] | None = Field(
        default=None, description="Eagle31 adds norms per captured layer and feeds the normed state back."
    )
    decoding_heads: Annotated[int, Field(ge=1, le=16)] | None = Field(
        default=None, description="Draft steps unrolled at training (TTT)."
    )
    draft_vocab_size: Annotated[int, Field(ge=64, le=1_048_576)] | None = Field(
        default=None, description="Most frequent supervised tokens that the drafter can propose."
    )
    loss: Annotated[list[LossTerm], Field(min_length=1, max_length=8), ListMap(("name",))] | None = None
    lk_eta: Decimal | None = Field(default=None, description="LKHybrid: lambda = exp(-eta * acceptance).")
    step_decay: Decimal | None = Field(default=None, description="Weight of draft step k is decay to the power k.")
    learning_rate: Decimal | None = None
    scheduler: Literal["Cosine", "Linear", "Constant"] | None = None
    warmup_percent: Annotated[int, Field(ge=0, le=100)] | None = None
    weight_decay: Decimal | None = None
    max_grad_norm: Decimal | None = None
    epochs: Annotated[int, Field(ge=1, le=1000)] | None = None
    max_steps: Annotated[int, Field(ge=1, le=10_000_000)] | None = Field(default=None, description="End earlier.")
    batch_tokens: Annotated[int, Field(ge=64, le=16_777_216)] | None = Field(
        default=None, description="Tokens of one optimiser step."
    )
    max_length: Annotated[int, Field(ge=64, le=1_048_576)] | None = Field(
        default=None, description="Longer rows are cut at the right end."
    )
    evaluations: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        default=None, description="Held-out evaluations over the run."
    )
    checkpoint_seconds: Annotated[int, Field(ge=5, le=86_400)] | None = Field(
        default=None, description="Time between checkpoints."
    )
    seed: Annotated[int, Field(ge=0, le=2_147_483_647)] | None = None
    compute_dtype: Literal["Float32", "BFloat16"] | None = Field(
        default=None, description="Dtype of the matrix products; masters are float32."
    )


class WarmStart(Model):
    """Begin from existing weights; makes the new drafter a descendant of that one."""

    drafter_ref: Ref


class TrainingSpec(Model):
    """What is trained, on what, how."""

    target: Annotated[TargetSpec, Immutable()]
    dataset_ref: Annotated[Ref, Immutable()]
    preset: Annotated[ObjectName, Immutable(), ServerDefault("balanced")] = Field(
        default="balanced", description="quick, balanced, quality, or a SpeculatorPreset."
    )
    hyperparameters: Annotated[Hyperparameters, Immutable()] = Field(default_factory=Hyperparameters)
    warm_start: Annotated[WarmStart, Immutable()] | None = None
    storage: Annotated[Storage, Immutable()] | None = None
    backoff_limit: Annotated[int, Field(ge=0, le=20), Immutable()] = Field(
        default=3, description="Failures before the run counts as failed; preemption does not count."
    )
    queue_name: Annotated[str, Field(min_length=1, max_length=63), Immutable()] | None = Field(
        default=None, description="Kueue LocalQueue; admission then decides over suspend."
    )
    suspend: Annotated[bool, ServerDefault(False)] = Field(
        default=False, description="Stop after a checkpoint; resume when false."
    )
    pod_template: PodTemplate | None = None


class Provenance(Observed):
    """Who set a hyperparameter."""

    name: Annotated[str, Field(max_length=64)]
    source: Annotated[str, Field(max_length=64)] = Field(description="spec, or preset and its name.")


class TrainingResolved(Observed):
    """Frozen before the Job is made."""

    output: Uri
    image: Annotated[str, Field(max_length=512)] = ""
    preset: Annotated[str, Field(max_length=64)]
    hyperparameters: Hyperparameters = Field(description="Complete.")
    set_by: Annotated[list[Provenance], Field(max_length=64), ListMap(("name",))] = Field(default_factory=list)
    dataset_digest: Digest
    dataset_uri: Uri
    warm_start: DrafterRefStatus | None = None


class TrainingProgress(Observed):
    """How far the run is; written at most every 10 s."""

    stage: Annotated[str, Field(max_length=32)] = ""
    step: int = 0
    total_steps: int = 0
    tokens_per_second: int = 0
    loss: Annotated[str, Field(max_length=16)] | None = None
    acceptance_length: Annotated[str, Field(max_length=16)] | None = None
    eta_seconds: int | None = None


class TrainingSummary(Observed):
    """What a finished run says of itself."""

    steps: int = 0
    seconds: int = 0
    tokens: int = 0
    tokens_per_second: int = 0
    resumes: int = 0
    evaluation: Evaluation | None = None


class TrainingStatus(Observed):
    """What is observed."""

    observed_generation: int = -1
    conditions: Annotated[list[Condition], Field(max_length=16), ListMap(("type",))] = Field(default_factory=list)
    resolved: TrainingResolved | None = None
    job: NamedUid | None = None
    progress: TrainingProgress | None = None
    result: TrainingSummary | None = None
    drafter: DrafterRefStatus | None = None
    contract: Contract | None = Field(default=None, description="Of the drafter that was made.")


class SpeculatorTrainingJob(Resource):
    """One run of the EAGLE-3 trainer; makes a Drafter of the same name."""

    KIND: ClassVar[str] = "SpeculatorTrainingJob"
    PLURAL: ClassVar[str] = "speculatortrainingjobs"

    spec: TrainingSpec
    status: TrainingStatus = Field(default_factory=TrainingStatus)
