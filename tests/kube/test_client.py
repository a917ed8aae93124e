"""How the API server's bad answers become errors: against a server that gives them."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from kubernetes.aio.client import Configuration

from specop.common.errors import Conflict, Retryable, SpecopError, Terminal
from specop.kube.client import Client
from specop.kube.resources import SERVICE

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
BODY = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "agent", "namespace": "team"}}


@pytest.fixture
async def serve() -> AsyncIterator[Callable[[Handler], Awaitable[Client]]]:
    opened: list[Any] = []

    async def start(handler: Handler) -> Client:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handler)
        server = TestServer(app)
        await server.start_server()
        client = Client(Configuration(host=str(server.make_url("")).rstrip("/")), timeout_seconds=0.5)
        opened.extend((client, server))
        return client

    yield start
    for each in opened:
        await each.close()


@pytest.mark.parametrize(
    ("status", "headers", "error", "after"),
    [
        (400, {}, Terminal, None),
        (401, {}, Retryable, None),
        (403, {}, Retryable, None),
        (404, {}, Conflict, None),
        (409, {}, Conflict, None),
        (410, {}, Conflict, None),
        (413, {}, Terminal, None),
        (422, {}, Terminal, None),
        (429, {"Retry-After": "7"}, Retryable, 7.0),
        (500, {}, Retryable, None),
        (503, {"Retry-After": "soon"}, Retryable, None),
    ],
)
async def test_every_status_has_its_error(
    serve: Callable[[Handler], Awaitable[Client]],
    status: int,
    headers: dict[str, str],
    error: type[SpecopError],
    after: float | None,
) -> None:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.json_response({"kind": "Status", "message": "no"}, status=status, headers=headers)

    client = await serve(answer)
    with pytest.raises(error) as raised:
        await client.apply(BODY, "specop")
    assert getattr(raised.value, "after_seconds", None) == after


async def test_a_server_that_is_slow_gone_or_talks_nonsense_is_for_later(
    serve: Callable[[Handler], Awaitable[Client]],
) -> None:
    async def cut(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    async def page(_: web.Request) -> web.StreamResponse:
        return web.Response(text="<html>", content_type="text/html")

    for handler in (cut, page):
        client = await serve(handler)
        with pytest.raises(Retryable):
            await client.get(SERVICE, "team", "agent")
    gone = Client(Configuration(host="http://127.0.0.1:9"))
    with pytest.raises(Retryable):
        await gone.get(SERVICE, "team", "agent")
    await gone.close()


async def test_a_list_is_read_page_by_page(serve: Callable[[Handler], Awaitable[Client]]) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        last = request.query.get("continue")
        item = {"metadata": {"name": "two" if last else "one", "resourceVersion": "3"}}
        metadata = {"resourceVersion": "9", **({} if last else {"continue": "more"})}
        return web.json_response({"items": [item], "metadata": metadata})

    listing = await (await serve(answer)).list(SERVICE, "team", "a=b")
    assert [each["metadata"]["name"] for each in listing.items] == ["one", "two"]
    assert listing.version == 9
    assert listing.items[0]["kind"] == "Service"


async def test_every_call_is_observed(serve: Callable[[Handler], Awaitable[Client]]) -> None:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.json_response(BODY, status=201)

    client = await serve(answer)
    seen: list[tuple[str, str, int]] = []
    client._observer = lambda *call: seen.append(call)
    await client.create(BODY)
    assert seen == [("create", "Service", 201)]
