"""Several processes train as one does: the same losses step by step, and on from a checkpoint at another number."""

from pathlib import Path

import pytest

from specop.api.training_job import LossTerm
from tests.trainer.ranks import Run
from tests.trainer.tiny_run import World

CHANGED = {"max_steps": 50, "evaluations": 2, "batch_tokens": 320, "loss": [LossTerm(name="LKHybrid")]}


@pytest.fixture(scope="module")
def expected(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[int, float]:
    """Losses of one process."""
    found = Run(world, tmp_path_factory.mktemp("one"), size=1, changed=CHANGED).finish()
    assert list(found) == list(range(1, 51))
    return found


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("sharded", [False, True], ids=["whole", "sharded"])
def test_the_losses_are_those_of_one_process(
    size: int, sharded: bool, world: World, expected: dict[int, float], tmp_path: Path
) -> None:
    found = Run(world, tmp_path, size=size, sharded=sharded, changed=CHANGED).finish()
    assert found == pytest.approx(expected, rel=1e-4)


def test_a_killed_run_goes_on_with_fewer_processes(world: World, expected: dict[int, float], tmp_path: Path) -> None:
    changed = {**CHANGED, "checkpoint_seconds": 0.05}
    Run(world, tmp_path, size=4, sharded=True, changed=changed).kill_at(15)
    Run(world, tmp_path, size=2, changed=changed).kill_at(32)
    found = Run(world, tmp_path, size=1, changed=changed).finish()
    assert found == pytest.approx(expected, rel=1e-4)
