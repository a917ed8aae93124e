"""`python -m specop.serving.companion`: the native sidecar beside the engine, on port 8001.

| path | answers |
|---|---|
| `/ready` | 200 once the engine completed a request since it started and while its `/health` passes; else 503 and why |
| `/drain?seconds=540&settle=5` | when the engine is idle, for preStop; 503 when it was not within that time |
| `/capture` | `{"requests": n, "shippedUntil": "…"}`: n since this process started and before that moment |
| `/metrics` | Prometheus |

It starts before the engine and ends after it, so that the captures of the last request are shipped too. It never speaks
of what was asked or answered. `/drain` changes nothing, so whoever calls it can do no harm.
"""

import asyncio
import json
import logging
import os
import random
import signal
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from specop.api.jobs import CONFIG_ENV, CompanionConfig
from specop.common.clock import format_time, system_clock
from specop.common.logging import setup
from specop.serving.engine import Engine
from specop.serving.retention import Retention
from specop.serving.shipper import Shipper
from specop.storage.stores import open_store
from specop.storage.uri import join

logger = logging.getLogger(__name__)

PORT = 8001
MAX_BACKOFF_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What is not in the endpoint's spec: the pod's layout."""

    folder: Path = field(default_factory=lambda: Path(os.environ.get("SPECOP_CAPTURE_DIR", "/capture")))
    buffer_bytes: int = field(default_factory=lambda: int(os.environ.get("SPECOP_CAPTURE_BUFFER_BYTES", "1073741824")))
    """Captures kept on disk while storage is gone; the volume must be larger."""
    pod: str = field(default_factory=socket.gethostname)
    port: int = field(default_factory=lambda: int(os.environ.get("SPECOP_COMPANION_PORT", str(PORT))))
    ship_seconds: float = 5.0
    retain_seconds: float = 3600.0
    """Between two looks for captures that are too old; the first comes within a sixtieth of it."""
    final_seconds: float = 20.0
    """At the end, storage has this long to take what is left."""


SETTINGS = web.AppKey("settings", Settings)
ENGINE = web.AppKey("engine", Engine)
SHIPPER = web.AppKey("shipper", Shipper)
RETENTION = web.AppKey("retention", Retention)
REGISTRY = web.AppKey("registry", CollectorRegistry)


def make_app(config: CompanionConfig, settings: Settings) -> web.Application:
    """Build the server with its background work."""
    app = web.Application()
    app[SETTINGS] = settings
    app[REGISTRY] = CollectorRegistry()
    if config.capture is not None:
        store = open_store(config.capture, config.store)
        prefix = join(config.capture, config.namespace, config.endpoint)
        settings.folder.mkdir(parents=True, exist_ok=True)
        app[SHIPPER] = Shipper(settings.folder, store, prefix, settings.pod, settings.buffer_bytes)
        app.cleanup_ctx.append(_shipping)
        if config.retention_days is not None:
            app[RETENTION] = Retention(store, prefix, config.retention_days)
            app.cleanup_ctx.append(_retaining)
        app[REGISTRY].register(CaptureCollector(app[SHIPPER], app.get(RETENTION), settings.folder))

    async def engine(app: web.Application) -> AsyncIterator[None]:
        async with aiohttp.ClientSession() as session:
            app[ENGINE] = Engine(session, config.engine_url, config.served_name)
            yield
            await app[ENGINE].close()

    app.cleanup_ctx.append(engine)
    app.router.add_get("/ready", _ready)
    app.router.add_get("/drain", _drain)
    app.router.add_get("/capture", _capture)
    app.router.add_get("/metrics", _metrics)
    return app


async def _ready(request: web.Request) -> web.Response:
    problem = await request.app[ENGINE].unready()
    return web.Response(text=problem or "ready", status=503 if problem else 200)


async def _drain(request: web.Request) -> web.Response:
    try:
        seconds, settle = (float(request.query.get(key, default)) for key, default in (("seconds", 540), ("settle", 5)))
    except ValueError:
        return web.Response(text="seconds and settle are numbers", status=400)
    drained = await request.app[ENGINE].drain(seconds, settle)
    logger.info("drained" if drained else "not drained in time")
    return web.Response(text="drained" if drained else "still busy", status=200 if drained else 503)


async def _capture(request: web.Request) -> web.Response:
    requests, until = 0, None
    if SHIPPER in request.app:
        done = request.app[SHIPPER].done
        requests = done.settled
        # whole seconds, rounded down: a promise that holds
        until = done.watermark_ms and format_time(datetime.fromtimestamp(done.watermark_ms // 1000, UTC))
    return web.json_response({"requests": requests, "shippedUntil": until})


async def _metrics(request: web.Request) -> web.Response:
    return web.Response(body=generate_latest(request.app[REGISTRY]), content_type="text/plain", charset="utf-8")


async def _shipping(app: web.Application) -> AsyncIterator[None]:
    """Ship while the server runs, and the rest when the engine has ended."""
    shipper, settings = app[SHIPPER], app[SETTINGS]
    loop = asyncio.create_task(_ship_forever(shipper, settings.ship_seconds))
    loop.add_done_callback(_restart_if_broken)
    yield
    loop.cancel()
    await asyncio.wait({loop})
    await asyncio.to_thread(shipper.ship_rest, settings.final_seconds)
    logger.info("captures left behind: %d bytes", shipper.done.pending_bytes)


async def _ship_forever(shipper: Shipper, seconds: float) -> None:
    pause = seconds
    while True:
        await asyncio.sleep(pause)
        shipped_all = await asyncio.to_thread(shipper.ship)
        pause = seconds if shipped_all else min(2 * pause, MAX_BACKOFF_SECONDS)


async def _retaining(app: web.Application) -> AsyncIterator[None]:
    """Remove captures that are too old while the server runs."""
    loop = asyncio.create_task(_retain_forever(app[RETENTION], app[SETTINGS].retain_seconds))
    yield
    app[RETENTION].stop()
    loop.cancel()
    await asyncio.wait({loop})


async def _retain_forever(retention: Retention, seconds: float) -> None:
    pause = seconds / 60 * random.random()  # noqa: S311 - pods that start together need not ask together
    while True:
        await asyncio.sleep(pause)
        try:
            await asyncio.to_thread(retention.remove, system_clock())
        except Exception:
            logger.exception("retention broke; shipping goes on")
        pause = seconds


def _restart_if_broken(loop: "asyncio.Task[None]") -> None:
    """End the process after an error that nobody foresaw: the kubelet starts a fresh one."""
    if not loop.cancelled() and (error := loop.exception()):
        logger.error("shipping broke", exc_info=error)
        os.kill(os.getpid(), signal.SIGTERM)


class CaptureCollector(Collector):
    """What shipper and retention did, and what the middleware in the engine captured and lost, by its own counters."""

    def __init__(self, shipper: Shipper, retention: Retention | None, folder: Path) -> None:
        self._shipper = shipper
        self._retention = retention
        self._folder = folder

    def collect(self) -> Iterator[Metric]:
        """See Collector."""
        done = self._shipper.done
        name = "specop_capture"
        yield CounterMetricFamily(f"{name}_shipped_requests", "Requests put into storage.", done.requests)
        yield CounterMetricFamily(f"{name}_shipped_bytes", "Compressed bytes put into storage.", done.bytes)
        yield CounterMetricFamily(f"{name}_ship_failures", "Rounds of shipping that storage ended.", done.failures)
        yield CounterMetricFamily(f"{name}_dropped_requests", "Lost: storage was gone for too long.", done.dropped)
        yield GaugeMetricFamily(f"{name}_pending_bytes", "Captured, not yet shipped.", done.pending_bytes)
        if done.watermark_ms is not None:
            lag = max(0.0, time.time() - done.watermark_ms / 1000)
            yield GaugeMetricFamily(f"{name}_lag_seconds", "Age of the oldest that may not be shipped.", lag)
        if self._retention is not None:
            gone = self._retention.done
            yield CounterMetricFamily(f"{name}_removed_objects", "Past their retention, deleted.", gone.objects)
            yield CounterMetricFamily(
                f"{name}_remove_failures", "Rounds in which something past its retention stayed.", gone.failures
            )
        seen = CounterMetricFamily(
            f"{name}_requests", "Finished requests in the engine, by outcome.", labels=["outcome"]
        )
        counts: Counter[str] = Counter()
        for path in self._folder.glob("*.counters"):
            counts.update(json.loads(path.read_bytes()))
        for outcome, count in sorted(counts.items()):
            seen.add_metric([outcome], count)
        yield seen


def main() -> None:
    """Serve until SIGTERM; then ship the rest."""
    setup()
    config = CompanionConfig.model_validate_json(os.environ[CONFIG_ENV])
    settings = Settings()
    web.run_app(make_app(config, settings), port=settings.port, access_log=None, print=None, shutdown_timeout=5)


if __name__ == "__main__":
    main()
