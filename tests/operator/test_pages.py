"""The operator's own pages and metrics."""

import aiohttp
import pytest

from specop.controllers.queue import Queue
from specop.kube.cache import Cache, Key
from specop.operator.metrics import Metrics
from specop.operator.probes import Pages

NAMES = {
    "specop_reconcile_duration_seconds",
    "specop_reconciles_total",
    "specop_api_requests_total",
    "specop_page_reads_total",
    "specop_watch_restarts_total",
    "specop_loop_lag_seconds",
    "specop_queue_depth",
    "specop_objects",
}
"""Dashboards and alerts are written against these."""


def endpoint(name: str, status: str | None) -> dict[str, object]:
    conditions = [{"type": "Ready", "status": status}] if status else []
    metadata = {"name": name, "namespace": "team", "uid": name, "resourceVersion": "1"}
    return {"kind": "DraftedEndpoint", "metadata": metadata, "status": {"conditions": conditions}}


async def test_metrics_have_their_names_and_count_what_is_there() -> None:
    cache, queue = Cache(), Queue[Key]()
    for name, status in (("a", "True"), ("b", "True"), ("c", None)):
        cache.put(endpoint(name, status))
    metrics = Metrics(cache, queue)
    queue.add(Key("DraftedEndpoint", "team", "a"))
    metrics.reconciled("DraftedEndpoint", "ok", 0.01)
    metrics.requested("apply", "Service", 200)
    metrics.read("metrics", "ok")
    pages = Pages(metrics, healthy=lambda: None, ready=lambda: None)
    port = await pages.start(0)
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/metrics") as answer:
        page = await answer.text()
    await pages.stop()
    assert {
        line.split()[2] for line in page.splitlines() if line.startswith("# TYPE") and "_created" not in line
    } == NAMES
    for line in (
        'specop_objects{kind="DraftedEndpoint",status="True"} 2.0',
        'specop_objects{kind="DraftedEndpoint",status="Unknown"} 1.0',
        "specop_queue_depth 1.0",
        'specop_api_requests_total{code="200",kind="Service",verb="apply"} 1.0',
        'specop_reconciles_total{kind="DraftedEndpoint",result="ok"} 1.0',
    ):
        assert line in page


@pytest.mark.parametrize(("wrong", "status", "text"), [(None, 200, "ok"), ("a reconcile is stuck", 503, "stuck")])
async def test_probes_say_what_is_wrong(wrong: str | None, status: int, text: str) -> None:
    pages = Pages(Metrics(Cache(), Queue()), healthy=lambda: wrong, ready=lambda: wrong)
    port = await pages.start(0)
    async with aiohttp.ClientSession() as session:
        for path in ("/healthz", "/readyz"):
            async with session.get(f"http://127.0.0.1:{port}{path}") as answer:
                assert answer.status == status
                assert text in await answer.text()
    await pages.stop()
