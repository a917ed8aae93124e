"""What the rest of specop asks of an API server: seven verbs on JSON bodies.

Implemented by `client.Client`, and by a double in tests.

Errors, for every verb: `Retryable` (network, time-out, 401, 403, 429, 5xx), `Conflict` (409, 410, and 404 where
something must exist), `Terminal` (400, 413, 422: the server will never take this body). A cut connection leaves open
whether a write was done: every verb may be repeated.
"""

from dataclasses import dataclass
from typing import Protocol

from specop.api.shared import Json
from specop.kube.resources import Kind


@dataclass(frozen=True, slots=True)
class Listing:
    """One consistent list: all that exists at `version`."""

    items: tuple[Json, ...]
    version: int
    """Resource version of the list."""


class Port(Protocol):
    """An API server."""

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Json | None:
        """Read one object; None if there is none."""

    async def list(self, kind: Kind, namespace: str | None = None, selector: str = "") -> Listing:
        """Read all objects of a namespace, or of all namespaces."""

    async def create(self, body: Json) -> Json | None:
        """POST; None if an object of that name exists."""

    async def apply(self, body: Json, manager: str) -> Json:
        """Server-side apply, forced: `manager` owns exactly the fields of the body afterwards."""

    async def apply_status(self, body: Json, manager: str) -> Json:
        """Server-side apply to `/status`; with a `metadata.resourceVersion` that is not the newest: Conflict."""

    async def merge(self, kind: Kind, namespace: str, name: str, patch: Json) -> None:
        """Merge patch; Conflict if there is no such object."""

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str) -> None:
        """Delete in the background if the uid still is the same; what is gone, or is another, counts as done."""
