"""The queue's promises, on a virtual clock."""

import asyncio

import pytest

from specop.controllers.queue import Queue
from tests.controllers.virtual import run


def test_a_key_added_twice_waits_once() -> None:
    async def work() -> list[str]:
        queue: Queue[str] = Queue()
        for key in ("a", "b", "a"):
            queue.add(key)
        return [await queue.get(), await queue.get(), str(len(queue))]

    assert run(work()) == ["a", "b", "0"]


def test_a_key_added_while_processed_comes_once_more_and_only_afterwards() -> None:
    async def work() -> None:
        queue: Queue[str] = Queue()
        queue.add("a")
        key = await queue.get()
        queue.add("a")
        queue.add("a")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(queue.get(), 100)
        queue.done(key)
        assert await asyncio.wait_for(queue.get(), 1) == "a"
        queue.done("a")
        assert queue.idle

    run(work())


def test_no_key_is_processed_by_two_workers() -> None:
    async def work() -> int:
        queue: Queue[int] = Queue()
        busy: set[int] = set()
        done = 0

        async def worker() -> None:
            nonlocal done
            while True:
                key = await queue.get()
                assert key not in busy
                busy.add(key)
                await asyncio.sleep(1)
                busy.discard(key)
                done += 1
                queue.done(key)

        workers = [asyncio.create_task(worker()) for _ in range(8)]
        for _ in range(50):
            for key in range(4):
                queue.add(key)
            await asyncio.sleep(0.3)
        await asyncio.sleep(10)
        for each in workers:
            each.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        assert queue.idle
        return done

    # 15 s of additions to 4 keys that take 1 s each, one at a time, and one more round for what came last.
    assert run(work()) == 4 * 16


@pytest.mark.parametrize(
    ("delays", "due"),
    [
        pytest.param([5.0], [5.0], id="once"),
        pytest.param([5.0, 9.0], [5.0], id="a later one does not move it"),
        pytest.param([9.0, 5.0], [5.0], id="an earlier one brings it forward"),
    ],
)
def test_the_earliest_delay_counts(delays: list[float], due: list[float]) -> None:
    async def work() -> list[float]:
        queue: Queue[str] = Queue()
        for delay in delays:
            queue.add_after("a", delay)
        times = []

        async def worker() -> None:
            while True:
                queue.done(await queue.get())
                times.append(asyncio.get_running_loop().time())

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(worker(), 100)
        return times

    assert run(work()) == due


def test_failures_of_a_key_wait_longer_each_time_up_to_the_cap_and_are_forgotten() -> None:
    async def work() -> list[float]:
        queue: Queue[str] = Queue(base_seconds=1, cap_seconds=10, jitter=lambda: 1.0)
        loop, waits = asyncio.get_running_loop(), []
        for failure in range(7):
            if failure == 6:
                queue.forget("a")
            started = loop.time()
            queue.add_rate_limited("a")
            queue.done(await queue.get())
            waits.append(loop.time() - started)
        return waits

    assert run(work()) == [1, 2, 4, 8, 10, 10, 1]


@pytest.mark.parametrize(("jitter", "expected"), [(0.0, 0.5), (1.0, 1.0)])
def test_jitter_takes_up_to_half(jitter: float, expected: float) -> None:
    async def work() -> float:
        queue: Queue[str] = Queue(base_seconds=1, jitter=lambda: jitter)
        queue.add_rate_limited("a")
        await queue.get()
        return asyncio.get_running_loop().time()

    assert run(work()) == expected


def test_the_server_may_ask_for_more_patience() -> None:
    async def work() -> float:
        queue: Queue[str] = Queue(base_seconds=1)
        queue.add_rate_limited("a", at_least=30)
        await queue.get()
        return asyncio.get_running_loop().time()

    assert run(work()) == 30


def test_closed_means_no_delayed_key_comes() -> None:
    async def work() -> None:
        queue: Queue[str] = Queue()
        queue.add_after("a", 5)
        queue.close()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(queue.get(), 100)

    run(work())
