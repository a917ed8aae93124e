"""Captures say of which tokens prompt and answer are, as the engine's client yields them."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from specop.serving.specop_capture.middleware import App, Message
from tests.serving.asgi import answering, ask, capture, captured
from tests.serving.exchange import ANSWER, REQUEST, encoded

CHOICE: dict[str, Any] = {"message": {"role": "assistant", "content": "Hallo Welt"}, "finish_reason": "stop"}


class Engine:
    """An engine's client: its outputs come as the sampling parameters say, piece by piece or at the end."""

    def __init__(self, *pieces: list[int]) -> None:
        self.pieces = pieces
        self.closed = False

    async def generate(self, prompt: list[int], sampling_params: Any, request_id: str, *, n: int = 1) -> Any:
        kind = sampling_params.output_kind.name
        whole = [token for piece in self.pieces for token in piece]
        try:
            for piece in self.pieces if kind == "DELTA" else [whole]:
                outputs = [SimpleNamespace(index=index, token_ids=piece) for index in range(n)]
                yield SimpleNamespace(prompt_token_ids=prompt, outputs=outputs)
        finally:
            self.closed = True


def serving(engine: Engine, kind: str = "FINAL_ONLY", prompts: int = 1, n: int = 1, **answer: Any) -> tuple[App, Any]:
    """An application that asks its engine before it answers, and what holds its state."""
    sampling = SimpleNamespace(output_kind=SimpleNamespace(name=kind))

    async def app(scope: Message, receive: Any, send: Any) -> None:
        for number in range(prompts):
            async for _ in engine.generate([1, 2, 3], sampling, f"r{number}", n=n):
                pass
        choices = [{**CHOICE, "index": index} for index in range(n)]
        await answering([encoded({**ANSWER, "choices": choices, **answer})])(scope, receive, send)

    return app, SimpleNamespace(state=SimpleNamespace(engine_client=engine))


@pytest.mark.parametrize("kind", ["DELTA", "FINAL_ONLY"])
async def test_tokens_are_noted_as_the_engine_wrote_them(kind: str, tmp_path: Path) -> None:
    app, owner = serving(Engine([7], [8, 9], []), kind, n=2)
    middleware = capture(app, tmp_path)
    await asyncio.gather(*(ask(middleware, encoded(REQUEST), owner=owner) for _ in range(3)))
    lines, _ = captured(middleware)
    for line in lines:
        assert line["response"]["prompt_token_ids"] == [1, 2, 3]
        assert [choice["token_ids"] for choice in line["response"]["choices"]] == [[7, 8, 9]] * 2
    assert len(lines) == 3
    assert middleware.writer.charged == 0


async def test_the_client_gets_what_it_got_before(tmp_path: Path) -> None:
    app, owner = serving(Engine([7]))
    plain = await ask(app, encoded(REQUEST), owner=owner)
    assert await ask(capture(app, tmp_path), encoded(REQUEST), owner=owner) == plain


async def test_of_several_prompts_no_tokens_are_noted(tmp_path: Path) -> None:
    app, owner = serving(Engine([7]), prompts=2)
    middleware = capture(app, tmp_path)
    await ask(middleware, encoded(REQUEST), owner=owner)
    ((line,), _) = captured(middleware)
    assert "token_ids" not in line["response"]["choices"][0]


async def test_tokens_that_do_not_fit_cost_nothing_but_themselves(tmp_path: Path) -> None:
    app, owner = serving(Engine([7] * 500))
    middleware = capture(app, tmp_path, max_record_bytes=1500)
    await ask(middleware, encoded(REQUEST), owner=owner)
    ((line,), counts) = captured(middleware)
    assert counts == {"captured": 1}
    assert "token_ids" not in line["response"]["choices"][0]
    assert middleware.writer.charged == 0


async def test_a_request_that_ends_early_ends_at_the_engine_too(tmp_path: Path) -> None:
    engine = Engine([7], [8])
    owner = SimpleNamespace(state=SimpleNamespace(engine_client=engine))

    async def app(scope: Message, receive: Any, send: Any) -> None:
        outputs = engine.generate([1], SimpleNamespace(output_kind=SimpleNamespace(name="DELTA")), "r")
        await anext(outputs)
        await outputs.aclose()
        assert engine.closed
        await answering([encoded(ANSWER)])(scope, receive, send)

    await ask(capture(app, tmp_path), encoded(REQUEST), owner=owner)
    assert engine.closed


@pytest.mark.parametrize("client", [None, object(), SimpleNamespace(generate=None)])
async def test_without_a_client_to_tap_text_is_captured(client: Any, tmp_path: Path) -> None:
    owner = SimpleNamespace(state=SimpleNamespace(engine_client=client))
    middleware = capture(answering([encoded(ANSWER)]), tmp_path)
    await ask(middleware, encoded(REQUEST), owner=owner)
    ((line,), _) = captured(middleware)
    assert line["response"] == ANSWER
