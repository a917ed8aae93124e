"""The port, twice: the double, and the real API server."""

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from specop.kube.client import Client, load_configuration
from specop.kube.port import Port
from tests.kube.fakekube import FakeKube


@dataclass
class Side:
    """One implementation of the port, and a namespace of the test's own."""

    port: Port
    namespace: str


@pytest.fixture(params=["double", pytest.param("real", marks=pytest.mark.control_plane)])
async def side(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Side]:
    if request.param == "double":
        yield Side(FakeKube(), "test")
        return
    plane = request.getfixturevalue("control_plane")
    monkeypatch.setitem(os.environ, "KUBECONFIG", str(plane.kubeconfig))
    client = Client(await load_configuration())
    try:
        yield Side(client, plane.namespace())
    finally:
        await client.close()
