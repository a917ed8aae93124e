"""ASGI by hand: applications and requests whose every message a test decides."""

import asyncio
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from specop.serving.specop_capture.middleware import App, Capture, Message
from specop.serving.specop_capture.record import Settings

CHAT = "/v1/chat/completions"
JSON_HEADERS = [(b"content-type", b"application/json")]
SSE_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8")]


def answering(
    parts: Iterable[bytes],
    status: int = 200,
    headers: Iterable[tuple[bytes, bytes]] = JSON_HEADERS,
    *,
    end: bool = True,
) -> App:
    """An application that reads its request and answers with these parts."""

    async def app(scope: Message, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": status, "headers": list(headers)})
        for part in parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        if end:
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    return app


async def ask(
    app: App,
    request: bytes | list[bytes],
    *,
    path: str = CHAT,
    method: str = "POST",
    headers: Iterable[tuple[bytes, bytes]] = (),
    owner: Any = None,
) -> list[Message]:
    """Make one request; returns the messages that a client's server was handed. `owner`: the application itself."""
    parts = request if isinstance(request, list) else [request]
    incoming = [
        {"type": "http.request", "body": part, "more_body": index < len(parts) - 1} for index, part in enumerate(parts)
    ]
    sent: list[Message] = []

    async def receive() -> Message:
        return incoming.pop(0) if incoming else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "headers": list(headers), "app": owner}
    await app(scope, receive, send)
    return sent


def capture(app: App, folder: Path, **settings: Any) -> Capture:
    return Capture(app, Settings(folder=folder, arm="base", **settings))


def captured(middleware: Capture) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """End the writer; the lines of all files in order, and its counters."""
    middleware.writer.close()
    folder = middleware.writer.settings.folder
    lines = [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()]
    counts: dict[str, int] = {}
    for path in folder.glob("*.counters"):
        counts.update(json.loads(path.read_text()))
    return lines, counts


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread does; the test's time limit ends it."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.01)
