"""The whole of controllers with the real plans over the double: the loop closes, whatever is in the way."""

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from specop.common.errors import Conflict, Retryable
from specop.kube import resources
from specop.kube.cache import Key
from tests.controllers.harness import TEAM, Operator, dataset, endpoint, live, training
from tests.controllers.virtual import run
from tests.domain import build
from tests.kube.fakekube import FakeKube

Json = dict[str, Any]
ENDPOINT = Key("DraftedEndpoint", TEAM, "agent")
DEFAULT = endpoint(drafter=build.asks_for("agent-v1", build.approve("agent-v1")))


class Killed(BaseException):
    """The process is gone."""


async def settle(kube: FakeKube, operator: Operator, seconds: int = 100) -> None:
    """Let time pass, with a cluster that lives."""
    for _ in range(seconds):
        await asyncio.sleep(1)
        await operator.idle()
        live(kube)


async def connected(kube: FakeKube) -> Operator:
    operator = Operator(kube)

    def tell(event: str, body: Json) -> None:
        (operator.intake.gone if event == "DELETED" else operator.intake.seen)(body)

    kube.watchers[:] = [tell]
    await operator.start()
    return operator


def final(kube: FakeKube) -> Json:
    """The state of the cluster, without what differs between two histories."""
    moving = {"uid", "resourceVersion", "creationTimestamp", "lastTransitionTime", "since", "started", "approvedAt"}

    def still(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: still(item) for name, item in value.items() if name not in moving}
        return [still(item) for item in value] if isinstance(value, list) else value

    kinds = ("DraftedEndpoint", "SpeculatorDataset", "SpeculatorTrainingJob", "Drafter", "Deployment", "Service")
    state = {kind: [still(body) for body in kube.all(kind)] for kind in kinds}
    for body in itertools.chain(*state.values()):
        # Names of uids inside status and specs of children.
        body["metadata"].pop("ownerReferences", None)
        body["metadata"].pop("annotations", None)
        body["metadata"].pop("generation")
    return state


@pytest.mark.parametrize("order", list(itertools.permutations([DEFAULT, dataset(), training()])), ids=lambda _: "")
def test_objects_may_come_in_any_order(order: tuple[Json, ...]) -> None:
    async def work() -> None:
        kube = FakeKube()
        operator = await connected(kube)
        for body in order:
            kube.put(body)
            await asyncio.sleep(5)
        await settle(kube, operator)
        found = await kube.get(resources.ENDPOINT, TEAM, "agent")
        assert found is not None
        assert found["status"]["drafter"]["serving"]["digest"] == build.sha("agent-v1")
        assert {body["metadata"]["name"] for body in kube.all("Deployment")} == {
            f"agent-d-{build.sha('agent-v1')[7:15]}"
        }
        await operator.kill()

    run(work())


def history(fault: Callable[[int], BaseException | None], *, after: bool) -> FakeKube:
    """Run the loop to its end; `fault` says what strikes at a write, before it is done or after."""

    async def work() -> FakeKube:
        kube = FakeKube()
        for body in (DEFAULT, dataset(), training()):
            kube.put(body)
        count, dead = itertools.count(), asyncio.Event()

        def strike(_verb: str, _key: Key) -> None:
            error = fault(next(count))
            if isinstance(error, Killed):
                dead.set()
                raise asyncio.CancelledError
            if error is not None:
                raise error

        setattr(kube, "after" if after else "before", strike)
        operator = await connected(kube)
        for _ in range(40):
            await asyncio.sleep(1)
            if dead.is_set():
                dead.clear()
                await operator.kill()
                operator = await connected(kube)
            await operator.idle()
            live(kube)
        await operator.kill()
        return kube

    return run(work())


CALM = history(lambda _: None, after=False)
WRITES = len(CALM.writes)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    "error", [Killed(), Retryable("gone"), Conflict("again")], ids=["killed", "unavailable", "conflict"]
)
@pytest.mark.parametrize("number", range(WRITES))
def test_whatever_strikes_at_any_write_the_end_is_the_same(number: int, error: BaseException, after: bool) -> None:
    assert final(history(lambda count: error if count == number else None, after=after)) == final(CALM)


def test_the_loop_costs_few_writes() -> None:
    """A constant: three objects from nothing to a drafter that serves. Raise it only with a reason."""
    assert WRITES <= 60


def test_at_rest_nothing_is_written_also_by_an_operator_that_has_just_started() -> None:
    kube = history(lambda _: None, after=False)

    async def work() -> None:
        kube.before = kube.after = lambda _verb, _key: None
        kube.writes.clear()
        operator = await connected(kube)
        await operator.idle()
        await asyncio.sleep(3600)
        operator.intake.enqueue_all()
        await operator.idle()
        await operator.kill()
        assert kube.writes == []
        assert {result for _, result in operator.results} == {"ok"}

    run(work())


@pytest.mark.parametrize("kind", ["Service", "Deployment", "Job"])
def test_a_child_that_somebody_removes_comes_back(kind: str) -> None:
    async def work() -> None:
        kube = FakeKube()
        kube.put(DEFAULT)
        operator = await connected(kube)
        await asyncio.sleep(1)
        await operator.idle()
        before = {body["metadata"]["name"] for body in kube.all(kind)}
        assert before
        for name in before:
            kube.remove(Key(kind, TEAM, name))
        await asyncio.sleep(5)
        await operator.idle()
        assert {body["metadata"]["name"] for body in kube.all(kind)} == before
        await operator.kill()

    run(work())


def test_with_its_object_everything_goes_and_nothing_comes_back() -> None:
    async def work() -> None:
        kube = FakeKube()
        kube.put(DEFAULT)
        operator = await connected(kube)
        await settle(kube, operator, 5)
        kube.remove(ENDPOINT)
        await settle(kube, operator, 100)
        assert [*kube.all("Deployment"), *kube.all("Service"), *kube.all("Job")] == []
        await operator.kill()

    run(work())
