"""A target's API that answers by a rule and fails as it is told: for faults that a real engine has not at will."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Json = dict[str, Any]
Answer = Json | int
"""A message, or an HTTP status."""


class Api:
    """What was asked, and the rule that answers."""

    def __init__(self, rule: Callable[[Json], Answer]) -> None:
        self.rule = rule
        self.asked: list[Json] = []
        self.headers: list[dict[str, str]] = []
        self.most = self._now = 0
        self._lock = threading.Lock()
        self.url = ""

    @property
    def prompts(self) -> list[str]:
        return [body["messages"][-1]["content"] for body in self.asked]

    def answer(self, body: Json, headers: dict[str, str]) -> Answer:
        with self._lock:
            self.asked.append(body)
            self.headers.append(headers)
            self._now += 1
            self.most = max(self.most, self._now)
        try:
            return self.rule(body)
        finally:
            with self._lock:
                self._now -= 1


def echo(body: Json) -> Json:
    """Answer with the last words, in capitals."""
    return {"role": "assistant", "content": body["messages"][-1]["content"].upper()}


@contextmanager
def serving(rule: Callable[[Json], Answer] = echo) -> Iterator[Api]:
    api = Api(rule)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            found = api.answer(body, {key.lower(): value for key, value in self.headers.items()})
            status = found if isinstance(found, int) else 200
            choice = {"index": 0, "message": found, "finish_reason": "stop"}
            if isinstance(found, dict) and "finish" in found:
                choice["finish_reason"] = found.pop("finish")
            data = json.dumps({"choices": [choice]} if status == 200 else {"error": "no"}).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    api.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
