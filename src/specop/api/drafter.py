"""Drafter: one set of weights with its contract, lineage and evidence. Made by a training job, or by a user who imports."""

from typing import Annotated, ClassVar

from pydantic import Field

from specop.api.base import Condition, Digest, Model, Observed, Resource, Time, Uri
from specop.api.markers import Immutable, ListMap
from specop.api.shared import Contract, Evaluation, NamedUid, PodTemplate, Storage, TargetSpec


class WeightsSpec(Model):
    """Where the weights lie and what they must hash to."""

    uri: Uri = Field(description="A manifest made by specop, or a folder with config.json and model.safetensors.")
    digest: Digest | None = Field(default=None, description="Expected digest; an import without one is told what it has.")


class LineageRef(Model):
    """An ancestor by name and identity; it may be gone."""

    name: Annotated[str, Field(min_length=1, max_length=40)]
    uid: Annotated[str, Field(max_length=64)] | None = None
    digest: Digest | None = None


class Lineage(Model):
    """Where the weights come from."""

    training_job: LineageRef | None = None
    dataset: LineageRef | None = None
    parent: LineageRef | None = Field(default=None, description="The drafter that training started from.")


class DrafterSpec(Model):
    """One set of weights."""

    target: Annotated[TargetSpec, Immutable()]
    weights: Annotated[WeightsSpec, Immutable()]
    lineage: Annotated[Lineage, Immutable()] | None = None
    storage: Annotated[Storage, Immutable()] | None = None
    pod_template: PodTemplate | None = Field(default=None, description="For the inspect Job.")


class DrafterStatus(Observed):
    """What is observed."""

    observed_generation: int = -1
    conditions: Annotated[list[Condition], Field(max_length=16), ListMap(("type",))] = Field(default_factory=list)
    job: NamedUid | None = None
    digest: Digest | None = None
    uri: Uri | None = Field(default=None, description="The manifest that serving pods read.")
    contract: Contract | None = None
    evaluation: Evaluation | None = None
    approved_by: Annotated[str, Field(max_length=256)] | None = Field(default=None, description="Who approved, over all endpoints.")
    approved_at: Time | None = None


class Drafter(Resource):
    """One set of drafter weights, named by content and bound to its target."""

    KIND: ClassVar[str] = "Drafter"
    PLURAL: ClassVar[str] = "drafters"

    spec: DrafterSpec
    status: DrafterStatus = Field(default_factory=DrafterStatus)
