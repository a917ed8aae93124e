"""Drafter: one set of weights with its contract, lineage and evidence, from a training job or imported by a user."""

from typing import Annotated, ClassVar

from pydantic import Field

from specop.api.base import (
    Conditions,
    Digest,
    Model,
    ObjectName,
    Observed,
    ObservedGeneration,
    ObservedTime,
    Resource,
    ShortDigest,
    Uri,
)
from specop.api.markers import Cel, Immutable
from specop.api.shared import Contract, Evaluation, NamedUid, PodTemplate, Storage, TargetSpec


class WeightsSpec(Model):
    """Where the weights lie and what they must hash to."""

    RULES: ClassVar[tuple[Cel, ...]] = (
        Cel(
            r"!self.uri.matches('\\.(safetensors|gguf|bin|pt|pth)$')",
            "must be the folder with config.json and model.safetensors, or a manifest.json, not a weights file",
            ".uri",
        ),
    )

    uri: Uri = Field(description="A manifest made by specop, or a folder with config.json and model.safetensors.")
    digest: Digest | None = Field(
        default=None, description="Expected digest; an import without one is told what it has."
    )


class LineageRef(Model):
    """An ancestor by name and identity; it may be gone."""

    name: ObjectName = Field(description="Name that it had.")
    uid: Annotated[str, Field(max_length=64)] | None = Field(default=None, description="Its uid.")
    digest: Digest | None = Field(default=None, description="Its digest, where it has one.")


class Lineage(Model):
    """Where the weights come from."""

    training_job: LineageRef | None = Field(default=None, description="The SpeculatorTrainingJob that made them.")
    dataset: LineageRef | None = Field(default=None, description="The SpeculatorDataset that they were trained on.")
    parent: LineageRef | None = Field(default=None, description="The drafter that training started from.")


class DrafterSpec(Model):
    """One set of weights."""

    target: Annotated[TargetSpec, Immutable()] = Field(description="The model that these weights draft for.")
    weights: Annotated[WeightsSpec, Immutable()] = Field(description="Where the weights lie.")
    lineage: Annotated[Lineage, Immutable()] | None = Field(default=None, description="Where the weights come from.")
    storage: Annotated[Storage, Immutable()] | None = Field(
        default=None, description="How the weights are reached, and where an import is written."
    )
    pod_template: PodTemplate | None = Field(default=None, description="Where and how the inspect Job's pod runs.")


class DrafterStatus(Observed):
    """What is observed."""

    observed_generation: ObservedGeneration = -1
    conditions: Conditions = Field(default_factory=list)
    job: NamedUid | None = Field(default=None, description="The inspect Job.")
    digest: Digest | None = Field(default=None, description="Digest of the weights: what an approval names.")
    short_digest: ShortDigest | None = None
    uri: Uri | None = Field(default=None, description="The manifest that serving pods read.")
    contract: Contract | None = Field(default=None, description="What binds the weights to their target.")
    evaluation: Evaluation | None = Field(default=None, description="Held-out figures.")
    approved_by: Annotated[str, Field(max_length=256)] | None = Field(
        default=None, description="Who approved, over all endpoints."
    )
    approved_at: ObservedTime | None = Field(default=None, description="When an approval was first seen.")


class Drafter(Resource):
    """One set of drafter weights, named by content and bound to its target."""

    KIND: ClassVar[str] = "Drafter"
    PLURAL: ClassVar[str] = "drafters"

    spec: DrafterSpec
    status: DrafterStatus = Field(default_factory=DrafterStatus)
