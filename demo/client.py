"""A client of the endpoints, as an application is one: the `openai` package over HTTP.

It is: traffic at many streams, and replays of one request after another with times.
Races: none hidden. A request that fails raises and ends the demo: an endpoint that loses requests is not shown off.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import httpx
from openai import AsyncOpenAI, OpenAI
from prometheus_client.parser import text_string_to_metric_families

from demo.figures import Answer, Speculation, speculation
from demo.traffic import Request

_TIMEOUT_SECONDS = 300
_NO_TRAINING = {"X-Specop-No-Train": "1"}
"""Replays judge; they must not become training data."""


class Endpoint:
    """One endpoint by the URL of its Service."""

    def __init__(self, url: str, model: str) -> None:
        self._url = url
        self._model = model

    def send(self, requests: Sequence[Request], streams: int, answered: Callable[[int, int], None]) -> int:
        """Send all requests, `streams` at once; `answered(requests, tokens)` hears of each. Returns the tokens."""
        return asyncio.run(self._send(requests, streams, answered))

    async def _send(self, requests: Sequence[Request], streams: int, answered: Callable[[int, int], None]) -> int:
        client = AsyncOpenAI(base_url=f"{self._url}/v1", api_key="none", timeout=_TIMEOUT_SECONDS, max_retries=0)
        free = asyncio.Semaphore(streams)
        done = tokens = 0

        async def one(request: Request) -> None:
            nonlocal done, tokens
            async with free:
                answer = await client.chat.completions.create(model=self._model, **request)
            done, tokens = done + 1, tokens + (answer.usage.completion_tokens if answer.usage else 0)
            answered(done, tokens)

        async with client, asyncio.TaskGroup() as group:
            for request in requests:
                group.create_task(one(request))
        return tokens

    def replay(self, request: Request) -> Answer:
        """Send one request as a stream of tokens and time it. It is not captured."""
        client = OpenAI(base_url=f"{self._url}/v1", api_key="none", timeout=_TIMEOUT_SECONDS, max_retries=0)
        body: dict[str, Any] = {
            **request,
            "model": self._model,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        text, tokens, first = "", 0, 0.0
        started = time.perf_counter()
        with client, client.chat.completions.create(**body, extra_headers=_NO_TRAINING) as chunks:
            for chunk in chunks:
                for choice in chunk.choices:
                    first = first or (time.perf_counter() - started if choice.delta.content else 0.0)
                    text += choice.delta.content or ""
                tokens = chunk.usage.completion_tokens if chunk.usage else tokens
        return Answer(text=text, tokens=tokens, first_token_seconds=first, seconds=time.perf_counter() - started)

    def speculation(self) -> Speculation:
        """Read the engine's counters; right while one pod serves the endpoint."""
        page = httpx.get(f"{self._url}/metrics", timeout=_TIMEOUT_SECONDS).raise_for_status().text
        series = {
            "/".join([sample.name, *([sample.labels["position"]] if "position" in sample.labels else [])]): sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
            if sample.name.startswith(("vllm:spec_decode", "vllm:inter_token_latency_seconds_count"))
        }
        return speculation(series)


def alternate(
    base: Endpoint, drafted: Endpoint, requests: Sequence[Request], answered: Callable[[int], None]
) -> tuple[list[Answer], list[Answer]]:
    """Replay each request on both endpoints, one at a time, and let each go first in turn.

    One engine works at a time, and what else the machine does weighs on both alike.
    """
    of_base: list[Answer] = []
    of_drafted: list[Answer] = []
    for number, request in enumerate(requests):
        turns = [(base, of_base), (drafted, of_drafted)]
        for endpoint, answers in turns if number % 2 == 0 else reversed(turns):
            answers.append(endpoint.replay(request))
        answered(number + 1)
    return of_base, of_drafted
