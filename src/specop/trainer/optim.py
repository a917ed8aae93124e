"""The optimiser and its schedule: AdamW on float32 masters, learning rate as a function of the step number.

The schedule has no state of its own, so that a resumed run cannot disagree with it.
"""

import math

import torch
from torch import nn

from specop.trainer.config import Recipe

BETAS = (0.9, 0.95)
FLOOR = 0.05
"""Share of the peak at which Cosine and Linear end."""


def adamw(model: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW over all parameters; norms, the only vectors, are not decayed."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=BETAS, fused=True)


def learning_rate(step: int, total_steps: int, recipe: Recipe) -> float:
    """Learning rate of optimiser step `step` (from 0)."""
    warmup = math.ceil(recipe.warmup_fraction * total_steps)
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(total_steps - warmup, 1)
    match recipe.scheduler:
        case "Constant":
            share = 1.0
        case "Linear":
            share = 1 - (1 - FLOOR) * done
        case "Cosine":
            share = FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi * done)) / 2
    return recipe.learning_rate * share
