"""The few requests that starting a cluster needs, with the administrator's certificate and nothing but `http.client`.

It is not: a Kubernetes client for the operator or the tests.
"""

from __future__ import annotations

import http.client
import json
import ssl
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from local import console

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class ApiServer:
    """An API server and the folder of certificates to speak to it with."""

    url: str
    pki: Path

    def get(self, path: str) -> tuple[int, Any]:
        """Return the status code and the decoded body; code 0 while nobody answers."""
        context = ssl.create_default_context(cafile=str(self.pki / "ca.crt"))
        context.load_cert_chain(self.pki / "admin.crt", self.pki / "admin.key")
        address = urlsplit(self.url)
        connection = http.client.HTTPSConnection(address.hostname or "", address.port, context=context, timeout=5)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read()
        except OSError:
            return 0, None
        finally:
            connection.close()
        return response.status, json.loads(body) if body.startswith(b"{") else body.decode()


def wait(what: str, seconds: float, ready: Callable[[], bool], alive: Callable[[], None]) -> None:
    """Wait until something is so; `alive` raises when waiting has become pointless."""
    deadline = time.monotonic() + seconds
    while not ready():
        alive()
        if time.monotonic() > deadline:
            message = f"{what} was not ready within {seconds:.0f} s"
            raise console.LocalError(message)
        time.sleep(_POLL_SECONDS)
