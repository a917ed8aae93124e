"""The operator's own HTTP pages: `/healthz`, `/readyz`, `/metrics`.

`/healthz` fails when a reconcile has been running longer than any may, or when a task of ours has died: then a
restart is the cure. `/readyz` fails until the cache is primed, and is fine while standing by. Both answer from the
event loop, so a blocked loop fails them too.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable

from aiohttp import web
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from specop.operator.metrics import Metrics

Check = Callable[[], str | None]
"""What is wrong, or None."""

_LAG_PERIOD = 1.0


class Pages:
    """The HTTP server."""

    def __init__(self, metrics: Metrics, *, healthy: Check, ready: Check) -> None:
        self._metrics = metrics
        app = web.Application()
        app.add_routes(
            [
                web.get("/healthz", _probe(healthy)),
                web.get("/readyz", _probe(ready)),
                web.get("/metrics", self._page),
            ]
        )
        self._runner = web.AppRunner(app, handle_signals=False, access_log=None, shutdown_timeout=1.0)

    async def start(self, port: int) -> int:
        """Listen on all addresses; returns the port, which is chosen by the system where 0 is given."""
        await self._runner.setup()
        listening = _listen(port)
        await web.SockSite(self._runner, listening).start()
        chosen: int = listening.getsockname()[1]
        return chosen

    async def stop(self) -> None:
        """Stop listening."""
        await self._runner.cleanup()

    async def watch_lag(self) -> None:
        """Measure until cancelled how late the loop runs its timers."""
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            await asyncio.sleep(_LAG_PERIOD)
            self._metrics.loop_lag.set(max(0.0, loop.time() - started - _LAG_PERIOD))

    async def _page(self, _request: web.Request) -> web.Response:
        body = generate_latest(self._metrics.registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})


def _listen(port: int) -> socket.socket:
    """One socket for both families where the machine has both: two would get two different ports for 0."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("0.0.0.0", port))  # noqa: S104 - probes and metrics are asked for from outside the pod


def _probe(check: Check) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(_request: web.Request) -> web.Response:
        wrong = check()
        return web.Response(text=wrong or "ok", status=200 if wrong is None else 503)

    return answer
