"""SpeculatorPreset: an administrator's named hyperparameters; and the presets that ship with the operator."""

from typing import ClassVar

from pydantic import Field

from specop.api.base import Model, Resource
from specop.api.markers import Cel
from specop.api.shared import PodTemplate
from specop.api.training_job import Hyperparameters, LossTerm, Provenance


class PresetSpec(Model):
    """What a training job gets where it says nothing."""

    description: str = Field(default="", max_length=512, description="What it is for, for people who choose.")
    hyperparameters: Hyperparameters = Field(
        default_factory=Hyperparameters, description="Knobs that differ from the defaults."
    )
    pod_template: PodTemplate | None = Field(
        default=None, description="Where and how training pods run, where the job says nothing."
    )


class SpeculatorPreset(Resource):
    """An administrator's named hyperparameters and resources. Cluster-scoped."""

    KIND: ClassVar[str] = "SpeculatorPreset"
    PLURAL: ClassVar[str] = "speculatorpresets"
    RULES: ClassVar[tuple[Cel, ...]] = (
        Cel(
            "!(self.metadata.name in ['quick', 'balanced', 'quality'])",
            "quick, balanced and quality ship with the operator and mean the same everywhere: choose another name",
            ".metadata.name",
        ),
    )

    spec: PresetSpec


DEFAULTS = Hyperparameters(
    architecture="Eagle31",
    decoding_heads=3,
    draft_sample_method="Greedy",
    draft_vocab_size=32_000,
    loss=[LossTerm(name="CE", weight="0.7"), LossTerm(name="KL", weight="0.3")],
    constrained="Unmasked",
    lk_eta="3",
    step_decay="0.8",
    optimizer="AdamW",
    learning_rate="0.0007",
    scheduler="Linear",
    warmup_percent=4,
    decay_percent=20,
    weight_decay="0",
    max_grad_norm="1",
    epochs=6,
    batch_tokens=2048,
    max_length=8192,
    evaluations=8,
    checkpoint_seconds=60,
    seed=0,
    compute_dtype="BFloat16",
)
"""Every knob has a value here; presets change some."""

BUILT_IN: dict[str, PresetSpec] = {
    "quick": PresetSpec(description="A first drafter in minutes.", hyperparameters=Hyperparameters(epochs=2)),
    "balanced": PresetSpec(description="The default.", hyperparameters=Hyperparameters()),
    "quality": PresetSpec(description="Longer, for the last tenths.", hyperparameters=Hyperparameters(epochs=10)),
}


def resolve(name: str, preset: PresetSpec, spec: Hyperparameters) -> tuple[Hyperparameters, list[Provenance]]:
    """Fill what the job left unset from the preset, then from the defaults; say who set what."""
    values: dict[str, object] = {}
    set_by: list[Provenance] = []
    for field in Hyperparameters.model_fields:
        for source, model in (("spec", spec), (f"preset/{name}", preset.hyperparameters), ("default", DEFAULTS)):
            value = getattr(model, field)
            if value is not None:
                values[field] = value
                set_by.append(Provenance(name=field, source=source))
                break
    return Hyperparameters.model_validate(values), set_by
