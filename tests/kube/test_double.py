"""The double beyond the contract: events come in order, faults strike where asked."""

from typing import Any

import pytest

from specop.common.errors import Retryable
from specop.kube.cache import Key
from tests.kube.fakekube import FakeKube

BODY: dict[str, Any] = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "agent", "namespace": "team"}}


async def test_events_tell_every_change_once() -> None:
    kube = FakeKube()
    seen: list[tuple[str, str]] = []
    kube.watchers.append(lambda event, body: seen.append((event, body["metadata"]["resourceVersion"])))
    await kube.apply(BODY, "specop")
    await kube.apply(BODY, "specop")
    await kube.apply({**BODY, "spec": {"type": "ClusterIP"}}, "specop")
    kube.remove(Key("Service", "team", "agent"))
    assert seen == [("ADDED", "1"), ("MODIFIED", "2"), ("DELETED", "3")]


async def test_a_lost_answer_is_a_write_that_was_done() -> None:
    kube = FakeKube()

    def cut(_verb: str, _key: Key) -> None:
        raise Retryable("cut")

    kube.after = cut
    with pytest.raises(Retryable):
        await kube.apply(BODY, "specop")
    assert len(list(kube.all("Service"))) == 1
