"""The worker: every end of a reconcile has its consequence, on a virtual clock."""

import asyncio
from typing import Any

import pytest

from specop.api import reasons
from specop.common.errors import Conflict, Retryable
from specop.kube.cache import Key
from tests.controllers.harness import TEAM, Operator, endpoint
from tests.controllers.virtual import run
from tests.kube.fakekube import FakeKube

KEY = Key("DraftedEndpoint", TEAM, "agent")


@pytest.mark.parametrize(
    ("error", "result", "after"),
    [
        pytest.param(None, "ok", None, id="done"),
        pytest.param(Conflict("again"), "conflict", 0.1, id="again soon"),
        pytest.param(Retryable("later"), "retry", 0.1, id="later"),
        pytest.param(Retryable("later", after_seconds=30), "retry", 30.0, id="when the server says"),
        pytest.param(KeyError("bug"), "fault", 0.1, id="a fault of ours"),
    ],
)
def test_ends(error: Exception | None, result: str, after: float | None) -> None:
    async def work() -> None:
        operator = Operator(FakeKube())

        async def execute(*_: Any) -> None:
            if error is not None:
                raise error

        operator.executor.execute = execute  # type: ignore[method-assign]
        operator.intake.seen({**endpoint(), "metadata": {**endpoint()["metadata"], "resourceVersion": "1", "uid": "u"}})
        await operator.queue.get()
        await operator.workers[0].reconcile(KEY)
        operator.queue.done(KEY)
        assert operator.results == [("DraftedEndpoint", result)]
        delayed = operator.queue._delayed
        assert (delayed[KEY].when() if KEY in delayed else None) == after
        operator.queue.close()

    run(work())


def test_a_reconcile_that_hangs_is_cut_and_repeated() -> None:
    async def work() -> None:
        operator = Operator(FakeKube())

        async def plan(*_: Any) -> None:
            await asyncio.Event().wait()

        operator.gatherer.plan = plan  # type: ignore[method-assign,assignment]
        await operator.workers[0].reconcile(KEY)
        assert operator.results == [("DraftedEndpoint", "timeout")]
        assert asyncio.get_running_loop().time() == 60
        assert KEY in operator.queue._delayed
        operator.queue.close()

    run(work())


def test_an_object_of_a_newer_version_is_named_and_left_alone() -> None:
    async def work() -> None:
        kube = FakeKube()
        kube.put(endpoint(replicas="many"))
        operator = Operator(kube)
        await operator.start()
        await operator.idle()
        found = next(iter(kube.all("DraftedEndpoint")))
        condition = found["status"]["conditions"][0]
        assert (condition["type"], condition["reason"]) == ("Stalled", reasons.INVALID_SPEC)
        assert "spec.replicas" in condition["message"]
        assert "many" not in condition["message"]
        assert list(kube.all("Deployment")) == []
        await operator.kill()

    run(work())


def test_a_worker_that_is_stopped_ends_what_it_does_and_begins_nothing() -> None:
    async def work() -> None:
        kube = FakeKube()
        operator = Operator(kube, workers=1)
        await operator.start()

        async def slow(*_: Any) -> None:
            await asyncio.sleep(5)

        operator.gatherer.plan = slow  # type: ignore[method-assign,assignment]
        operator.queue.add(KEY)
        operator.queue.add(KEY._replace(name="next"))
        await asyncio.sleep(1)
        await operator.workers[0].stop(15)
        assert asyncio.get_running_loop().time() == 5
        await asyncio.sleep(20)
        assert len(operator.results) == 1
        await operator.kill()

    run(work())
