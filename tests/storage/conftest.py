from collections.abc import Iterator
from pathlib import Path

import pytest

from specop.api.jobs import StoreConfig
from specop.storage.base import Store
from specop.storage.stores import open_store
from tests.storage.server import S3Server, run_server


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    yield from run_server(tmp_path_factory.mktemp("s3"))


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.control_plane)])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Store, str]:
    """A store and a URI under which nothing lies yet: once on a directory, once on a real S3 server."""
    if request.param == "local":
        uri, config = f"file://{tmp_path}/place", StoreConfig()
    else:
        server = request.getfixturevalue("s3")
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        uri, config = f"s3://{server.new_bucket()}/place", server.config
    return open_store(uri, config), uri
