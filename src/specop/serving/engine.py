"""What the companion asks the engine beside it: does it really answer, and is it idle.

`/health` of the engine passes before a model was ever run, and some failures kill the engine at its first request. So
an engine counts as ready only once it completed something since it started; after that `/health` is passed through.

What it minds: a slow engine is not a new one. After a failed health check the engine's process start time tells whether
it restarted; only then is it asked for a completion again, so that overload is not made worse. The interval between two
readiness probes must be below the time an engine needs to start, or a restart could pass unseen; engines take longer to
import their libraries than any sensible interval.
"""

import asyncio
import logging
import time

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

logger = logging.getLogger(__name__)

PROBE_TOKENS = 8
"""Enough for a draft, its verification and a second draft."""
PROBE_TIMEOUT_SECONDS = 300.0
WAIT_FOR_PROBE_SECONDS = 30.0
"""A readiness request waits this long for the completion; the next request finds it further on. Below the kubelet's
timeout."""
HEALTH_TIMEOUT_SECONDS = 3.0
DRAIN_POLL_SECONDS = 0.5
IDLE_POLLS = 2
"""An engine that is idle twice in a row is idle: a request may be between its two queues at one look."""
LOAD_METRICS = frozenset({"vllm:num_requests_running", "vllm:num_requests_waiting"})
START_METRIC = "process_start_time_seconds"


class Engine:
    """A client of the engine's HTTP server; one per companion."""

    def __init__(self, session: aiohttp.ClientSession, url: str, model: str) -> None:
        self._session = session
        self._url = url.rstrip("/")
        self._model = model
        self._probed_start: float | None = None
        """Process start time of the engine that last completed a probe."""
        self._trusted = False
        """A probe was completed, and no health check failed since."""
        self._probe: asyncio.Task[str] | None = None

    async def unready(self) -> str:
        """Say why the engine is not ready; empty when it is."""
        if problem := await self._unhealthy():
            self._trusted = False
            return problem
        if not self._trusted:
            probe = self._probe = self._probe or asyncio.create_task(self._complete_once())
            done, _ = await asyncio.wait({probe}, timeout=WAIT_FOR_PROBE_SECONDS)
            if not done:
                return "the first completion is under way"
            if self._probe is probe:  # others may have waited for it too
                self._probe = None
            problem = probe.result()
            self._trusted = not problem
        return problem

    async def drain(self, seconds: float, settle: float) -> bool:
        """Wait until the engine runs and queues nothing; true when it does, or is gone.

        `settle` seconds pass first: requests still come in until every proxy has learned that the pod is leaving.
        """
        deadline = time.monotonic() + seconds
        await asyncio.sleep(min(settle, seconds))
        idle = 0
        while idle < IDLE_POLLS:
            try:
                idle = idle + 1 if sum((await self._samples(LOAD_METRICS)).values()) == 0 else 0
            except aiohttp.ClientConnectorError:
                return True
            except (aiohttp.ClientError, TimeoutError) as error:
                logger.warning("engine metrics could not be read while draining: %s", type(error).__name__)
                idle = 0
            if time.monotonic() >= deadline:
                return False
            await asyncio.sleep(DRAIN_POLL_SECONDS)
        return True

    async def close(self) -> None:
        """Give up a probe under way."""
        if self._probe is not None:
            self._probe.cancel()
            await asyncio.wait({self._probe})

    async def _unhealthy(self) -> str:
        timeout = aiohttp.ClientTimeout(total=HEALTH_TIMEOUT_SECONDS)
        try:
            async with self._session.get(f"{self._url}/health", timeout=timeout) as answer:
                return "" if answer.ok else f"the engine's /health answers {answer.status}"
        except (aiohttp.ClientError, TimeoutError) as error:
            return f"the engine's /health does not answer ({type(error).__name__})"

    async def _complete_once(self) -> str:
        """Have one completion made, unless this very process made one already; say what is wrong."""
        try:
            started = (await self._samples({START_METRIC})).get(START_METRIC)
            if started is None or started != self._probed_start:
                await self._complete()
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            return f"the first completion failed ({type(error).__name__})"
        self._probed_start = started
        return ""

    async def _complete(self) -> None:
        """Make a completion; raises ClientError, TimeoutError, or ValueError on an answer that is none."""
        began = time.monotonic()
        async with self._session.post(
            f"{self._url}/v1/completions",
            json={
                "model": self._model,
                "prompt": "1",
                "max_tokens": PROBE_TOKENS,
                "ignore_eos": True,
                "temperature": 0,
            },
            headers={"X-Specop-No-Train": "readiness"},
            timeout=aiohttp.ClientTimeout(total=PROBE_TIMEOUT_SECONDS),
            raise_for_status=True,
        ) as answer:
            body = await answer.json()
        if not body.get("choices"):
            raise ValueError("a completion without choices")
        logger.info("the engine completed its first request in %.2f s", time.monotonic() - began)

    async def _samples(self, names: frozenset[str] | set[str]) -> dict[str, float]:
        """Read samples of the engine's metrics page, summed over their labels."""
        timeout = aiohttp.ClientTimeout(total=HEALTH_TIMEOUT_SECONDS)
        async with self._session.get(f"{self._url}/metrics", timeout=timeout, raise_for_status=True) as answer:
            page = await answer.text()
        values: dict[str, float] = {}
        for family in text_string_to_metric_families(page):
            for sample in family.samples:
                if sample.name in names:
                    values[sample.name] = values.get(sample.name, 0.0) + sample.value
        return values
