"""Capture finished requests of vLLM's OpenAI server as JSON lines: `--middleware specop_capture.Capture`.

One file, standard library only: it is copied beside an upstream vLLM image and imported there. It is not the shipper:
lines go to files in a folder, and whoever ships them takes only `*.jsonl` (a file being written is `*.open`).

What it minds:
- A response is passed on before it is looked at; parsing and writing happen in one background thread, fed by a queue.
- Nothing that fails here can fail a request: every loss is counted by cause in `<pid>.counters`; no more is said of it.
- Memory: what is buffered, in flight and queued, is charged to one budget; a record that does not fit is dropped.
- `time` is the moment the answer ended. One thread stamps, one queue orders: a file holds nothing older than its name
  says, so that a shipper can tell up to when everything has been shipped.
- Content is written to the files and nowhere else.
- Text does not say which tokens it was generated as (a grammar makes targets spell words in unusual pieces), and a
  drafter has to learn those. So the engine's client is tapped once a process: what it yields for a request that is
  captured is noted, as if the request had asked for `return_token_ids`. Where that cannot be, text is all there is.
"""

import atexit
import contextlib
import json
import os
import queue
import random
import threading
import time
import uuid
from array import array
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

CHAT_ROUTE = "/v1/chat/completions"
ROUTES = frozenset({CHAT_ROUTE, "/v1/completions"})
NO_TRAIN = b"x-specop-no-train"
"""A request with this header, whatever its value, is never captured."""
ROTATE_SECONDS = 5.0
"""A file is closed and renamed this long after its first line."""
FIRST_CLIENT_ERROR, FIRST_SERVER_ERROR = 400, 500
HOUR_MS = 3_600_000
CLOSE_SECONDS = 5.0
"""At the end of the process, the writer has this long to write what is queued."""


@dataclass(frozen=True)
class Settings:
    """What the environment says."""

    folder: Path
    percent: float = 100.0
    arm: str = ""
    max_record_bytes: int = 32 << 20
    """Request and response of one record together."""
    max_total_bytes: int = 256 << 20
    """Of all records in flight and queued."""

    @classmethod
    def from_env(cls) -> "Settings":
        """Read `SPECOP_CAPTURE_*` and `SPECOP_ARM`."""
        env = os.environ
        return cls(
            folder=Path(env.get("SPECOP_CAPTURE_DIR", "/capture")),
            percent=float(env.get("SPECOP_CAPTURE_PERCENT", cls.percent)),
            arm=env.get("SPECOP_ARM", cls.arm),
            max_record_bytes=int(env.get("SPECOP_CAPTURE_RECORD_BYTES", cls.max_record_bytes)),
            max_total_bytes=int(env.get("SPECOP_CAPTURE_TOTAL_BYTES", cls.max_total_bytes)),
        )


@dataclass
class Record:
    """One request while it passes, and then in the queue."""

    route: str
    started: float
    """Monotonic seconds."""
    request: list[bytes] = field(default_factory=list)
    response: list[bytes] = field(default_factory=list)
    size: int = 0
    status: int = 0
    streamed: bool = False
    complete: bool = False
    lost: str = ""
    """Why it is not captured; empty while it may be."""
    ended_ms: int = 0
    latency: float = 0.0
    prompts: int = 0
    """That the engine was given; of several, no ids are kept."""
    prompt_ids: "array[int] | None" = None
    """As the engine saw it."""
    answer_ids: "dict[int, array[int]]" = field(default_factory=dict)
    """As the engine wrote them, by index of the choice."""
    ids_lost: bool = False
    """They did not fit, or something about them was odd."""


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


class Writer:
    """The thread that turns records into lines, and the budget of what is buffered."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._queue: queue.SimpleQueue[Record | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self.charged = 0
        self.counts: Counter[str] = Counter()
        self._written_counts: Counter[str] = Counter()
        self._open: _OpenFile | None = None
        self._files = 0
        self._thread = threading.Thread(target=self._run, name="specop-capture", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def charge(self, size: int) -> bool:
        """Take `size` bytes from the budget; false when they are not there."""
        with self._lock:
            if self.charged + size > self.settings.max_total_bytes:
                return False
            self.charged += size
            return True

    def lose(self, record: Record, cause: str) -> None:
        """Give up a record and what it holds; it is counted when its request ends."""
        record.lost = record.lost or cause
        record.request.clear()
        record.response.clear()
        self.charge(-record.size)
        record.size = 0

    def put(self, record: Record) -> None:
        """Queue a record whose request ended; its bytes are given back once it is written."""
        self._queue.put(record)

    def close(self) -> None:
        """Write what is queued and end; called at exit, harmless when called again."""
        atexit.unregister(self.close)
        self._queue.put(None)
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        while True:
            try:
                record = self._queue.get(timeout=self._until_rotation())
            except queue.Empty:
                self._guarded(self._rotate)
                continue
            if record is None:
                self._guarded(self._rotate)
                return
            self._guarded(partial(self._write, record))
            self.charge(-record.size)
            if self._until_rotation() == 0:
                self._guarded(self._rotate)

    def _guarded(self, step: Callable[[], None]) -> None:
        """Run a step that may fail for reasons of the disk or of odd content; the failure is counted."""
        try:
            step()
        except OSError:
            self.counts["write_failed"] += 1
        except Exception:  # noqa: BLE001  this thread must outlive every record
            self.counts["unreadable"] += 1

    def _until_rotation(self) -> float:
        return ROTATE_SECONDS if self._open is None else max(0.0, self._open.due - time.monotonic())

    def _write(self, record: Record) -> None:
        if record.lost or not record.complete:
            self.counts[record.lost or "aborted"] += 1
            return
        text = json.dumps(captured_line(record, self.settings.arm), ensure_ascii=False, allow_nan=False)
        data = f"{text}\n".encode("utf-8", "replace")
        if self._open is not None and record.ended_ms // HOUR_MS != self._open.first_ms // HOUR_MS:
            self._rotate()
        if self._open is None:
            self._files += 1
            name = f"{record.ended_ms}-{os.getpid()}{self._files:06d}"
            self.settings.folder.mkdir(parents=True, exist_ok=True)
            self._open = _OpenFile(self.settings.folder / f"{name}.open", record.ended_ms)
        self._open.append(data)
        self.counts["captured"] += 1

    def _rotate(self) -> None:
        """Close the open file under its final name, and write the counters beside it when they moved."""
        if self._open is not None:
            closing, self._open = self._open, None
            closing.close()
        if self.counts != self._written_counts:
            self.settings.folder.mkdir(parents=True, exist_ok=True)
            path = self.settings.folder / f"{os.getpid()}.counters"
            part = path.with_suffix(".part")
            part.write_text(json.dumps(self.counts))
            part.replace(path)
            self._written_counts = self.counts.copy()


class _OpenFile:
    """A file being written: unbuffered, whole lines only, also after a full disk; a kill leaves at most half a line."""

    def __init__(self, path: Path, first_ms: int) -> None:
        self.first_ms = first_ms
        self.due = time.monotonic() + ROTATE_SECONDS
        self._path = path
        self._file = path.open("xb", buffering=0)
        self._size = 0

    def append(self, data: bytes) -> None:
        try:
            view = memoryview(data)
            while view:
                view = view[self._file.write(view) :]
        except OSError:
            self._file.truncate(self._size)
            self._file.seek(self._size)
            raise
        self._size += len(data)

    def close(self) -> None:
        self._file.close()
        with contextlib.suppress(FileNotFoundError):  # taken by a shipper that thought this process dead
            self._path.rename(self._path.with_suffix(".jsonl"))


def captured_line(record: Record, arm: str) -> dict[str, Any]:
    """Make the line of a finished record; raises ValueError and its like on what is not the OpenAI protocol."""
    request = json.loads(b"".join(record.request))
    body = b"".join(record.response)
    response = assemble(body) if record.streamed else json.loads(body)
    if record.prompt_ids is not None and record.prompts == 1 and not record.ids_lost:
        _add_ids(response, record)
    failed_late = "error" in response and record.status < FIRST_CLIENT_ERROR
    ended = datetime.fromtimestamp(record.ended_ms // 1000, UTC)
    return {
        "v": 1,
        "id": response.get("id") or f"req-{uuid.uuid4().hex}",
        "time": f"{ended:%Y-%m-%dT%H:%M:%S}.{record.ended_ms % 1000:03d}Z",
        "model": response.get("model") or request.get("model", ""),
        "route": record.route,
        "status": FIRST_SERVER_ERROR if failed_late else record.status,
        "latency": round(record.latency, 3),
        "arm": arm,
        "request": request,
        "response": response,
    }


def _add_ids(response: dict[str, Any], record: Record) -> None:
    """Say of which tokens prompt and answers are, where the request did not ask for it itself."""
    for choice in response.get("choices") or ():
        if not choice.get("token_ids") and choice.get("index") in record.answer_ids:
            response["prompt_token_ids"] = list(record.prompt_ids or ())
            choice["token_ids"] = list(record.answer_ids[choice["index"]])


def assemble(stream: bytes) -> dict[str, Any]:
    """Make of a stream of chunks the answer that an unstreamed request would have got.

    Pieces are joined per choice; tool calls, reasoning, token ids, log-probabilities and usage are kept. An error
    inside the stream becomes `{"error": …}`.
    """
    response: dict[str, Any] = {}
    choices = _Indexed()
    for raw in stream.splitlines():
        data = raw.removeprefix(b"data:").strip()
        if not raw.startswith(b"data:") or data == b"[DONE]":
            continue
        chunk = json.loads(data)
        if "error" in chunk:
            return {"error": chunk["error"]}
        choices.merge(chunk.pop("choices", ()))
        response.update({key: value for key, value in chunk.items() if value is not None or key not in response})
    if response.get("object") == "chat.completion.chunk":
        response["object"] = "chat.completion"
    joined = [
        {"message" if key == "delta" else key: value for key, value in choice.items()} for choice in choices.close()
    ]
    return {**response, "choices": joined}


_GIVEN_ONCE = frozenset({"role", "index", "id", "type", "name", "finish_reason", "stop_reason"})
"""Keys whose string comes whole; every other string and list comes in pieces."""


class _Pieces(list[str]):
    """A string that grows; joined once, because adding to a long string each time is quadratic."""


class _Indexed(dict[int, dict[str, Any]]):
    """A list whose items carry an `index` and grow: choices, and tool calls inside them."""

    def merge(self, parts: list[dict[str, Any]]) -> None:
        for part in parts:
            _merge(self.setdefault(part["index"], {}), part)

    def close(self) -> list[dict[str, Any]]:
        return [_closed(self[index]) for index in sorted(self)]


def _merge(whole: dict[str, Any], part: dict[str, Any]) -> None:
    """Join a piece of an answer to what came before it."""
    for key, value in part.items():
        before = whole.get(key)
        if value is None or value == []:
            whole.setdefault(key, None)
        elif key == "tool_calls":
            whole[key] = before or _Indexed()
            whole[key].merge(value)
        elif isinstance(value, dict):
            whole[key] = before or {}
            _merge(whole[key], value)
        elif isinstance(value, list):
            whole[key] = before or []
            whole[key].extend(value)
        elif isinstance(value, str) and key not in _GIVEN_ONCE:
            whole[key] = before or _Pieces()
            whole[key].append(value)
        else:
            whole[key] = value


def _closed(value: Any) -> Any:
    """Make plain JSON of what grew; an unstreamed answer's tool calls have no index."""
    match value:
        case _Pieces():
            return "".join(value)
        case _Indexed():
            return [{key: item for key, item in call.items() if key != "index"} for call in value.close()]
        case dict():
            return {key: _closed(item) for key, item in value.items()}
        case _:
            return value
