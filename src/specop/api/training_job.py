"""SpeculatorTrainingJob: one training run."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from specop.api.base import Conditions, Digest, Model, ObjectName, Observed, ObservedGeneration, Ref, Resource, Uri
from specop.api.hyperparameters import Hyperparameters
from specop.api.markers import Cel, Immutable, ListMap, ServerDefault, Worded
from specop.api.shared import (
    Contract,
    DrafterRefStatus,
    Evaluation,
    NamedUid,
    PodTemplate,
    Quantity,
    Storage,
    TargetSpec,
)


class Parallelism(Model):
    """How many processes train one drafter. The same drafter comes out of any number, up to rounding."""

    RULES: ClassVar[tuple[Cel, ...]] = (
        Cel(
            "!has(self.sharding) || self.sharding != 'Full' || (has(self.nodes) && self.nodes > 1) || "
            "(has(self.processesPerNode) && self.processesPerNode > 1)",
            "one process has nothing to share with: set nodes or processesPerNode",
            ".sharding",
        ),
    )

    nodes: Annotated[int, Field(ge=1, le=64)] = Field(
        default=1, description="Pods, each on a node of its own or beside others; they meet over a headless Service."
    )
    processes_per_node: Annotated[int, Field(ge=1, le=16)] = Field(
        default=1, description="Processes of a pod, one a GPU: the GPUs that the pod asks for follow this."
    )
    sharding: Literal["None", "Full"] = Field(
        default="None",
        description="Full cuts weights, gradients and optimiser state over all processes (FSDP2), for drafters of very "
        "large targets; None keeps them whole everywhere, which is faster.",
    )

    @property
    def processes(self) -> int:
        """All processes of the run."""
        return self.nodes * self.processes_per_node


class WarmStart(Model):
    """Begin from existing weights; makes the new drafter a descendant of that one."""

    drafter_ref: Ref = Field(description="The Drafter to start from.")


class TrainingSpec(Model):
    """What is trained, on what, how."""

    RULES: ClassVar[tuple[Cel, ...]] = (
        Cel(
            "!(has(self.queueName) && has(self.suspend) && self.suspend)",
            "with queueName, Kueue decides over suspend: leave it false, or stop the workload in Kueue",
            ".suspend",
        ),
        Cel(
            "!has(self.parallelism) || !has(self.podTemplate) || !has(self.podTemplate.resources) || "
            "!has(self.podTemplate.resources.limits) || ['nvidia.com/gpu', 'amd.com/gpu'].all(name, "
            "!(name in self.podTemplate.resources.limits) || "
            "string(self.podTemplate.resources.limits[name]) == "
            "string(has(self.parallelism.processesPerNode) ? self.parallelism.processesPerNode : 1))",
            "a process has one GPU: leave the GPUs out, or set as many as parallelism.processesPerNode",
            ".podTemplate.resources.limits",
        ),
    )

    target: Annotated[TargetSpec, Immutable()] = Field(description="The model that the drafter drafts for.")
    dataset_ref: Annotated[Ref, Immutable()] = Field(description="The SpeculatorDataset to train on.")
    preset: Annotated[ObjectName, Immutable(), ServerDefault("balanced")] = Field(
        default="balanced", description="quick, balanced, quality, or the name of a SpeculatorPreset."
    )
    hyperparameters: Annotated[Hyperparameters, Immutable()] = Field(
        default_factory=Hyperparameters, description="Knobs that differ from the preset's."
    )
    warm_start: Annotated[WarmStart, Immutable()] | None = Field(
        default=None, description="Begin from existing weights; unset means from scratch."
    )
    storage: Annotated[Storage, Immutable()] | None = Field(
        default=None, description="Where the drafter is written, and how target and dataset are reached."
    )
    backoff_limit: Annotated[int, Field(ge=0, le=20), Immutable()] = Field(
        default=3, description="Failures before the run counts as failed; preemption does not count."
    )
    queue_name: (
        Annotated[
            str,
            Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"),
            Worded("must be the name of a Kueue LocalQueue"),
            Immutable(),
        ]
        | None
    ) = Field(default=None, description="Kueue LocalQueue; admission then decides over suspend.")
    suspend: Annotated[bool, ServerDefault(False)] = Field(
        default=False, description="Stop after a checkpoint; resume when false."
    )
    parallelism: Parallelism | None = Field(
        default=None,
        description="Several processes; unset means one. A change holds from the next time that the job is suspended "
        "and resumed: it goes on from its checkpoint.",
    )
    state_cache: Annotated[Quantity, Immutable()] | None = Field(
        default=None,
        description="Most scratch disk of a pod that the target's hidden states may take, such as 200Gi; what has no "
        "room is computed anew in every epoch, with 0 all of it. Unset: what is free. Set it where pods have a limit "
        "of ephemeral-storage.",
    )
    pod_template: PodTemplate | None = Field(default=None, description="Where and how the training Job's pods run.")


class Provenance(Observed):
    """Who set a hyperparameter."""

    name: Annotated[str, Field(max_length=64)] = Field(description="Name of the hyperparameter.")
    source: Annotated[str, Field(max_length=64)] = Field(
        description="spec, warmStart (the parent has it so), preset/NAME, scaled (to target and dataset) or default."
    )


class TrainingResolved(Observed):
    """Frozen before the Job is made."""

    output: Uri = Field(description="Where the drafter is written.")
    image: Annotated[str, Field(max_length=512)] = Field(default="", description="Image of the Job.")
    preset: Annotated[str, Field(max_length=64)] = Field(description="Name of the preset.")
    hyperparameters: Hyperparameters = Field(description="Every hyperparameter, complete.")
    set_by: Annotated[list[Provenance], Field(max_length=64), ListMap(("name",))] = Field(
        default_factory=list, description="Who set each hyperparameter."
    )
    dataset_digest: Digest = Field(description="Digest of the dataset.")
    dataset_uri: Uri = Field(description="Manifest of the dataset.")
    warm_start: DrafterRefStatus | None = Field(default=None, description="The weights that training started from.")


class Estimate(Observed):
    """What the run is expected to cost and to give; made once, before a pod exists, and not kept up to date."""

    device_hours: Annotated[str, Field(max_length=16)] = Field(description="GPU hours; without GPUs, core hours.")
    wall_seconds: int = Field(description="Time from the pod's start to the drafter.")
    memory_gib: Annotated[str, Field(max_length=16)] = Field(description="Memory of one GPU, or of a pod without one.")
    disk_gib: Annotated[str, Field(max_length=16)] = Field(description="Scratch space of a pod.")
    steps: int = Field(description="Optimiser steps.")
    tokens: int = Field(description="Tokens trained, over all epochs.")
    drafter_parameters: int = Field(description="Parameters that are trained.")
    capture_percent: int = Field(description="Share of the computing that the target's own pass takes.")
    acceptance_low: Annotated[str, Field(max_length=16)] = Field(
        description="Mean tokens per target step to expect at least, by experience."
    )
    acceptance_high: Annotated[str, Field(max_length=16)] = Field(description="The same, at best.")
    devices: int = Field(description="GPUs; without GPUs, CPU cores.")
    device: Annotated[str, Field(max_length=64)] = Field(description="What they are.")
    basis: Annotated[str, Field(max_length=128)] = Field(description="Whose speed and acceptance this rests on.")


class TrainingProgress(Observed):
    """How far the run is; written at most every 10 s, and kept at its last value when the run has ended."""

    stage: Annotated[str, Field(max_length=32)] = Field(default="", description="What it does now.")
    step: int = Field(default=0, description="Optimiser steps done.")
    total_steps: int = Field(default=0, description="Optimiser steps of the whole run.")
    tokens_per_second: int = Field(default=0, description="Tokens trained per second, lately.")
    mfu_percent: int | None = Field(
        default=None, description="Share of the devices' peak that the drafter's matrix products take, lately."
    )
    memory_mib: int | None = Field(
        default=None, description="Peak memory in MiB: of the GPU, else of the process; rounded."
    )
    loss: Annotated[str, Field(max_length=16)] | None = Field(default=None, description="Training loss, smoothed.")
    acceptance_length: Annotated[str, Field(max_length=16)] | None = Field(
        default=None, description="Newest held-out mean tokens per target step."
    )
    eta_seconds: int | None = Field(default=None, description="Estimate of the time that is left.")
    eta: Annotated[str, Field(max_length=16)] | None = Field(
        default=None, description="The same for people, such as 3m20s or 2h05m."
    )


class TrainingRows(Observed):
    """What became of the rows to learn from; cut ones are among the learned, all others counted once."""

    learned: int = Field(default=0, description="Rows that were learned from.")
    cut: int = Field(default=0, description="Of these, rows cut at maxLength.")
    dropped: int = Field(default=0, description="Rows left out because they are longer than maxLength.")
    unlabelled: int = Field(
        default=0, description="Rows left out because they have no token to learn, or none within maxLength."
    )


class TrainingSummary(Observed):
    """What a finished run says of itself."""

    steps: int = Field(default=0, description="Optimiser steps done.")
    seconds: int = Field(default=0, description="Time of training, over all resumes.")
    tokens: int = Field(default=0, description="Tokens trained.")
    rows: TrainingRows | None = Field(default=None, description="What became of the rows to learn from.")
    tokens_per_second: int = Field(default=0, description="Mean over the run.")
    mfu_percent: int | None = Field(default=None, description="Model FLOPs utilisation, mean over the run.")
    gigaflops: int | None = Field(
        default=None, description="GFLOP/s of the drafter's matrix products, all devices together, mean over the run."
    )
    memory_mib: int | None = Field(default=None, description="Peak memory in MiB, as in progress.")
    resumes: int = Field(default=0, description="How often it went on from a checkpoint.")
    evaluation: Evaluation | None = Field(default=None, description="Held-out figures at the end.")
    report: Uri | None = Field(default=None, description="The run on one page of HTML, with its curves.")


class TrainingStatus(Observed):
    """What is observed."""

    observed_generation: ObservedGeneration = -1
    conditions: Conditions = Field(default_factory=list)
    resolved: TrainingResolved | None = Field(default=None, description="What was frozen before the Job was made.")
    estimate: Estimate | None = Field(default=None, description="What the run is expected to cost and to give.")
    job: NamedUid | None = Field(default=None, description="The Job that trains.")
    progress: TrainingProgress | None = Field(
        default=None, description="How far the run is; its last value when it has ended."
    )
    result: TrainingSummary | None = Field(default=None, description="What the finished run says of itself.")
    drafter: DrafterRefStatus | None = Field(default=None, description="The Drafter that it made.")
    contract: Contract | None = Field(default=None, description="What binds that drafter to its target.")


class SpeculatorTrainingJob(Resource):
    """One run of the EAGLE-3 trainer; makes a Drafter of the same name."""

    KIND: ClassVar[str] = "SpeculatorTrainingJob"
    PLURAL: ClassVar[str] = "speculatortrainingjobs"
    RULES: ClassVar[tuple[Cel, ...]] = (
        Cel(
            "!has(self.spec.warmStart) || self.spec.warmStart.drafterRef.name != self.metadata.name",
            "names the drafter that this job itself makes; name an earlier one",
            ".spec.warmStart.drafterRef.name",
        ),
    )

    spec: TrainingSpec
    status: TrainingStatus = Field(default_factory=TrainingStatus)
