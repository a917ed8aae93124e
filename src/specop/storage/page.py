"""What a Job's process shows over HTTP while it works: `/progress`, `/metrics`, `/healthz`.

Served by the standard library from a daemon thread, so that it answers while the main thread computes. It shows counts
and rates only, never content.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CollectorRegistry, generate_latest

from specop.api.shared import Json

JSON = "application/json"
METRICS = "text/plain; version=0.0.4; charset=utf-8"


class ProgressPage:
    """The page; assign `body` to change what `/progress` shows."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self.body: Json = {}

    def render(self, path: str) -> tuple[HTTPStatus, str, bytes]:
        """Status, content type and body of one path."""
        if path == "/progress":
            return HTTPStatus.OK, JSON, json.dumps(self.body).encode()
        if path == "/metrics":
            return HTTPStatus.OK, METRICS, generate_latest(self._registry)
        if path == "/healthz":
            return HTTPStatus.OK, JSON, b"{}"
        return HTTPStatus.NOT_FOUND, JSON, b"{}"

    @contextmanager
    def serving(self, port: int | None) -> Iterator[int | None]:
        """Serve while the block runs; yields the port (0 asks for a free one), or serves nothing for None."""
        if port is None:
            yield None
            return
        page = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, content_type, body = page.render(self.path)
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Probes and scrapes are not worth a line each."""

        with ThreadingHTTPServer(("", port), Handler) as server:
            server.daemon_threads = True
            thread = threading.Thread(target=server.serve_forever, name="progress-page", daemon=True)
            thread.start()
            try:
                yield server.server_port
            finally:
                server.shutdown()
                thread.join()
