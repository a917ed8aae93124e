"""The capture middleware: what it writes, what it leaves alone, and that no request ever notices it."""

import asyncio
import json
import resource
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specop.serving.specop_capture import App, Message, assemble
from tests.serving.asgi import CHAT, JSON_HEADERS, SSE_HEADERS, answering, ask, capture, captured, until

REQUEST = {"model": "agent", "messages": [{"role": "user", "content": "Grüße"}]}
ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 7,
    "model": "agent",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hallo Welt"},
            "finish_reason": "stop",
            "token_ids": [1, 2],
        }
    ],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2},
}


def encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


def sse(*chunks: Any) -> bytes:
    return b"".join(b"data: " + encoded(chunk) + b"\n\n" for chunk in chunks) + b"data: [DONE]\n\n"


def chunk(*choices: dict[str, Any], **more: Any) -> dict[str, Any]:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 7, "model": "agent"}
    return {**head, "choices": list(choices), **more}


def delta(
    finish: str | None = None, index: int = 0, token_ids: list[int] | None = None, **fields: Any
) -> dict[str, Any]:
    return {"index": index, "delta": fields, "finish_reason": finish, "token_ids": token_ids}


STREAM = sse(
    chunk(delta(role="assistant", content="")),
    chunk(delta(content="Hallo", token_ids=[1])),
    chunk(delta(content=" Welt", token_ids=[2], finish="stop")),
    chunk(usage={"prompt_tokens": 3, "completion_tokens": 2}),
)


async def test_a_line_holds_the_request_and_its_answer(tmp_path: Path) -> None:
    body = encoded(REQUEST)
    middleware = capture(answering([encoded(ANSWER)]), tmp_path)
    await ask(middleware, [body[:5], body[5:]])
    (line,), counts = captured(middleware)
    assert counts == {"captured": 1}
    assert line.pop("latency") >= 0
    assert len(line.pop("time")) == len("2026-01-01T00:00:00.000Z")
    assert line == {
        "v": 1,
        "id": "chatcmpl-1",
        "model": "agent",
        "route": CHAT,
        "status": 200,
        "arm": "base",
        "request": REQUEST,
        "response": ANSWER,
    }


async def test_a_streamed_answer_is_the_unstreamed_one(tmp_path: Path) -> None:
    middleware = capture(answering([STREAM[:50], STREAM[50:51], STREAM[51:]], headers=SSE_HEADERS), tmp_path)
    await ask(middleware, encoded(REQUEST))
    (line,), _ = captured(middleware)
    assert line["response"] == ANSWER


@pytest.mark.parametrize(
    ("chunks", "choice"),
    [
        pytest.param(
            [
                delta(role="assistant", content=None),
                delta(tool_calls=[{"index": 0, "id": "a", "type": "function", "function": {"name": "find"}}]),
                delta(tool_calls=[{"index": 0, "function": {"arguments": '{"city": '}}]),
                delta(tool_calls=[{"index": 1, "id": "b", "type": "function", "function": {"name": "book"}}]),
                delta(
                    tool_calls=[
                        {"index": 0, "function": {"arguments": '"Bonn"}'}},
                        {"index": 1, "function": {"arguments": "{}"}},
                    ]
                ),
                delta("tool_calls"),
            ],
            {
                "index": 0,
                "finish_reason": "tool_calls",
                "token_ids": None,
                "message": {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {"id": "a", "type": "function", "function": {"name": "find", "arguments": '{"city": "Bonn"}'}},
                        {"id": "b", "type": "function", "function": {"name": "book", "arguments": "{}"}},
                    ],
                },
            },
            id="tool calls, one growing while the next begins",
        ),
        pytest.param(
            [
                delta(role="assistant", content=""),
                delta(reasoning="The user "),
                delta(reasoning="greets."),
                delta(content="Hi."),
                delta("stop"),
            ],
            {
                "index": 0,
                "finish_reason": "stop",
                "token_ids": None,
                "message": {"role": "assistant", "content": "Hi.", "reasoning": "The user greets."},
            },
            id="reasoning",
        ),
        pytest.param(
            [
                {"index": 0, "delta": {"content": "a"}, "logprobs": {"content": [{"token": "a", "logprob": -1.0}]}},
                {"index": 0, "delta": {"content": "b"}, "logprobs": {"content": [{"token": "b", "logprob": -2.0}]}},
            ],
            {
                "index": 0,
                "logprobs": {"content": [{"token": "a", "logprob": -1.0}, {"token": "b", "logprob": -2.0}]},
                "message": {"content": "ab"},
            },
            id="log-probabilities",
        ),
        pytest.param(
            [delta(role="assistant", content="", tool_calls=[]), delta(content="x", tool_calls=None)],
            {
                "index": 0,
                "finish_reason": None,
                "token_ids": None,
                "message": {"role": "assistant", "content": "x", "tool_calls": None},
            },
            id="empty lists and nulls",
        ),
    ],
)
def test_pieces_are_joined(chunks: list[dict[str, Any]], choice: dict[str, Any]) -> None:
    assert assemble(sse(*map(chunk, chunks)))["choices"] == [choice]


def test_several_choices_and_a_text_completion() -> None:
    head = {"id": "cmpl-1", "object": "text_completion", "model": "agent"}
    stream = sse(
        {**head, "choices": [{"index": 1, "text": "b", "finish_reason": None}]},
        {**head, "choices": [{"index": 0, "text": "a", "finish_reason": "length"}]},
        {**head, "choices": [{"index": 1, "text": "c", "finish_reason": "stop"}]},
    )
    assert assemble(stream) == {
        **head,
        "choices": [
            {"index": 0, "text": "a", "finish_reason": "length"},
            {"index": 1, "text": "bc", "finish_reason": "stop"},
        ],
    }


@given(st.lists(st.text(), min_size=1))
def test_any_split_of_a_text_is_joined(pieces: list[str]) -> None:
    stream = sse(*(chunk(delta(content=piece)) for piece in pieces))
    assert assemble(stream)["choices"][0]["message"]["content"] == "".join(pieces)


async def test_a_failure_inside_a_stream_is_a_failure(tmp_path: Path) -> None:
    stream = sse(chunk(delta(content="Hal")), {"error": {"message": "engine died", "code": 500}})
    middleware = capture(answering([stream], headers=SSE_HEADERS), tmp_path)
    await ask(middleware, encoded(REQUEST))
    (line,), _ = captured(middleware)
    assert (line["status"], line["response"]) == (500, {"error": {"message": "engine died", "code": 500}})


@pytest.mark.parametrize(
    ("app", "asked", "settings", "counts"),
    [
        pytest.param(answering([encoded(ANSWER)]), {"headers": [(b"X-Specop-No-Train", b"0")]}, {}, {}, id="opted out"),
        pytest.param(answering([encoded(ANSWER)]), {"path": "/v1/embeddings"}, {}, {}, id="another route"),
        pytest.param(answering([encoded(ANSWER)]), {"method": "OPTIONS"}, {}, {}, id="another method"),
        pytest.param(answering([encoded(ANSWER)]), {}, {"percent": 0.0}, {}, id="sampled out"),
        pytest.param(answering([b"{}"], status=401), {}, {}, {"refused": 1}, id="refused"),
        pytest.param(
            answering([b"\x28"], headers=[*JSON_HEADERS, (b"Content-Encoding", b"br")]),
            {},
            {},
            {"encoded": 1},
            id="encoded",
        ),
        pytest.param(answering([b"no json"]), {}, {}, {"unreadable": 1}, id="no JSON"),
        pytest.param(answering([b"[]"]), {}, {}, {"unreadable": 1}, id="not an object"),
        pytest.param(answering([b'{"x": NaN}']), {}, {}, {"unreadable": 1}, id="not a number"),
        pytest.param(answering([encoded(ANSWER)], end=False), {}, {}, {"aborted": 1}, id="never ended"),
        pytest.param(
            answering([bytes(600), bytes(600)]), {}, {"max_record_bytes": 1000}, {"too_large": 1}, id="too large"
        ),
        pytest.param(answering([bytes(600)]), {}, {"max_total_bytes": 500}, {"memory": 1}, id="no memory left"),
    ],
)
async def test_what_is_not_captured_is_passed_on_all_the_same(
    app: App, asked: dict[str, Any], settings: dict[str, Any], counts: dict[str, int], tmp_path: Path
) -> None:
    middleware = capture(app, tmp_path, **settings)
    expected = await ask(app, encoded(REQUEST), **asked)
    assert await ask(middleware, encoded(REQUEST), **asked) == expected
    assert captured(middleware) == ([], counts)


async def test_a_part_is_passed_on_before_the_next_is_made(tmp_path: Path) -> None:
    seen: list[Message] = []

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": SSE_HEADERS})
        for count, part in enumerate((b"data: 1\n\n", b"data: 2\n\n"), start=2):
            await send({"type": "http.response.body", "body": part, "more_body": True})
            assert len(seen) == count

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        seen.append(message)

    await capture(app, tmp_path)({"type": "http", "method": "POST", "path": CHAT, "headers": []}, receive, send)


async def test_a_client_that_leaves_is_counted_and_its_memory_given_back(tmp_path: Path) -> None:
    started = asyncio.Event()

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": SSE_HEADERS})
        await send({"type": "http.response.body", "body": b"data: {}\n\n", "more_body": True})
        started.set()
        await asyncio.sleep(60)

    middleware = capture(app, tmp_path)
    asking = asyncio.create_task(ask(middleware, encoded(REQUEST)))
    await started.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert captured(middleware) == ([], {"aborted": 1})
    assert middleware.writer.charged == 0


async def test_an_error_of_the_application_stays_its_own(tmp_path: Path) -> None:
    async def app(scope: Message, receive: Any, send: Any) -> None:
        raise RuntimeError("the engine's own")

    middleware = capture(app, tmp_path)
    with pytest.raises(RuntimeError, match="the engine's own"):
        await ask(middleware, encoded(REQUEST))
    assert captured(middleware) == ([], {"aborted": 1})


@pytest.mark.parametrize("message", [{"type": "http.response.start"}, {"type": "http.response.body", "body": 7}])
async def test_a_message_that_nobody_foresaw_costs_the_capture_only(message: Message, tmp_path: Path) -> None:
    async def app(scope: Message, receive: Any, send: Any) -> None:
        await send(message)

    middleware = capture(app, tmp_path)
    assert await ask(middleware, encoded(REQUEST)) == [message]
    assert captured(middleware) == ([], {"unreadable": 1})


async def test_a_full_disk_fails_no_request_and_leaves_whole_lines(
    tmp_path: Path,
) -> None:
    """The limit on file sizes lets a line be written half; the half is taken back."""
    middleware = capture(answering([encoded(ANSWER)]), tmp_path)
    await ask(middleware, encoded(REQUEST))
    await until(lambda: middleware.writer.counts["captured"] == 1)
    (file,) = tmp_path.glob("*.open")  # noqa: ASYNC240
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size + 10, unlimited[1]))
    try:
        assert len(await ask(middleware, encoded(REQUEST))) == 3
        await until(lambda: middleware.writer.counts["write_failed"] == 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    await ask(middleware, encoded(REQUEST))
    lines, counts = captured(middleware)
    assert (len(lines), counts) == (2, {"captured": 2, "write_failed": 1})
    assert middleware.writer.charged == 0


async def test_lone_surrogates_and_concurrency(tmp_path: Path) -> None:
    odd = {**ANSWER, "choices": [{"index": 0, "message": {"role": "assistant", "content": "\ud800"}}]}
    middleware = capture(answering([encoded(odd)]), tmp_path)
    await asyncio.gather(*(ask(middleware, encoded({**REQUEST, "seed": seed})) for seed in range(200)))
    lines, counts = captured(middleware)
    assert counts == {"captured": 200}
    assert [line["request"]["seed"] for line in lines] == list(range(200))
    assert lines[0]["response"]["choices"][0]["message"]["content"] == "?"


async def test_files_rotate_and_an_hour_begins_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    middleware = capture(answering([encoded(ANSWER)]), tmp_path)
    monkeypatch.setattr("time.time_ns", lambda: (3_600_000 - 1) * 1_000_000)
    await ask(middleware, encoded(REQUEST))
    monkeypatch.setattr("time.time_ns", lambda: 3_600_000 * 1_000_000)
    await ask(middleware, encoded(REQUEST))
    lines, _ = captured(middleware)
    assert [line["time"] for line in lines] == ["1970-01-01T00:59:59.999Z", "1970-01-01T01:00:00.000Z"]
    files = sorted(tmp_path.glob("*.jsonl"))  # noqa: ASYNC240
    assert [path.name.partition("-")[0] for path in files] == ["3599999", "3600000"]


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
