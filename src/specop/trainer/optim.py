"""The optimiser, its schedule, and an average of the weights.

AdamW on float32 masters; or Muon for what turns one hidden state into another (`fc` and the layer's matrices) with
AdamW for the rest: norms, and the head, whose rows are tokens and not directions. Muon's updates are scaled to the size
of AdamW's (`match_rms_adamw`), so that one learning rate and one weight decay serve both.

The schedule is a function of the step number and has no state of its own, so that a resumed run cannot disagree with
it. Likewise the average's decay at a step.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from specop.trainer.config import Recipe

BETAS = (0.9, 0.95)
MOMENTUM = 0.95
FLOOR = 0.05
"""Share of the peak at which Cosine, Linear and WSD end."""
AVERAGE_START = 10
"""Steps over which the average's memory grows: it would else remember the first weights for 1 / (1 - decay) steps."""


class Optimiser(Protocol):
    """What the loop needs of `torch.optim.Optimizer`."""

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Parameters, their learning rate and other settings; to be changed in place."""
        ...

    def zero_grad(self) -> None:
        """Forget the gradients."""

    def step(self) -> Any:
        """Apply the gradients."""

    def state_dict(self) -> dict[str, Any]:
        """Return `state`, by index of the parameter over all groups, and `param_groups`."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what `state_dict` returned."""


def optimiser(model: nn.Module, recipe: Recipe) -> Optimiser:
    """Return the recipe's optimiser over all parameters; norms, the only vectors, are not decayed."""
    named = list(model.named_parameters())
    vectors = {"params": [p for _, p in named if p.dim() <= 1], "weight_decay": 0.0}
    hidden = [p for name, p in named if p.dim() > 1 and name != "lm_head.weight"]
    heads = [p for name, p in named if p.dim() > 1 and name == "lm_head.weight"]
    matrices = heads if recipe.optimizer == "Muon" else [p for _, p in named if p.dim() > 1]
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, vectors]
    adamw = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=BETAS, fused=True)
    if recipe.optimizer == "AdamW":
        return adamw
    muon = torch.optim.Muon(
        hidden,
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        momentum=MOMENTUM,
        adjust_lr_fn="match_rms_adamw",
    )
    return Together([muon, adamw])


class Together:
    """Several optimisers, of different parameters, as one."""

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        self._parts = parts

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Groups of all, in order."""
        return [group for part in self._parts for group in part.param_groups]

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for part in self._parts:
            part.zero_grad()

    def step(self) -> None:
        """Apply the gradients."""
        for part in self._parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """State of all, by index over all groups."""
        states: dict[int, Any] = {}
        groups: list[dict[str, Any]] = []
        first = 0
        for part in self._parts:
            found = part.state_dict()
            states |= {first + index: state for index, state in found["state"].items()}
            groups += [{**group, "params": [first + i for i in group["params"]]} for group in found["param_groups"]]
            first += sum(len(group["params"]) for group in found["param_groups"])
        return {"state": states, "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what `state_dict` returned."""
        groups, states, first = iter(state_dict["param_groups"]), state_dict["state"], 0
        for part in self._parts:
            count = sum(len(group["params"]) for group in part.param_groups)
            mine = {i: states[first + i] for i in range(count) if first + i in states}
            kept = [{**next(groups), "params": group["params"]} for group in part.state_dict()["param_groups"]]
            part.load_state_dict({"state": mine, "param_groups": kept})
            first += count


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
        case "WSD":
            left = (total_steps - step) / max(recipe.decay_fraction * total_steps, 1)
            share = min(1.0, FLOOR + (1 - FLOOR) * left)
    return recipe.learning_rate * share


class Average:
    """An exponential moving average of a model's parameters (EMA): what is judged and kept in their stead."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._model = model
        self._decay = decay
        self.tensors = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        """By name of the parameter, cut as it is."""

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after optimiser step `step` (from 1)."""
        decay = min(self._decay, step / (step + AVERAGE_START))
        for name, parameter in self._model.named_parameters():
            self.tensors[name].lerp_(parameter, 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the model have the average for weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self._model.named_parameters():
            kept: Tensor = parameter.clone()
            parameter.copy_(self.tensors[name])
            self.tensors[name].copy_(kept)
