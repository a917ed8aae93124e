"""SpeculatorPreset: an administrator's named hyperparameters; and the presets that ship with the operator."""

import math
from typing import ClassVar

from pydantic import Field

from specop.api.base import Model, Resource
from specop.api.dataset import DatasetFacts
from specop.api.hyperparameters import Hyperparameters, LossTerm
from specop.api.markers import Cel
from specop.api.shared import Contract, PodTemplate
from specop.api.training_job import Provenance


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
    loss=[LossTerm(name="KL")],
    constrained="Masked",
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
    long_rows="Cut",
    evaluations=8,
    checkpoint_seconds=60,
    seed=0,
    compute_dtype="BFloat16",
    layout="Speculators",
)
"""Every knob has a value here; presets change some, and what depends on size is scaled."""


def defaults(given: Hyperparameters) -> Hyperparameters:
    """Return every knob's default beside those that are given: the loss goes by how drafts are sampled when served.

    For sampled drafts LKHybrid teaches what is accepted of them (1.2 and 0.6 % more than KL, with and without a
    grammar: docs/performance.md).
    """
    hybrid = given.draft_sample_method == "Probabilistic"
    return DEFAULTS.model_copy(update={"loss": [LossTerm(name="LKHybrid")]}) if hybrid else DEFAULTS


BUILT_IN: dict[str, PresetSpec] = {
    "quick": PresetSpec(
        description="A first drafter soon: two passes, and never more than 2,000 steps.",
        hyperparameters=Hyperparameters(epochs=2, max_steps=2000),
    ),
    "balanced": PresetSpec(description="The default.", hyperparameters=Hyperparameters()),
    "quality": PresetSpec(description="Longer, for the last tenths.", hyperparameters=Hyperparameters(epochs=10)),
}


REFERENCE_HIDDEN, REFERENCE_TOKENS = 576, 100_000
"""Hidden size of the target, and tokens of the dataset, for which the defaults of what is scaled were found."""
MOST_BATCH_TOKENS = 131_072
LEAST_RATE, MOST_RATE = 2e-5, 2e-3
EVALUATIONS_A_PASS, MOST_EVALUATIONS = 2, 1000


def scaled(dataset: DatasetFacts, given: Hyperparameters) -> Hyperparameters:
    """Scale what depends on target and dataset to them, and to what is given already.

    Batch: grows with the square root of the dataset's tokens, as a power of two between the default and 131,072, so
    that a larger dataset gives more steps as well as larger ones. Learning rate: falls with the target's hidden size
    (Adam's rate for hidden matrices goes by one over their width: Tensor Programs V, table 3) and grows with the fourth
    root of the batch; between 2e-5 and 2e-3. For an 8B target and 1e9 tokens that is 2.8e-4 at 131,072 tokens, where
    published recipes of EAGLE-3 take 1e-4 to 4e-4. Evaluations: where the default is fewer than two a pass over the
    dataset, two, because the best weights are kept of those alone that were judged.
    """
    least, rate = DEFAULTS.batch_tokens, DEFAULTS.learning_rate
    assert least
    assert rate
    assert DEFAULTS.evaluations
    wanted = least * math.sqrt(max(dataset.tokens, 1) / REFERENCE_TOKENS)
    batch = given.batch_tokens or min(MOST_BATCH_TOKENS, 2 ** math.floor(math.log2(max(wanted, least))))
    width = REFERENCE_HIDDEN / dataset.target.hidden_size
    found = float(rate) * width * (batch / least) ** 0.25
    passes = float(given.epochs or DEFAULTS.epochs or 0)
    if given.max_steps:
        passes = min(passes, given.max_steps * batch / max(dataset.tokens, 1))
    evaluations = min(MOST_EVALUATIONS, math.ceil(EVALUATIONS_A_PASS * passes))
    return Hyperparameters(
        batch_tokens=batch,
        learning_rate=f"{float(f'{min(max(found, LEAST_RATE), MOST_RATE):.2g}'):f}".rstrip("0"),
        evaluations=evaluations if evaluations > DEFAULTS.evaluations else None,
    )


def resolve(
    name: str, preset: PresetSpec, spec: Hyperparameters, dataset: DatasetFacts, parent: Contract | None = None
) -> tuple[Hyperparameters, list[Provenance]]:
    """Fill what the job left unset: from the preset, then scaled to target and dataset, then from the defaults.

    What the drafter to start from (`parent`) decides, its draft vocabulary, goes before all of these. Says who set
    what.
    """
    given = Hyperparameters.model_validate({**preset.hyperparameters.to_json(), **spec.to_json()})
    sources = (
        ("spec", spec),
        ("warmStart", Hyperparameters(draft_vocab_size=parent.draft_vocab_size if parent else None)),
        (f"preset/{name}", preset.hyperparameters),
        ("scaled", scaled(dataset, given)),
        ("default", defaults(given)),
    )
    values: dict[str, object] = {}
    set_by: list[Provenance] = []
    for field, info in Hyperparameters.model_fields.items():
        for source, model in sources:
            value = getattr(model, field)
            if value is not None:
                values[field] = value
                set_by.append(Provenance(name=info.alias or field, source=source))
                break
    return Hyperparameters.model_validate(values), set_by
