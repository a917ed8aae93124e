from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.data.world import World
from tests.storage.server import S3Server, run_server
from tests.tiny import build_tiny


@pytest.fixture(scope="session")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny target's folder; copy it before changing anything."""
    return build_tiny(tmp_path_factory.mktemp("target"))


@pytest.fixture
def world(tmp_path: Path, target: Path) -> World:
    return World(tmp_path, target)


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    yield from run_server(tmp_path_factory.mktemp("s3"))
