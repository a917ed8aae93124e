"""The API server as the operator's benchmark uses it: raw requests, watches, and what its own metrics counted.

It is: as thin as can be, so that measuring costs the two cores little. Bodies are bytes, made before the clock runs.
It is not: a client that recovers. A watch that ends, or a refused request, ends the benchmark.
"""

import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from kubernetes.aio.client import Configuration
from kubernetes.aio.config import load_kube_config
from prometheus_client.parser import text_string_to_metric_families

Json = dict[str, Any]
JSON = "application/json"
MERGE = "application/merge-patch+json"
_LINE_BYTES = 2**20


class Server:
    """One API server, as administrator."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def send(self, method: str, path: str, body: bytes, content_type: str = JSON) -> Json:
        """Send a body; returns the answer."""
        async with self._session.request(method, path, data=body, headers={"Content-Type": content_type}) as answer:
            content = await answer.read()
            if not answer.ok:
                raise RuntimeError(f"{method} {path}: {answer.status}: {content[:500].decode()}")
            found: Json = json.loads(content)
            return found

    async def get(self, path: str) -> bytes:
        """Read a page."""
        async with self._session.get(path) as answer:
            answer.raise_for_status()
            return await answer.read()

    async def watch(self, path: str, selector: str = "") -> AsyncIterator[tuple[str, Json]]:
        """Type and object of every change from now on; objects that exist come first."""
        query = {"watch": "1", "timeoutSeconds": "7200", "labelSelector": selector}
        async with self._session.get(path, params=query) as answer:
            answer.raise_for_status()
            async for line in answer.content:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise RuntimeError(f"watch of {path}: {event['object']}")
                yield event["type"], event["object"]
        raise RuntimeError(f"watch of {path} ended")

    async def operator_writes(self) -> int:
        """Count the writes that only the operator makes here, as the server counted them.

        Server-side apply is used by nobody else while the clock runs; Jobs and Events are created by nobody else,
        because the controllers that would do so are off.
        """
        page = (await self.get("/metrics")).decode()
        requests = (s for s in samples(page, "apiserver_request_total") if s[0]["code"].startswith("2"))
        created = {("POST", "jobs"), ("POST", "events")}
        return sum(
            int(value)
            for labels, value in requests
            if labels["verb"] == "APPLY" or (labels["verb"], labels["resource"]) in created
        )


@asynccontextmanager
async def connect(kubeconfig: Path) -> AsyncIterator[Server]:
    """Open connections with an administrator's kubeconfig."""
    configuration = Configuration()
    await load_kube_config(str(kubeconfig), client_configuration=configuration)
    context = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
    context.load_cert_chain(configuration.cert_file, configuration.key_file)
    session = aiohttp.ClientSession(
        configuration.host,
        connector=aiohttp.TCPConnector(ssl=context, limit=0),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
        read_bufsize=_LINE_BYTES,
    )
    async with session:
        yield Server(session)


def samples(page: str, name: str) -> list[tuple[dict[str, str], float]]:
    """Labels and value of every sample of one name on a metrics page."""
    wanted = "\n".join(line for line in page.splitlines() if line.startswith(name + "{")) + "\n"
    families = text_string_to_metric_families(wanted)
    return [(sample.labels, sample.value) for family in families for sample in family.samples if sample.name == name]
