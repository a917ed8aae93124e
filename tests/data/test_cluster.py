"""A Ray cluster that is not there, or slow to start; what one that works makes, `test_mixed` compares."""

from collections.abc import Iterator

import pytest
import ray.util.client.worker
from ray._private import client_mode_hook

from specop.api import reasons
from specop.api.dataset import RayCluster
from specop.common.errors import UserError
from specop.data.cluster import _connect
from tests.data.world import World, capture

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"
)


@pytest.fixture
def client_mode() -> Iterator[None]:
    """Ray in this process goes on asking its client, also when that never connected."""
    yield
    client_mode_hook._explicitly_disable_client_mode()


@pytest.mark.usefixtures("client_mode")
@pytest.mark.filterwarnings("ignore:Ray Client connection timed out")
def test_a_cluster_that_does_not_answer(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("INITIAL_TIMEOUT_SEC", "MAX_TIMEOUT_SEC"):
        monkeypatch.setattr(ray.util.client.worker, name, 0.1)
    world.write("a.jsonl", [capture(number) for number in range(9)])
    with pytest.raises(UserError) as caught:
        world.make(engine={"ray": {"address": "ray://127.0.0.1:9"}})
    assert caught.value.reason == reasons.RAY_UNREACHABLE


@pytest.mark.parametrize(("slow", "started"), [(2, True), (3, False)])
def test_a_slow_start_is_tried_again(slow: int, started: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    failures = iter([Exception("The current node timed out during startup")] * slow)

    def init(*_: object, **__: object) -> None:
        for failure in failures:
            raise failure

    monkeypatch.setattr(ray, "init", init)
    cluster = RayCluster(address="local")
    if started:
        _connect(cluster)
    else:
        with pytest.raises(UserError, match="No Ray cluster"):
            _connect(cluster)
