"""The real API server as these tests see it: one client, one namespace."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from kubernetes import client, config

from specop.api.kinds import KINDS
from specop.common.names import GROUP, VERSION

KIND_BY_NAME = {kind.model.KIND: kind for kind in KINDS}


STARTED_SECONDS = 30


class Refused(Exception):
    """The API server's answer to a bad request; its text is the message that a user sees."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Api:
    """Creates and replaces objects of ours as `kubectl` does: unknown fields are errors."""

    def __init__(self, session: client.ApiClient, namespace: str) -> None:
        self._session = session
        self.namespace = namespace

    def create(self, manifest: dict[str, Any], *, keep: bool = False) -> dict[str, Any]:
        return self._call("POST", self._path(manifest), manifest, keep=keep)

    def replace(self, manifest: dict[str, Any], *, keep: bool = False, subresource: str = "") -> dict[str, Any]:
        path = f"{self._path(manifest)}/{manifest['metadata']['name']}{subresource}"
        return self._call("PUT", path, manifest, keep=keep)

    def get(self, path: str, accept: str = "application/json") -> dict[str, Any]:
        return self._send("GET", path, {}, None, accept)

    def put(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return self._send("PUT", path, {}, body)

    def delete(self, manifest: dict[str, Any]) -> None:
        self._send("DELETE", f"{self._path(manifest)}/{manifest['metadata']['name']}", {}, None)

    def path(self, kind: str) -> str:
        return self._path({"kind": kind})

    def _path(self, manifest: dict[str, Any]) -> str:
        kind = KIND_BY_NAME[manifest["kind"]]
        scope = f"/namespaces/{self.namespace}" if kind.namespaced else ""
        return f"/apis/{GROUP}/{VERSION}{scope}/{kind.model.PLURAL}"

    def _call(self, verb: str, path: str, body: dict[str, Any], *, keep: bool) -> dict[str, Any]:
        return self._send(verb, path, {"fieldValidation": "Strict", **({} if keep else {"dryRun": "All"})}, body)

    def _send(
        self, verb: str, path: str, query: dict[str, str], body: Any, accept: str = "application/json"
    ) -> dict[str, Any]:
        request = self._session.param_serialize(
            verb,
            path,
            query_params=list(query.items()),
            header_params={"Accept": accept, "Content-Type": "application/json"},
            body=body,
            auth_settings=["BearerToken"],
        )
        response = self._session.call_api(*request)
        answer = json.loads(response.read())
        if response.status >= 400:
            raise Refused(response.status, answer["message"])
        assert isinstance(answer, dict)
        return answer


@pytest.fixture(scope="session")
def session(control_plane: Any) -> Iterator[client.ApiClient]:
    with config.new_client_from_config(str(control_plane.kubeconfig)) as api_client:
        yield api_client


@pytest.fixture(scope="session")
def api(session: client.ApiClient, control_plane: Any) -> Api:
    served = Api(session, control_plane.namespace())
    deadline = time.monotonic() + STARTED_SECONDS
    for kind in KINDS:
        while not _is_served(served, kind.model.KIND):
            assert time.monotonic() < deadline, f"{kind.model.KIND} is not served"
            time.sleep(0.05)
    return served


def _is_served(api: Api, kind: str) -> bool:
    """A kind that is established may still be answered with 404 for a moment."""
    try:
        api.get(api.path(kind))
    except Refused as refusal:
        if refusal.status != 404:
            raise
        return False
    return True
