"""On Ray the same lines are the same dataset."""

import random
import time

import pytest
import ray.util.client.worker

from specop.api import reasons
from specop.common.errors import UserError
from tests.data.world import World, capture

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"
)


def test_the_same_dataset_on_local_ray(world: World) -> None:
    rows = [capture(number, answer="word " * random.Random(number).randrange(60)) for number in range(120)]
    world.write("a.jsonl.gz", rows[:70] + rows[:9])
    world.write("b.jsonl", [*rows[70:], b"broken"])
    expected = world.make()
    began = time.monotonic()
    assert world.make(engine={"ray": {"address": "local", "workers": 2}}) == expected
    assert time.monotonic() - began < 60


@pytest.mark.filterwarnings("ignore:Ray Client connection timed out")
def test_a_cluster_that_does_not_answer(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("INITIAL_TIMEOUT_SEC", "MAX_TIMEOUT_SEC"):
        monkeypatch.setattr(ray.util.client.worker, name, 0.1)
    world.write("a.jsonl", [capture(number) for number in range(9)])
    with pytest.raises(UserError) as caught:
        world.make(engine={"ray": {"address": "ray://127.0.0.1:9"}})
    assert caught.value.reason == reasons.RAY_UNREACHABLE
