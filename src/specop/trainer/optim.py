"""The optimiser, its schedule, and an average of the weights.

AdamW on float32 masters; or Muon for what turns one hidden state into another (`fc` and the layer's matrices) with
AdamW for the rest: norms, and the head, whose rows are tokens and not directions. Muon's updates are scaled to the size
of AdamW's, so that one learning rate and one weight decay serve both.

Under FSDP2 each rank holds, and updates, its part of everything: AdamW and the average look at single numbers. Muon's
step needs whole matrices, and `Muon` says how it gets them.

The schedule is a function of the step number and has no state of its own, so that a resumed run cannot disagree with
it. Likewise the average's decay at a step.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from specop.trainer.config import DTYPES, Recipe
from specop.trainer.group import Group
from specop.trainer.replicas import gathered, placed

BETAS = (0.9, 0.95)
MOMENTUM = 0.95
ADAMW_SIZE = 0.2
"""Root mean square of AdamW's updates, to which Muon's are scaled (arXiv 2502.16982, §2.2)."""
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


def optimiser(model: nn.Module, recipe: Recipe, group: Group | None = None) -> Optimiser:
    """Return the recipe's optimiser over all parameters; norms, the only vectors, are not decayed.

    All ranks of the group step together; without one, this process is alone.
    """
    named = list(model.named_parameters())
    vectors = {"params": [p for _, p in named if p.dim() <= 1], "weight_decay": 0.0}
    hidden = [p for name, p in named if p.dim() > 1 and name != "lm_head.weight"]
    heads = [p for name, p in named if p.dim() > 1 and name == "lm_head.weight"]
    matrices = heads if recipe.optimizer == "Muon" else [p for _, p in named if p.dim() > 1]
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, vectors]
    adamw = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=BETAS, fused=True)
    if recipe.optimizer == "AdamW":
        return adamw
    return Together([Muon(hidden, recipe, group or Group()), adamw])


class Muon(torch.optim.Muon):
    """torch's Muon (Nesterov, updates of AdamW's size) on any number of ranks, that hold matrices whole or cut.

    What concerns single numbers (momentum, decay, the step itself) is done where they lie. The updates in between are
    gathered where they are cut, made orthogonal, each matrix by one rank, and given to all: N ranks do what one does,
    and none does what another has done. Products are made in the run's own dtype: where torch always takes bfloat16,
    runs of float32 would differ by their sums' order.
    """

    def __init__(self, matrices: list[nn.Parameter], recipe: Recipe, group: Group) -> None:
        super().__init__(
            matrices, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, momentum=MOMENTUM, nesterov=True
        )
        self._compute = DTYPES[recipe.compute_dtype]
        self._group = group

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override] # nobody here has one
        """Apply the gradients. Collective."""
        del closure
        (group,) = self.param_groups
        updates, place = [], self._group.place
        for index, matrix in enumerate(group["params"]):
            update = gathered(self._update(matrix, group["momentum"]).to(self._compute))
            if index % place.size == place.rank:
                update = _orthogonal(update, group["ns_coefficients"], group["ns_steps"], group["eps"])
            updates.append(update)
        for index, (matrix, update) in enumerate(zip(group["params"], updates, strict=True)):
            orthogonal = placed(self._group.copy(update, index % place.size), matrix)
            matrix.mul_(1 - group["lr"] * group["weight_decay"])
            matrix.add_(orthogonal, alpha=-group["lr"] * ADAMW_SIZE * math.sqrt(max(matrix.shape)))

    def _update(self, matrix: Tensor, momentum: float) -> Tensor:
        """Take in a gradient; the update in the direction of the momentum, cut as the matrix is."""
        assert matrix.grad is not None
        state = self.state[matrix]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(matrix.grad)
        average: Tensor = state["momentum_buffer"].lerp_(matrix.grad, 1 - momentum)
        return matrix.grad.lerp(average, momentum)


def _orthogonal(x_RC: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """Bring the singular values of a matrix near 1, by a Newton-Schulz series (as torch's, but in the given dtype)."""
    a, b, c = coefficients
    x = x_RC.T if x_RC.shape[0] > x_RC.shape[1] else x_RC  # the smaller products
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.T if x_RC.shape[0] > x_RC.shape[1] else x).contiguous()


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
