"""Several processes train as one does: the same losses step by step, and on from a checkpoint at another number."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from specop.api.hyperparameters import LossTerm
from specop.common.errors import EXIT_PREEMPTED
from tests.trainer.ranks import Run, kill
from tests.trainer.tiny_run import World

STEPS = {"max_steps": 50, "evaluations": 2, "batch_tokens": 320, "loss": [LossTerm(name="LKHybrid")]}
RECIPES = {"AdamW": STEPS, "Muon": {**STEPS, "optimizer": "Muon", "ema_decay": "0.9"}}


@dataclass
class Alone:
    """What one process makes of a recipe."""

    changed: dict[str, Any]
    losses: dict[int, float]
    kept: dict[str, Tensor]


@pytest.fixture(scope="module", params=RECIPES)
def alone(request: pytest.FixtureRequest, world: World, tmp_path_factory: pytest.TempPathFactory) -> Alone:
    run = Run(world, tmp_path_factory.mktemp("one"), size=1, changed=RECIPES[request.param])
    losses = run.finish()
    assert list(losses) == list(range(1, 51))
    return Alone(run.changed, losses, run.kept())


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Weights, their average, the best of them and what the optimiser remembers."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-4 * float(tensor.abs().max()), msg=name)


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("sharded", [False, True], ids=["whole", "sharded"])
def test_the_losses_are_those_of_one_process(
    size: int, sharded: bool, world: World, alone: Alone, tmp_path: Path
) -> None:
    run = Run(world, tmp_path, size=size, sharded=sharded, changed=alone.changed)
    assert run.finish() == pytest.approx(alone.losses, rel=1e-4)
    same(run.kept(), alone.kept)


@pytest.mark.parametrize("alone", ["Muon"], indirect=True)  # which has AdamW for a part, and the average
def test_a_killed_run_goes_on_with_fewer_processes(world: World, alone: Alone, tmp_path: Path) -> None:
    changed = {**alone.changed, "checkpoint_seconds": 0.05}
    Run(world, tmp_path, size=4, sharded=True, changed=changed).kill_at(15)
    second, last = (Run(world, tmp_path, size=size, changed=changed) for size in (2, 1))
    kept = second.kept_step()
    assert kept > 0
    second.kill_at(32)
    assert second.first_step() == kept + 1  # it went on, and did not begin anew
    newest = last.kept_step()
    assert newest > kept
    assert last.finish() == pytest.approx(alone.losses, rel=1e-4)
    assert last.first_step() == newest + 1
    same(last.kept(), alone.kept)


def test_another_number_of_processes_reads_what_was_kept_to_the_bit(world: World, tmp_path: Path) -> None:
    changed = {**RECIPES["Muon"], "max_steps": 4, "evaluations": 1}
    first = Run(world, tmp_path, size=2, sharded=True, changed=changed)
    first.finish()
    kept = first.kept()
    assert {"average.fc.weight", "optimiser.0.momentum_buffer"} <= kept.keys()
    again = Run(world, tmp_path, size=3, sharded=True, changed=changed)
    again.finish()  # nothing is left to do but to read and to write
    found = again.kept()
    assert found.keys() == kept.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in kept.items())


@pytest.mark.parametrize("collective", ["begin", "reduce"])
def test_whoever_waits_for_a_peer_that_is_gone_has_nothing_to_be_blamed_for(
    collective: str, world: World, tmp_path: Path
) -> None:
    processes = Run(world, tmp_path, size=2, sharded=True, changed=STEPS, last_leaves_in=collective).start()
    try:
        for process in processes:
            process.join()
    finally:
        kill(processes)
    assert [process.exitcode for process in processes] == [EXIT_PREEMPTED, 1]
