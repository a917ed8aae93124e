"""The real API server behind `Port`; the only importer of `kubernetes`.

It is: one HTTP call per verb over `kubernetes.aio`'s transport, and the mapping of answers to specop's errors.
It is not: typed (bodies are plain dicts), discovering (paths come from a static table) or retrying (the queue does
that).
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import load_incluster_config, load_kube_config

from specop.api import reasons
from specop.api.shared import Json
from specop.common.errors import Conflict, Retryable, SpecopError, Terminal
from specop.kube.port import Listing
from specop.kube.resources import Kind, kind_named

APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
JSON = "application/json"

PAGE = 500
"""Objects per page of a list."""

Observer = Callable[[str, str, int], None]
"""Told of every call: verb, kind, HTTP status (0 if no answer came)."""


@dataclass(frozen=True, slots=True)
class Connection:
    """Where the API server is and how it knows us, for kopf's own login."""

    server: str
    ca_path: str | None
    certificate_path: str | None
    private_key_path: str | None
    token: str | None


async def load_configuration() -> Configuration:
    """Find the API server: `KUBECONFIG` if set, else the pod's ServiceAccount, else the user's default kubeconfig."""
    configuration = Configuration()
    if "KUBECONFIG" not in os.environ and "KUBERNETES_SERVICE_HOST" in os.environ:
        load_incluster_config(configuration)
    else:
        await load_kube_config(os.environ.get("KUBECONFIG"), client_configuration=configuration, persist_config=False)
    return configuration


async def connection_of(configuration: Configuration) -> Connection:
    """Return the same access as values; a token file is read again."""
    authorization = await configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
    return Connection(
        server=configuration.host,
        ca_path=configuration.ssl_ca_cert,
        certificate_path=configuration.cert_file,
        private_key_path=configuration.key_file,
        token=authorization.split(" ", 1)[1].strip() if authorization else None,
    )


def own_namespace() -> str:
    """Return the namespace of this pod; `default` outside a cluster."""
    path = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
    return os.environ.get("POD_NAMESPACE") or (path.read_text().strip() if path.exists() else "default")


def _ignore(_verb: str, _kind: str, _status: int) -> None:
    """Observe nothing."""


class Client:
    """A `Port` over HTTP."""

    def __init__(
        self, configuration: Configuration, *, timeout_seconds: float = 30.0, observer: Observer = _ignore
    ) -> None:
        configuration.retries = 0
        self._api = ApiClient(configuration)
        self._api.user_agent = "specop"
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds, sock_connect=5.0)
        self._observer = observer

    async def close(self) -> None:
        """Close all connections."""
        await self._api.close()

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Json | None:
        """See `Port`."""
        status, body = await self._call("get", kind, kind.path(namespace, name))
        if status == HTTPStatus.NOT_FOUND:
            return None
        return _checked(status, body)

    async def list(self, kind: Kind, namespace: str | None = None, selector: str = "") -> Listing:
        """See `Port`. Items lack `kind` on the wire; it is put back."""
        items: list[Json] = []
        query: dict[str, str | int] = {"limit": PAGE}
        if selector:
            query["labelSelector"] = selector
        while True:
            page = _checked(*await self._call("list", kind, kind.path(namespace), query=query))
            items += [{"apiVersion": kind.api_version, "kind": kind.name, **item} for item in page["items"]]
            following = page["metadata"].get("continue")
            if not following:
                # All pages of a list are of the first page's version.
                return Listing(tuple(items), int(page["metadata"]["resourceVersion"]))
            query["continue"] = following

    async def create(self, body: Json) -> Json | None:
        """See `Port`."""
        kind, namespace, _ = _target(body)
        query = {"fieldManager": "specop", "fieldValidation": "Strict"}
        status, answer = await self._call("create", kind, kind.path(namespace), query=query, body=body)
        if status == HTTPStatus.CONFLICT and answer.get("reason") == "AlreadyExists":
            return None
        return _checked(status, answer)

    async def apply(self, body: Json, manager: str) -> Json:
        """See `Port`."""
        return await self._apply("apply", body, manager, None)

    async def apply_status(self, body: Json, manager: str) -> Json:
        """See `Port`."""
        return await self._apply("apply_status", body, manager, "status")

    async def _apply(self, verb: str, body: Json, manager: str, subresource: str | None) -> Json:
        kind, namespace, name = _target(body)
        query = {"fieldManager": manager, "force": "true", "fieldValidation": "Strict"}
        path = kind.path(namespace, name, subresource)
        return _checked(*await self._call(verb, kind, path, query=query, body=body, content_type=APPLY))

    async def merge(self, kind: Kind, namespace: str, name: str, patch: Json) -> None:
        """See `Port`."""
        path = kind.path(namespace, name)
        _checked(
            *await self._call("patch", kind, path, query={"fieldManager": "specop"}, body=patch, content_type=MERGE)
        )

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str) -> None:
        """See `Port`."""
        options = {"propagationPolicy": "Background", "preconditions": {"uid": uid}}
        status, answer = await self._call("delete", kind, kind.path(namespace, name), body=options)
        if status not in (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT):
            _checked(status, answer)

    async def _call(
        self,
        verb: str,
        kind: Kind,
        path: str,
        *,
        query: dict[str, Any] | None = None,
        body: Json | None = None,
        content_type: str = JSON,
    ) -> tuple[int, Json]:
        url = f"{self._api.configuration.host}{path}" + (f"?{urlencode(query)}" if query else "")
        method = {"get": "GET", "list": "GET", "create": "POST", "delete": "DELETE"}.get(verb, "PATCH")
        headers = {"Accept": JSON, "Content-Type": content_type, "User-Agent": self._api.user_agent}
        status = 0
        try:
            await self._api.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
            response = await self._api.call_api(method, url, headers, body, _request_timeout=self._timeout)
            payload = await response.read()
            status = response.status
            return _decoded(status, response.getheader("Retry-After"), payload)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Retryable(f"{verb} {kind.name}: no answer from the API server: {type(error).__name__}") from error
        finally:
            self._observer(verb, kind.name, status)


def _target(body: Json) -> tuple[Kind, str | None, str]:
    metadata = body["metadata"]
    return kind_named(body["kind"]), metadata.get("namespace"), metadata["name"]


def _decoded(status: int, retry_after: str | None, payload: bytes) -> tuple[int, Json]:
    """Return the answer as JSON; what only says "later" is raised here, because its body may be anything."""
    if status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        seconds = float(retry_after) if retry_after and retry_after.isdigit() else None
        raise Retryable(f"the API server answered {status}", after_seconds=seconds)
    try:
        return status, json.loads(payload)
    except ValueError as error:
        raise Retryable(f"the API server answered {status} without JSON") from error


def _checked(status: int, answer: Json) -> Json:
    """Return the body of a success, or the error that the status stands for."""
    if status < HTTPStatus.BAD_REQUEST:
        return answer
    raise _error(status, str(answer.get("message", ""))[:900])


def _error(status: int, message: str) -> SpecopError:
    if status in (HTTPStatus.CONFLICT, HTTPStatus.GONE, HTTPStatus.NOT_FOUND):
        return Conflict(message)
    if status in (HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNPROCESSABLE_ENTITY):
        return Terminal(reasons.INVALID_SPEC, f"the API server refuses what this object asks for: {message}")
    return Retryable(f"the API server answered {status}: {message}")
