"""Stands between the operator and the API server, and lets things go wrong.

Plain HTTP towards the operator, TLS towards the server; headers, so also the operator's own token, pass through.
"""

import asyncio
import base64
import contextlib
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp
import yaml
from aiohttp import web

WRITES = {"POST", "PATCH", "DELETE"}
TLS_GOODBYE = 0.25
"""Seconds in which transports under TLS end after their connections were closed; nobody can wait for them."""
_HOP = {"host", "connection", "transfer-encoding", "content-length", "content-encoding", "keep-alive"}


class Cut(Exception):
    """End the connection without an answer; `done` if the server is to get the request first."""

    def __init__(self, *, done: bool) -> None:
        super().__init__()
        self.done = done


Fault = Callable[[web.Request], web.Response | float | Cut | None]
"""What happens to a request: an answer in the server's stead, seconds to wait first, a cut, or nothing."""


class Proxy:
    """Runs in a thread of its own until the context ends."""

    def __init__(self, kubeconfig: Path, apiserver: str) -> None:
        self._apiserver = apiserver
        authority = yaml.safe_load(kubeconfig.read_text())["clusters"][0]["cluster"]["certificate-authority-data"]
        self._authority = base64.b64decode(authority).decode()
        self.fault: Fault = lambda _: None
        self.writes: list[str] = []
        """Method and path of every write that reached the server."""
        self.url = ""

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), name="proxy", daemon=True)
        self._thread.start()
        ready.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def _run(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve(ready))
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self._loop.run_until_complete(asyncio.sleep(TLS_GOODBYE))
        self._loop.close()

    async def _serve(self, ready: threading.Event) -> None:
        self._stop = asyncio.Event()
        app = web.Application(client_max_size=2**24)
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        context = ssl.create_default_context(cadata=self._authority)
        timeout = aiohttp.ClientTimeout(total=None)
        connector = aiohttp.TCPConnector(ssl=context, limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as self._session:
            ready.set()
            await self._stop.wait()
            await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        verdict = self.fault(request)
        if isinstance(verdict, web.Response):
            return verdict
        if isinstance(verdict, float):
            await asyncio.sleep(verdict)
        if isinstance(verdict, Cut) and not verdict.done:
            return self._cut(request)
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP}
        url = f"{self._apiserver}{request.rel_url}"
        async with self._session.request(
            request.method, url, headers=headers, data=await request.read() or None, allow_redirects=False
        ) as answer:
            if request.method in WRITES:
                self.writes.append(f"{request.method} {request.path}")
            if isinstance(verdict, Cut):
                await answer.read()
                return self._cut(request)
            passed = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP}
            response = web.StreamResponse(status=answer.status, headers=passed)
            with contextlib.suppress(ConnectionError):  # the operator was killed
                await response.prepare(request)
                async for chunk in answer.content.iter_any():
                    await response.write(chunk)
                await response.write_eof()
            return response

    @staticmethod
    def _cut(request: web.Request) -> web.Response:
        if request.transport is not None:
            request.transport.abort()
        return web.Response()
