"""Reading pods' pages over real HTTP, and what comes of it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from specop.common.names import owner_labels
from specop.controllers import pages
from specop.controllers.pages import Scraper
from specop.kube.cache import Key
from tests.controllers import harness
from tests.controllers.test_samples import PAGE
from tests.domain import build
from tests.kube.fakekube import FakeKube

Json = dict[str, Any]
TEAM = build.NAMESPACE
ENDPOINT = Key("DraftedEndpoint", TEAM, "agent")
DATASET = Key("SpeculatorDataset", TEAM, "agent-v1")
HOST = "127.0.0.1"


@contextlib.asynccontextmanager
async def served(**answers: Any) -> AsyncIterator[int]:
    """Serve pages by name; returns the port."""

    async def answer(request: web.Request) -> web.StreamResponse:
        found = answers.get(request.path.strip("/"), web.HTTPNotFound())
        if isinstance(found, Exception):
            raise found
        return web.json_response(found) if isinstance(found, dict) else web.Response(text=found)

    app = web.Application()
    app.router.add_route("GET", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, HOST, 0).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def pod(kind: str, name: str, role: str, **status: Any) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"{name}-pod", "namespace": TEAM, "labels": owner_labels(kind, name, role)},
        "status": {"phase": "Running", "podIP": HOST, **status},
    }


class Bench:
    """A scraper over a primed cache."""

    def __init__(self, *bodies: Json) -> None:
        self.kube = FakeKube()
        for body in bodies:
            self.kube.put(body)
        self.operator = harness.Operator(self.kube)
        self.seen: list[tuple[str, str]] = []
        self.scraper = Scraper(
            self.operator.intake,
            self.operator.readings,
            timeout_seconds=0.3,
            observer=lambda page, result: self.seen.append((page, result)),
        )

    async def round(self, now: float = 0.0) -> set[Key]:
        """Read every page once; returns the keys that were woken."""
        await self.operator.resync.prune()
        self.operator.queue._dirty.clear()
        async with aiohttp.ClientSession(timeout=self.scraper._timeout) as session:
            await self.scraper.round(session, now)
        return set(self.operator.queue._dirty)


@pytest.fixture
def ports(monkeypatch: pytest.MonkeyPatch) -> Any:
    def use(port: int) -> None:
        for name in ("METRICS_PORT", "COMPANION_PORT", "PROGRESS_PORT"):
            monkeypatch.setattr(pages, name, port)

    return use


async def test_progress_wakes_its_object_when_it_is_news(ports: Any) -> None:
    bench = Bench(harness.dataset(), pod("SpeculatorDataset", "agent-v1", "dataset"))
    async with served(progress={"stage": "read", "rows": 5}) as port:
        ports(port)
        assert await bench.round() == {DATASET}
        assert await bench.round() == set()
    assert bench.operator.readings.progress(DATASET) == {"stage": "read", "rows": 5}


async def test_captures_and_windows_of_an_endpoint(ports: Any) -> None:
    bench = Bench(harness.endpoint(), pod("DraftedEndpoint", "agent", "engine"))
    page = {"requests": 7, "shippedUntil": "2026-01-01T00:00:00Z"}
    async with served(capture=page, metrics=PAGE.replace(" 6.0", " 0.0")) as port:
        ports(port)
        assert await bench.round(0.0) == {ENDPOINT}
    async with served(capture=page, metrics=PAGE) as port:
        ports(port)
        assert await bench.round(10.0) == {ENDPOINT}
    measured = bench.operator.readings.measured(ENDPOINT)
    assert measured is not None
    assert measured.requests == 6
    shipped = bench.operator.readings.shipped(ENDPOINT, None, awaited=False)
    assert shipped is not None
    assert (shipped.requests, shipped.shipped_until) == (7, "2026-01-01T00:00:00Z")


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(web.HTTPInternalServerError(), id="an error"),
        pytest.param(web.HTTPFound("http://127.0.0.1:1/"), id="a way elsewhere"),
        pytest.param("not json", id="nonsense"),
        pytest.param("[1]", id="no object"),
        pytest.param({"requests": "many"}, id="no number"),
        pytest.param({"requests": -1}, id="a negative number"),
        pytest.param({"requests": 1, "shippedUntil": "soon"}, id="no time"),
    ],
)
async def test_a_page_that_cannot_be_read_is_counted_and_that_is_all(ports: Any, answer: Any) -> None:
    bench = Bench(harness.endpoint(), pod("DraftedEndpoint", "agent", "engine"))
    async with served(capture=answer, metrics=web.HTTPServiceUnavailable()) as port:
        ports(port)
        assert await bench.round() == set()
    assert sorted(bench.seen) == [("capture", "failed"), ("metrics", "failed")]


async def test_an_endpoint_that_cannot_be_read_is_left_to_its_reconcile(ports: Any) -> None:
    bench = Bench(harness.endpoint(replicas="many"), pod("DraftedEndpoint", "agent", "engine"))
    async with served(capture={"requests": 1}, metrics=PAGE) as port:
        ports(port)
        assert await bench.round() == set()


async def test_a_pod_that_does_not_answer_costs_its_own_time_only(ports: Any) -> None:
    bench = Bench(harness.dataset(), pod("SpeculatorDataset", "agent-v1", "dataset"))
    left = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        left.set()

    async with await asyncio.start_server(silent, HOST, 0) as server:
        ports(server.sockets[0].getsockname()[1])
        assert await asyncio.wait_for(bench.round(), 2) == set()
        await left.wait()
    assert bench.seen == [("progress", "failed")]


@pytest.mark.parametrize(
    "status",
    [{"phase": "Pending"}, {"phase": "Succeeded"}, {"podIP": ""}],
    ids=["not yet", "no more", "without an address"],
)
async def test_pods_that_do_not_run_are_not_asked(ports: Any, status: Json) -> None:
    bench = Bench(harness.dataset(), pod("SpeculatorDataset", "agent-v1", "dataset", **status))
    assert await bench.round() == set()
    assert bench.seen == []
