"""The capture middleware: what it writes, what it leaves alone, and that no request ever notices it."""

import asyncio
import resource
from pathlib import Path
from typing import Any

import pytest

from specop.serving.specop_capture.middleware import App, Message
from tests.serving.asgi import CHAT, JSON_HEADERS, SSE_HEADERS, answering, ask, capture, captured, until
from tests.serving.exchange import ANSWER, REQUEST, STREAM, chunk, delta, encoded, sse


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
