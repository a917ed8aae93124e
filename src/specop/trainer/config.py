"""The numeric view of a job's hyperparameters, checked once. Objects carry numbers as strings; the trainer computes.

Not here: defaults and presets (`api/preset.py` resolves them before the Job is made), and what may not be said together
(`api/contradictions.py`).
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch

from specop.api import reasons
from specop.api.contradictions import contradiction
from specop.api.hyperparameters import Hyperparameters, LossName
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
    if why := contradiction(given):
        raise UserError(reasons.HYPERPARAMETERS_INVALID, why)
    values: dict[str, Any] = {name: getattr(given, name) for name in Hyperparameters.model_fields}
    eta = float(values.pop("lk_eta"))
    weights = {TERMS[term.name]: float(term.weight) for term in values.pop("loss")}
    decimals = ("step_decay", "learning_rate", "weight_decay", "max_grad_norm", "ema_decay")
    values |= {name: float(values[name]) for name in decimals if values[name] is not None}
    return Recipe(
        loss=LossWeights(**weights, lk_eta=eta),
        warmup_fraction=values.pop("warmup_percent") / 100,
        decay_fraction=values.pop("decay_percent") / 100,
        **values,
    )
