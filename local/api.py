"""The few requests that starting a cluster needs, with the administrator's certificate and nothing but `http.client`.

It is not: a Kubernetes client for the operator or the tests.
"""

from __future__ import annotations

import http.client
import json
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class ApiServer:
    """An API server and the folder of certificates to speak to it with."""

    url: str
    pki: Path

    def get(self, path: str) -> Any:
        """Return what a path holds, decoded if it is an object; nothing unless the answer is 200."""
        context = ssl.create_default_context(cafile=str(self.pki / "ca.crt"))
        context.load_cert_chain(self.pki / "admin.crt", self.pki / "admin.key")
        address = urlsplit(self.url)
        connection = http.client.HTTPSConnection(address.hostname or "", address.port, context=context, timeout=5)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read()
        except OSError:
            return None
        finally:
            connection.close()
        if response.status != http.client.OK:
            return None
        return json.loads(body) if body.startswith(b"{") else body.decode()
