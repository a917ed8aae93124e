"""The ASGI middleware: passes everything on, and keeps what is to be captured.

Text does not say which tokens it was generated as (a grammar makes targets spell words in unusual pieces), and a
drafter has to learn those. So the engine's client is tapped once a process: what it yields for a request that is
captured is noted, as if the request had asked for `return_token_ids`. Where that cannot be, text is all there is.
"""

import contextlib
import random
import time
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextvars import ContextVar
from typing import Any

from .record import CHAT_ROUTE, FIRST_CLIENT_ERROR, FIRST_SERVER_ERROR, Record, Settings
from .writer import Writer

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

ROUTES = frozenset({CHAT_ROUTE, "/v1/completions"})
NO_TRAIN = b"x-specop-no-train"
"""A request with this header, whatever its value, is never captured."""

_RECORD: ContextVar[Record | None] = ContextVar("specop_capture_record", default=None)
"""Of the request that the current task works for."""


class Capture:
    """ASGI middleware; one instance, and one writer thread, per API server process."""

    def __init__(self, app: App, settings: Settings | None = None) -> None:
        self._app = app
        self._settings = settings or Settings.from_env()
        self.writer = Writer(self._settings)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass everything on; keep a copy of what is to be captured."""
        if not self._wanted(scope):
            await self._app(scope, receive, send)
            return
        record = Record(route=scope["path"], started=time.monotonic())
        self._tap(scope)

        async def tapped_receive() -> Message:
            message = await receive()
            self._observe(record, message)
            return message

        async def tapped_send(message: Message) -> None:
            await send(message)
            self._observe(record, message)

        token = _RECORD.set(record)
        try:
            await self._app(scope, tapped_receive, tapped_send)
        finally:
            _RECORD.reset(token)
            record.latency = time.monotonic() - record.started
            record.ended_ms = time.time_ns() // 1_000_000
            self.writer.put(record)

    def _wanted(self, scope: Message) -> bool:
        return (
            scope["type"] == "http"
            and scope["method"] == "POST"
            and scope["path"] in ROUTES
            and all(name.lower() != NO_TRAIN for name, _ in scope["headers"])
            and random.random() * 100 < self._settings.percent  # noqa: S311  a sample, not a secret
        )

    def _tap(self, scope: Message) -> None:
        """Let the engine's client, which the application keeps in its state, tell of tokens."""
        client: Any = getattr(getattr(scope.get("app"), "state", None), "engine_client", None)
        generate = getattr(client, "generate", None)
        if generate is None or hasattr(generate, "specop"):
            return

        async def tapped(prompt: Any, sampling_params: Any, *rest: Any, **named: Any) -> AsyncIterator[Any]:
            record = _RECORD.get()
            pieces = getattr(getattr(sampling_params, "output_kind", None), "name", "") == "DELTA"
            if record is not None:
                record.prompts += 1
            async with contextlib.aclosing(generate(prompt, sampling_params, *rest, **named)) as outputs:
                async for output in outputs:
                    if record is not None:
                        self._note(record, output, pieces=pieces)
                    yield output

        tapped.specop = True  # type: ignore[attr-defined]
        with contextlib.suppress(AttributeError):  # a client that cannot be tapped
            client.generate = tapped

    def _note(self, record: Record, output: Any, *, pieces: bool) -> None:
        """Keep the tokens that an output brings; nothing that is odd about it may fail the request."""
        try:
            if record.lost or record.ids_lost or record.prompts > 1 or record.route != CHAT_ROUTE:
                return
            if record.prompt_ids is None and output.prompt_token_ids:
                record.prompt_ids = self._charged(record, output.prompt_token_ids)
            for choice in output.outputs:
                ids = self._charged(record, choice.token_ids)
                if pieces and choice.index in record.answer_ids:
                    record.answer_ids[choice.index].extend(ids)
                else:
                    record.answer_ids[choice.index] = ids
        except Exception:  # noqa: BLE001  the text is still there
            record.ids_lost = True

    def _charged(self, record: Record, ids: Any) -> "array[int]":
        """Take ids into a record's budget; raises MemoryError where they do not fit."""
        kept = array("i", ids)
        size = kept.itemsize * len(kept)
        if record.size + size > self._settings.max_record_bytes or not self.writer.charge(size):
            raise MemoryError
        record.size += size
        return kept

    def _observe(self, record: Record, message: Message) -> None:
        """Note what a message adds to the record, after it was passed on."""
        try:
            if message["type"] == "http.request":
                self._keep(record, record.request, message.get("body", b""))
            elif message["type"] == "http.response.start":
                self._start(record, message)
            elif message["type"] == "http.response.body":
                self._keep(record, record.response, message.get("body", b""))
                record.complete = not message.get("more_body", False)
        except Exception:  # noqa: BLE001  an odd message costs the capture, never the request
            self.writer.lose(record, "unreadable")

    def _start(self, record: Record, message: Message) -> None:
        record.status = message["status"]
        headers = {name.lower(): value for name, value in message.get("headers", ())}
        record.streamed = headers.get(b"content-type", b"").startswith(b"text/event-stream")
        if FIRST_CLIENT_ERROR <= record.status < FIRST_SERVER_ERROR:
            self.writer.lose(record, "refused")
        elif b"content-encoding" in headers:
            self.writer.lose(record, "encoded")

    def _keep(self, record: Record, parts: list[bytes], body: bytes) -> None:
        """Keep a reference to a part, unless the record is lost or does not fit."""
        if record.lost or not body:
            return
        if record.size + len(body) > self._settings.max_record_bytes:
            self.writer.lose(record, "too_large")
        elif not self.writer.charge(len(body)):
            self.writer.lose(record, "memory")
        else:
            record.size += len(body)
            parts.append(body)
