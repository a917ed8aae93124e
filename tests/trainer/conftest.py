"""One tiny target with its dataset for all tests of the trainer."""

from collections.abc import Iterator

import pytest
import torch

from tests.trainer.tiny_run import World


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
