"""The Lease, on a virtual clock: one holder at a time, a standby takes over."""

import asyncio
from typing import Any

import pytest

from specop.common.errors import Retryable
from specop.kube.lease import Lease, LeaseLost
from specop.kube.resources import LEASE
from tests.controllers.virtual import run
from tests.kube.fakekube import FakeKube


def lease(kube: FakeKube, identity: str) -> Lease:
    return Lease(kube, "specop-system", "specop", identity, duration_seconds=15)


def test_the_second_waits_until_the_first_gives_up() -> None:
    async def work() -> float:
        kube = FakeKube()
        first = lease(kube, "a")
        await first.acquire()
        holding = asyncio.create_task(first.hold())
        second = asyncio.create_task(lease(kube, "b").acquire())
        await asyncio.sleep(100)
        assert not second.done()
        holding.cancel()
        released = asyncio.get_running_loop().time()
        await first.release()
        await second
        return asyncio.get_running_loop().time() - released

    assert run(work()) <= 3


def test_the_second_takes_over_from_one_that_died() -> None:
    async def work() -> float:
        kube = FakeKube()
        await lease(kube, "a").acquire()
        await lease(kube, "b").acquire()
        return asyncio.get_running_loop().time()

    assert 15 < run(work()) <= 21


def test_who_cannot_renew_loses_it_before_another_may_take_it() -> None:
    async def work() -> float:
        kube = FakeKube()
        first = lease(kube, "a")
        await first.acquire()

        def refuse(_verb: str, _key: Any) -> None:
            raise Retryable("gone")

        kube.before = refuse
        with pytest.raises(LeaseLost):
            await first.hold()
        return asyncio.get_running_loop().time()

    assert run(work()) < 15


def test_of_two_that_race_one_wins() -> None:
    async def work() -> str:
        kube = FakeKube()
        tasks = [asyncio.create_task(lease(kube, name).acquire()) for name in "ab"]
        await asyncio.sleep(10)
        assert sum(task.done() for task in tasks) == 1
        for task in tasks:
            task.cancel()
        found = await kube.get(LEASE, "specop-system", "specop")
        assert found is not None
        return str(found["spec"]["holderIdentity"])

    assert run(work()) in "ab"
