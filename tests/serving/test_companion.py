"""The companion against an engine whose faults a test decides."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from specop.api.jobs import CompanionConfig
from specop.common.errors import UserError
from specop.serving import engine as engine_module
from specop.serving.companion import Settings, make_app
from specop.storage.local import LocalStore


@dataclass
class Faults:
    """What the engine does and was asked."""

    started: float = 1.0
    healthy: bool = True
    status: int = 200
    body: dict[str, Any] = field(default_factory=lambda: {"choices": [{"text": "x"}]})
    slow: asyncio.Event | None = None
    loads: list[int] = field(default_factory=list)
    """Requests running at each look; 0 when used up."""
    completions: list[tuple[Any, str | None]] = field(default_factory=list)

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/health", self._health)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_post("/v1/completions", self._complete)
        return app

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response(status=200 if self.healthy else 503)

    async def _metrics(self, request: web.Request) -> web.Response:
        running = self.loads.pop(0) if self.loads else 0
        return web.Response(
            text=f"process_start_time_seconds {self.started}\n"
            f'vllm:num_requests_running{{engine="0"}} {running}\n'
            f'vllm:num_requests_waiting{{engine="0"}} 0\n'
        )

    async def _complete(self, request: web.Request) -> web.Response:
        self.completions.append((await request.json(), request.headers.get("X-Specop-No-Train")))
        if self.slow:
            await self.slow.wait()
        return web.json_response(self.body, status=self.status)


@asynccontextmanager
async def companion(
    faults: Faults, tmp_path: Path, *, capture: bool = False, days: int | None = None
) -> AsyncIterator[TestClient[Any, Any]]:
    async with TestServer(faults.app()) as engine:
        config = CompanionConfig(
            namespace="team-a",
            endpoint="agent",
            served_name="agent",
            arm="base",
            engine_url=str(engine.make_url("/")),
            capture=f"file://{tmp_path}/store" if capture else None,
            retention_days=days,
        )
        settings = Settings(
            folder=tmp_path / "capture", pod="pod-1", ship_seconds=0.05, final_seconds=0, retain_seconds=0.05
        )
        async with TestClient(TestServer(make_app(config, settings))) as client:
            yield client


async def ready(client: TestClient[Any, Any]) -> tuple[int, str]:
    async with client.get("/ready") as answer:
        return answer.status, await answer.text()


async def test_ready_after_one_completion_which_is_never_captured(tmp_path: Path) -> None:
    faults = Faults()
    async with companion(faults, tmp_path) as client:
        assert [await ready(client) for _ in range(3)] == [(200, "ready")] * 3
    assert len(faults.completions) == 1
    body, no_train = faults.completions[0]
    assert (body["model"], body["max_tokens"], no_train) == ("agent", 8, "readiness")


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        ({"healthy": False}, "the engine's /health answers 503"),
        ({"status": 500}, "the first completion failed (ClientResponseError)"),
        ({"body": {"error": {}}}, "the first completion failed (ValueError)"),
    ],
)
async def test_not_ready_says_why_and_mends(fault: dict[str, Any], problem: str, tmp_path: Path) -> None:
    faults = Faults(**fault)
    async with companion(faults, tmp_path) as client:
        assert await ready(client) == (503, problem)
        faults.healthy, faults.status, faults.body = True, 200, {"choices": [{}]}
        assert await ready(client) == (200, "ready")


async def test_an_engine_that_is_not_there_yet(tmp_path: Path) -> None:
    config = CompanionConfig(namespace="a", endpoint="a", served_name="a", arm="base", engine_url="http://127.0.0.1:9")
    async with TestClient(TestServer(make_app(config, Settings(folder=tmp_path)))) as client:
        assert await ready(client) == (503, "the engine's /health does not answer (ClientConnectorError)")
        async with client.get("/drain?seconds=5&settle=0") as answer:
            assert answer.status == 200


async def test_a_restarted_engine_completes_again_a_slow_one_does_not(tmp_path: Path) -> None:
    faults = Faults()
    async with companion(faults, tmp_path) as client:
        assert await ready(client) == (200, "ready")
        for started, completions in ((1.0, 1), (2.0, 2)):
            faults.healthy = False
            assert (await ready(client))[0] == 503
            faults.healthy, faults.started = True, started
            assert await ready(client) == (200, "ready")
            assert len(faults.completions) == completions


async def test_one_completion_however_many_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "WAIT_FOR_PROBE_SECONDS", 0.05)
    faults = Faults(slow=asyncio.Event())
    async with companion(faults, tmp_path) as client:
        answers = await asyncio.gather(*(ready(client) for _ in range(5)))
        assert answers == [(503, "the first completion is under way")] * 5
        assert faults.slow
        faults.slow.set()
        assert (await asyncio.gather(*(ready(client) for _ in range(5)))) == [(200, "ready")] * 5
    assert len(faults.completions) == 1


@pytest.fixture
def fast_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "DRAIN_POLL_SECONDS", 0.01)


@pytest.mark.parametrize(
    ("loads", "query", "expected", "left"),
    [
        ([2, 1, 0, 1, 0, 0, 7], "seconds=9&settle=0", (200, "drained"), 1),
        ([1] * 99, "seconds=0&settle=5", (503, "still busy"), 98),
        ([1], "seconds=soon", (400, "seconds and settle are numbers"), 1),
    ],
)
async def test_drain_waits_until_the_engine_is_idle_twice(
    loads: list[int], query: str, expected: tuple[int, str], left: int, tmp_path: Path, *, fast_polls: None
) -> None:
    faults = Faults(loads=list(loads))
    async with companion(faults, tmp_path) as client, client.get(f"/drain?{query}") as answer:
        assert (answer.status, await answer.text()) == expected
    assert len(faults.loads) == left


async def test_captures_are_shipped_and_spoken_of(tmp_path: Path) -> None:
    async with companion(Faults(), tmp_path, capture=True) as client:
        folder = tmp_path / "capture"
        (folder / "7.counters").write_text(json.dumps({"captured": 3, "too_large": 1}))
        first_ms = time.time_ns() // 1_000_000
        (folder / f"{first_ms}-1.jsonl").write_bytes(b"a\nb\n")
        while True:
            async with client.get("/capture") as answer:
                said = await answer.json()
            if said["requests"]:
                break
            await asyncio.sleep(0.02)
        assert said["requests"] == 2
        assert said["shippedUntil"].endswith("Z")
        async with client.get("/metrics") as answer:
            page = await answer.text()
        (folder / f"{first_ms + 1}-2.open").write_bytes(b"c\n")
    assert 'specop_capture_requests_total{outcome="too_large"} 1.0' in page
    assert "specop_capture_shipped_requests_total 2.0" in page
    shipped = sorted(path.name for path in (tmp_path / "store/team-a/agent").rglob("*.zst"))
    assert shipped == [f"pod-1-{first_ms}-1.jsonl.zst", f"pod-1-{first_ms + 1}-2.jsonl.zst"]


@pytest.mark.parametrize(
    ("fault", "failures"),
    [(None, 0), (UserError("StorageAccessDenied", "no"), 1), (AssertionError("nobody foresaw this"), 0)],
    ids=["none", "refused", "unforeseen"],
)
async def test_what_is_too_old_is_removed_and_a_failure_disturbs_no_shipping(
    fault: Exception | None, failures: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def delete(store: LocalStore, uri: str) -> None:
        if fault and not asked:
            asked.append(uri)
            raise fault
        original(store, uri)

    asked: list[str] = []
    original = LocalStore.delete
    monkeypatch.setattr(LocalStore, "delete", delete)
    old = tmp_path / "store/team-a/agent/dt=2025-01-01/hour=07/pod-0-1.jsonl.zst"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"")
    page = ""
    async with companion(Faults(), tmp_path, capture=True, days=7) as client:
        while "specop_capture_removed_objects_total 1.0" not in page:
            await asyncio.sleep(0.01)
            async with client.get("/metrics") as answer:
                page = await answer.text()
        (tmp_path / "capture" / f"{time.time_ns() // 1_000_000}-1.jsonl").write_bytes(b"a\n")
    assert f"specop_capture_remove_failures_total {failures}.0" in page
    assert not old.exists()
    assert len(list((tmp_path / "store").rglob("*.zst"))) == 1


async def test_without_retention_nothing_is_removed_or_spoken_of(tmp_path: Path) -> None:
    async with companion(Faults(), tmp_path, capture=True) as client, client.get("/metrics") as answer:
        assert "remove" not in await answer.text()


async def test_without_capture_there_is_nothing_to_tell(tmp_path: Path) -> None:
    async with companion(Faults(), tmp_path) as client, client.get("/capture") as answer:
        assert await answer.json() == {"requests": 0, "shippedUntil": None}
