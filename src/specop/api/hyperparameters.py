"""Hyperparameters: every knob of the trainer, each one typed field. All are optional: a preset fills what is unset."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from specop.api.base import Decimal, Model
from specop.api.markers import Cel, ListMap

LossName = Literal["KL", "LKAlpha", "LKHybrid", "TV", "CE", "CEArgmax", "RKL", "JSD"]

_Positive = Cel("double(self) > 0.0", "must be greater than 0")


class LossTerm(Model):
    """One term of a weighted sum of losses."""

    name: LossName = Field(
        description="KL, RKL, JSD: divergence of the target's distribution, forward, reverse, symmetric. TV: total "
        "variation, 1 - acceptance. LKAlpha: -log acceptance. LKHybrid: KL and TV, weighed by acceptance. CE: to the "
        "served token. CEArgmax: to the target's most likely token."
    )
    weight: Decimal = Field(default="1", description="Factor of this term.")


class Hyperparameters(Model):
    """Every knob of the trainer. What is unset comes from the preset, and `status.resolved` says which."""

    RULES: ClassVar[tuple[Cel, ...]] = (
        Cel(
            "!has(self.earlyStopEvaluations) || !has(self.evaluations) || self.earlyStopEvaluations < self.evaluations",
            "must be less than evaluations, or it can never end a run",
            ".earlyStopEvaluations",
        ),
        Cel(
            "!has(self.scheduler) || self.scheduler != 'WSD' || !has(self.warmupPercent) || !has(self.decayPercent) "
            "|| self.warmupPercent + self.decayPercent <= 100",
            "with warmupPercent must be at most 100: the learning rate cannot rise and fall at once",
            ".decayPercent",
        ),
        Cel(
            "!has(self.decayPercent) || !has(self.scheduler) || self.scheduler == 'WSD'",
            "is read by scheduler WSD alone: leave it out, or set scheduler WSD",
            ".decayPercent",
        ),
        Cel(
            "!has(self.lkEta) || !has(self.loss) || self.loss.exists(term, term.name == 'LKHybrid')",
            "is read by the loss LKHybrid alone: leave it out, or name LKHybrid in loss",
            ".lkEta",
        ),
    )

    architecture: Literal["Eagle3", "Eagle31"] | None = Field(
        default=None, description="Eagle31 adds norms per captured layer and feeds the normed state back."
    )
    decoding_heads: Annotated[int, Field(ge=1, le=16)] | None = Field(
        default=None, description="Draft steps unrolled at training (TTT)."
    )
    draft_sample_method: Literal["Greedy", "Probabilistic"] | None = Field(
        default=None,
        description="How drafts are sampled when served: Probabilistic takes more memory, and only pays where requests "
        "are sampled and the loss is an LK one. The best weights are chosen by it.",
    )
    draft_vocab_size: Annotated[int, Field(ge=64, le=1_048_576)] | None = Field(
        default=None,
        description="Tokens that the drafter can propose: the most frequent supervised ones, and hardly any that the "
        "dataset lacks; as many as the target has, or more, for all. With warmStart it is the parent's, and only the "
        "same may be set.",
    )
    loss: (
        Annotated[
            list[LossTerm],
            Field(min_length=1, max_length=8),
            ListMap(("name",)),
            Cel(
                "self.exists(term, !has(term.weight) || double(term.weight) > 0.0)",
                "at least one term needs a weight above 0",
            ),
        ]
        | None
    ) = Field(
        default=None,
        description="Weighted sum of losses. Where nobody sets it, KL for greedy drafts and LKHybrid for sampled ones.",
    )
    constrained: Literal["Unmasked", "Masked", "Served"] | None = Field(
        default=None,
        description="How rows teach that a grammar constrained. Unmasked: as all others. Masked: by the target's "
        "distribution over what the grammar allowed, or by the served tokens where it is not known. Served: by the "
        "served tokens. The grammar that is known always counts in evaluations.",
    )
    lk_eta: Decimal | None = Field(default=None, description="LKHybrid: lambda = exp(-eta * acceptance).")
    step_decay: (
        Annotated[Decimal, Cel("double(self) > 0.0 && double(self) <= 1.0", "must be above 0 and at most 1")] | None
    ) = Field(default=None, description="Weight of draft step k is decay to the power k.")
    optimizer: Literal["AdamW", "Muon"] | None = Field(
        default=None, description="Muon takes the matrices between hidden states; head and norms stay with AdamW."
    )
    learning_rate: Annotated[Decimal, _Positive] | None = Field(default=None, description="Peak learning rate.")
    scheduler: Literal["Cosine", "Linear", "Constant", "WSD"] | None = Field(
        default=None,
        description="How the learning rate falls after the warm-up. WSD: it stays, and decays over decayPercent.",
    )
    warmup_percent: Annotated[int, Field(ge=0, le=100)] | None = Field(
        default=None, description="Share of steps over which the learning rate rises."
    )
    decay_percent: Annotated[int, Field(ge=1, le=100)] | None = Field(
        default=None, description="WSD: share of steps, the last ones, over which the learning rate falls."
    )
    weight_decay: Decimal | None = Field(default=None, description="Decoupled weight decay of the matrices.")
    ema_decay: (
        Annotated[Decimal, Cel("double(self) > 0.0 && double(self) < 1.0", "must be above 0 and below 1")] | None
    ) = Field(
        default=None,
        description="Judge and keep a moving average of the weights, with this decay a step; unset takes them as is.",
    )
    max_grad_norm: Annotated[Decimal, _Positive] | None = Field(
        default=None, description="Gradients are scaled down to this global norm."
    )
    epochs: Annotated[int, Field(ge=1, le=1000)] | None = Field(default=None, description="Passes over the dataset.")
    max_steps: Annotated[int, Field(ge=1, le=10_000_000)] | None = Field(
        default=None, description="End after this many optimiser steps, if epochs are not over earlier."
    )
    batch_tokens: Annotated[int, Field(ge=64, le=16_777_216)] | None = Field(
        default=None, description="Tokens of one optimiser step."
    )
    max_length: Annotated[int, Field(ge=64, le=1_048_576)] | None = Field(
        default=None, description="Most tokens of a row; longRows says what becomes of longer ones."
    )
    long_rows: Literal["Cut", "Drop"] | None = Field(
        default=None,
        description="What becomes of rows to learn from over maxLength: Cut takes their first maxLength "
        "tokens, Drop leaves them out. Held-out rows are always cut.",
    )
    evaluations: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        default=None, description="Held-out evaluations over the run; unset: 8, or two an epoch where that is more."
    )
    early_stop_evaluations: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        default=None,
        description="End after so many evaluations in a row that were worse than the best; unset never ends early.",
    )
    checkpoint_seconds: Annotated[int, Field(ge=5, le=86_400)] | None = Field(
        default=None, description="Time between checkpoints."
    )
    seed: Annotated[int, Field(ge=0, le=2_147_483_647)] | None = Field(
        default=None, description="Seed of initial weights and of the order of rows."
    )
    compute_dtype: Literal["Float32", "BFloat16"] | None = Field(
        default=None, description="Dtype of the matrix products; masters are float32."
    )
    layout: Literal["Speculators", "Eagle"] | None = Field(
        default=None,
        description="Layout of the drafter's files. vLLM serves both; Eagle, with architecture Eagle3, is what SGLang "
        "reads.",
    )
