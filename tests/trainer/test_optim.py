"""Schedules, optimisers and the average of the weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from specop.api.preset import DEFAULTS
from specop.trainer.config import Recipe, recipe
from specop.trainer.group import Group
from specop.trainer.optim import FLOOR, Average, Muon, Together, learning_rate, optimiser
from tests.trainer.tiny_run import World, loop, parts


def knobs(**changed: Any) -> Recipe:
    return recipe(DEFAULTS.model_copy(update=changed))


@pytest.mark.parametrize(
    ("scheduler", "end"), [("Linear", FLOOR), ("Cosine", FLOOR), ("WSD", FLOOR), ("Constant", 1.0)]
)
def test_the_rate_rises_to_its_peak_and_falls_to_its_floor(scheduler: str, end: float) -> None:
    recipe_ = knobs(scheduler=scheduler, warmup_percent=10, learning_rate="2")
    rates = [learning_rate(step, 100, recipe_) for step in range(101)]
    assert rates[:10] == pytest.approx([0.2 * (step + 1) for step in range(10)])
    assert rates[10] == max(rates) == 2
    assert sorted(rates[10:], reverse=True) == rates[10:]
    assert rates[100] == pytest.approx(2 * end)


def test_wsd_stays_at_its_peak_until_the_decay() -> None:
    recipe_ = knobs(scheduler="WSD", warmup_percent=10, decay_percent=30, learning_rate="2")
    rates = [learning_rate(step, 100, recipe_) for step in range(101)]
    assert set(rates[10:71]) == {2.0}
    assert rates[85] == pytest.approx(2 * (1 + FLOOR) / 2)


def small() -> nn.ModuleDict:
    return nn.ModuleDict({"fc": nn.Linear(4, 6), "lm_head": nn.Linear(6, 8, bias=False)})


def test_muon_takes_matrices_between_states_and_adamw_the_rest() -> None:
    model = small()
    found = optimiser(model, knobs(optimizer="Muon", weight_decay="0.1"))
    assert isinstance(found, Together)
    (muon, adamw), names = found._parts, {id(p): name for name, p in model.named_parameters()}
    assert [names[id(p)] for group in muon.param_groups for p in group["params"]] == ["fc.weight"]
    assert [[names[id(p)] for p in group["params"]] for group in adamw.param_groups] == [
        ["lm_head.weight"],
        ["fc.bias"],
    ]
    assert [group["weight_decay"] for group in found.param_groups] == [0.1, 0.1, 0.0]


@pytest.mark.parametrize("shape", [(24, 8), (8, 24), (16, 16)])
@pytest.mark.parametrize("dtype", ["BFloat16", "Float32"])
def test_muon_is_torchs_own(shape: tuple[int, int], dtype: str) -> None:
    recipe_ = knobs(optimizer="Muon", weight_decay="0.1", learning_rate="0.01", compute_dtype=dtype)
    start = torch.randn(shape)
    mine, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    expected = torch.optim.Muon([theirs], lr=0.01, momentum=0.95, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    found = Muon([mine], recipe_, Group())
    for _ in range(3):
        mine.grad = torch.randn(shape)
        theirs.grad = mine.grad.clone()
        found.step()
        expected.step()  # type: ignore[no-untyped-call]
    assert torch.equal(found.state[mine]["momentum_buffer"], expected.state[theirs]["momentum_buffer"])
    apart = (mine - theirs).norm() / (theirs - start).norm()
    assert apart == 0 if dtype == "BFloat16" else apart < 0.03  # theirs is in bfloat16 always


@pytest.mark.parametrize("name", ["AdamW", "Muon"])
def test_an_optimiser_goes_on_from_its_state(name: str) -> None:
    def steps(model: nn.Module, found: Any, count: int) -> None:
        for _ in range(count):
            found.zero_grad()
            model["lm_head"](model["fc"](torch.ones(2, 4))).square().sum().backward()  # type: ignore[index]
            for group in found.param_groups:
                group["lr"] = 0.01
            found.step()

    model = small()
    found = optimiser(model, knobs(optimizer=name))
    steps(model, found, 2)
    other = small()
    other.load_state_dict(model.state_dict())
    again = optimiser(other, knobs(optimizer=name))
    state = {i: {key: x.clone() for key, x in s.items()} for i, s in found.state_dict()["state"].items()}
    assert sorted(state) == [0, 1, 2]
    again.load_state_dict({"state": state, "param_groups": again.state_dict()["param_groups"]})
    steps(model, found, 2)
    steps(other, again, 2)
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_an_average_remembers_but_not_the_start() -> None:
    model = nn.Linear(1, 1, bias=False)
    average = Average(model, 0.9)
    for step in range(1, 101):
        nn.init.constant_(model.weight, step)
        average.update(step)
    weight = float(average.tensors["weight"])
    assert weight == pytest.approx(100 - 9, rel=0.01)  # a ramp, late by decay / (1 - decay) steps
    with average.applied():
        assert float(model.weight.detach()) == weight
        assert float(average.tensors["weight"]) == 100
    assert float(model.weight.detach()) == 100
    assert float(average.tensors["weight"]) == weight


def test_muon_learns_and_what_is_judged_and_kept_is_the_average(world: World, tmp_path: Path) -> None:
    model, course, _ = parts(world, tmp_path, optimizer="Muon", ema_decay="0.8", max_steps=60, evaluations=1)
    training = loop(model, course, tmp_path)
    training.run(lambda *_: None)
    assert training.progress.best_length > 1.3
    assert training._average
    for name, tensor in training._average.tensors.items():
        assert torch.equal(training.best[name], tensor)
        assert not torch.equal(model.state_dict()[name], tensor)
