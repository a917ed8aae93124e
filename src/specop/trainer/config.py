"""The numeric view of a job's hyperparameters, checked once. Objects carry numbers as strings; the trainer computes.

Not here: defaults and presets (`api/preset.py` resolves them before the Job is made).
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch

from specop.api import reasons
from specop.api.training_job import Hyperparameters, LossName
from specop.common.errors import UserError

TERMS: dict[LossName, str] = {
    "KL": "kl",
    "LKAlpha": "lk_alpha",
    "LKHybrid": "lk_hybrid",
    "TV": "tv",
    "CE": "ce",
    "CEArgmax": "ce_argmax",
    "RKL": "rkl",
    "JSD": "jsd",
}
"""Each loss and its field in `LossWeights`."""
DTYPES = {"Float32": torch.float32, "BFloat16": torch.bfloat16}
"""What `computeDtype` calls the dtype of matrix products."""
OPTIONAL = ("max_steps", "early_stop_evaluations", "ema_decay")
"""What may stay unset: it is then not done."""
_ALL = 100
"""Percent."""


@dataclass(frozen=True, slots=True)
class LossWeights:
    """Weights of the terms of the loss; a term that was not named has weight 0."""

    kl: float = 0.0
    lk_alpha: float = 0.0
    lk_hybrid: float = 0.0
    tv: float = 0.0
    ce: float = 0.0
    ce_argmax: float = 0.0
    rkl: float = 0.0
    jsd: float = 0.0
    lk_eta: float = 3.0

    @property
    def total(self) -> float:
        """Sum of the weights."""
        return float(sum(getattr(self, field) for field in TERMS.values()))


@dataclass(frozen=True, slots=True)
class Recipe:
    """All knobs of a run as numbers."""

    architecture: Literal["Eagle3", "Eagle31"]
    constrained: Literal["Unmasked", "Masked", "Served"]
    decoding_heads: int
    draft_sample_method: Literal["Greedy", "Probabilistic"]
    draft_vocab_size: int
    loss: LossWeights
    step_decay: float
    optimizer: Literal["AdamW", "Muon"]
    learning_rate: float
    scheduler: Literal["Cosine", "Linear", "Constant", "WSD"]
    warmup_fraction: float
    decay_fraction: float
    weight_decay: float
    ema_decay: float | None
    max_grad_norm: float
    epochs: int
    max_steps: int | None
    batch_tokens: int
    max_length: int
    long_rows: Literal["Cut", "Drop"]
    evaluations: int
    early_stop_evaluations: int | None
    checkpoint_seconds: float
    seed: int
    compute_dtype: Literal["Float32", "BFloat16"]
    layout: Literal["Speculators", "Eagle"]


def recipe(given: Hyperparameters) -> Recipe:
    """Read complete hyperparameters; raises UserError HyperparametersInvalid with the field's path."""
    for name in Hyperparameters.model_fields:
        if getattr(given, name) is None and name not in OPTIONAL:
            _refuse(name, "is not set; the operator resolves every field before it makes the Job")
    values: dict[str, Any] = {name: getattr(given, name) for name in Hyperparameters.model_fields}
    eta = float(values.pop("lk_eta"))
    weights = {TERMS[term.name]: float(term.weight) for term in values.pop("loss")}
    if len(weights) == 0 or sum(weights.values()) <= 0:
        _refuse("loss", "needs a term with a weight above 0")
    for name in ("learning_rate", "max_grad_norm", "step_decay"):
        if float(values[name]) <= 0:
            _refuse(name, "must be above 0")
    if values["early_stop_evaluations"] and values["early_stop_evaluations"] >= values["evaluations"]:
        _refuse("early_stop_evaluations", "must be less than evaluations, or it can never end a run")
    if float(values["step_decay"]) > 1:
        _refuse("step_decay", "must not be above 1: later draft steps are used less often")
    if values["scheduler"] == "WSD" and values["warmup_percent"] + values["decay_percent"] > _ALL:
        _refuse(
            "decay_percent", "with warmupPercent must be at most 100: the learning rate cannot rise and fall at once"
        )
    decimals = ("step_decay", "learning_rate", "weight_decay", "max_grad_norm", "ema_decay")
    values |= {name: float(values[name]) for name in decimals if values[name] is not None}
    if values["ema_decay"] is not None and not 0 < values["ema_decay"] < 1:
        _refuse("ema_decay", "must be above 0 and below 1")
    return Recipe(
        loss=LossWeights(**weights, lk_eta=eta),
        warmup_fraction=values.pop("warmup_percent") / _ALL,
        decay_fraction=values.pop("decay_percent") / _ALL,
        **values,
    )


def _refuse(field: str, why: str) -> None:
    path = Hyperparameters.model_fields[field].alias or field
    raise UserError(reasons.HYPERPARAMETERS_INVALID, f"hyperparameters.{path} {why}")
