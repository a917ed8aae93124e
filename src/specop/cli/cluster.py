"""The API server as the command line sees it: typed reads, one create, one patch, as the user of the kubeconfig.

It is: the only importer of the `kubernetes` client in `specop.cli`; a failure is a `CliError` of one line.
It is not: the operator's port (`specop.kube`), which is asynchronous and applies.
Races: changes of an object carry the resourceVersion that was read, so that two people who approve at once both count.
"""

import contextlib
import json
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, TypeVar

from kubernetes import client, config
from urllib3.exceptions import HTTPError

from specop.api.base import Resource
from specop.api.preset import SpeculatorPreset
from specop.api.shared import Json
from specop.cli.errors import EXIT_UNREACHABLE, CliError
from specop.common.errors import Conflict
from specop.common.names import GROUP, VERSION

Kind = TypeVar("Kind", bound=Resource)

_TIMEOUT_SECONDS = 10
_ATTEMPTS = 5
_MERGE_PATCH = "application/merge-patch+json"


class Cluster:
    """One namespace of one API server."""

    def __init__(self, kubeconfig: str | None = None, context: str | None = None, namespace: str | None = None) -> None:
        """Read the kubeconfig, as kubectl does; raises CliError when there is none or it has no such context."""
        try:
            settings = client.Configuration()
            config.load_kube_config(config_file=kubeconfig, context=context, client_configuration=settings)
            contexts, active = config.list_kube_config_contexts(config_file=kubeconfig)
        except config.ConfigException as error:
            raise CliError(
                f"no cluster: {str(error).rstrip('.')}; set KUBECONFIG or --kubeconfig", EXIT_UNREACHABLE
            ) from error
        chosen = next((item for item in contexts if item["name"] == context), active)
        self.namespace: str = namespace or chosen["context"].get("namespace") or "default"
        self._host = settings.host
        settings.retries = False
        self._api = client.ApiClient(settings)
        self._objects = client.CustomObjectsApi(self._api)

    def get(self, kind: type[Kind], name: str) -> Kind:
        """Return one object of this namespace, or of a kind without namespaces; raises CliError if it is not there."""
        read, where = self._objects.get_namespaced_custom_object, self._where(kind)
        if kind is SpeculatorPreset:
            read, where = self._objects.get_cluster_custom_object, {k: v for k, v in where.items() if k != "namespace"}
        return kind.model_validate(self._call(f"{kind.KIND} {name}", read, **where, name=name))

    def list(self, kind: type[Kind]) -> list[Kind]:
        """Return all objects of a kind in this namespace, by name."""
        found = self._call(kind.PLURAL, self._objects.list_namespaced_custom_object, **self._where(kind))
        return sorted((kind.model_validate(item) for item in found["items"]), key=lambda item: item.metadata.name)

    def create(self, kind: type[Kind], body: Json) -> Kind:
        """Create an object in this namespace; raises CliError when the name is taken or the server refuses it."""
        what = f"{kind.KIND} {body['metadata']['name']}"
        write = self._objects.create_namespaced_custom_object
        return kind.model_validate(self._call(what, write, **self._where(kind), body=body))

    def change(self, kind: type[Kind], name: str, patch_of: Callable[[Kind], Json]) -> None:
        """Read, compute a merge patch, send it with the version that was read; again when somebody wrote in between."""
        what = f"{kind.KIND} {name}"
        for _ in range(_ATTEMPTS):
            seen = self.get(kind, name)
            body = {**patch_of(seen), "metadata": {"resourceVersion": seen.metadata.resource_version}}
            with contextlib.suppress(Conflict):
                write = self._objects.patch_namespaced_custom_object
                self._call(what, write, **self._where(kind), name=name, body=body, _content_type=_MERGE_PATCH)
                return
        raise CliError(f"{what} keeps changing: try again")

    def user(self) -> str:
        """Return the name by which the API server knows this user."""
        ask = client.AuthenticationV1Api(self._api).create_self_subject_review
        return str(self._call("the user's identity", ask, body={}).status.user_info.username)

    def _where(self, kind: type[Resource]) -> dict[str, str]:
        return {"group": GROUP, "version": VERSION, "namespace": self.namespace, "plural": kind.PLURAL}

    def _call(self, what: str, method: Callable[..., Any], **arguments: Any) -> Any:
        """Call the API; raises Conflict when somebody wrote first, CliError for every other failure."""
        try:
            return method(**arguments, _request_timeout=_TIMEOUT_SECONDS)
        except client.ApiException as error:
            if error.status == HTTPStatus.CONFLICT and _status(error).get("reason") != "AlreadyExists":
                raise Conflict(what) from error
            raise self._refused(what, error) from error
        except HTTPError as error:
            raise CliError(f"no cluster answers at {self._host}", EXIT_UNREACHABLE) from error

    def _refused(self, what: str, error: client.ApiException) -> CliError:
        """Say in one line why the API server refused."""
        status = _status(error)
        missing = error.status == HTTPStatus.NOT_FOUND
        if missing and not status.get("details", {}).get("name"):
            return CliError(f"this cluster does not know {what}: install the chart specop-crds")
        if missing:
            return CliError(f"there is no {what} in namespace {self.namespace}")
        return CliError(f"{what}: {status.get('message') or error.reason}")


def _status(error: client.ApiException) -> Json:
    try:
        body = json.loads(error.body or "{}")
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
