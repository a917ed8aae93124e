"""What a reconcile decides to do, carried out in this order: creates, applies, deletes, status, events."""

from dataclasses import dataclass
from typing import Literal

from specop.api.shared import Json

Manager = Literal["specop", "specop/scale", "specop/suspend", "specop/status"]
"""Field managers of server-side apply, one per concern."""


@dataclass(frozen=True, slots=True)
class Create:
    """POST; 409 AlreadyExists counts as done. For Jobs, Drafters, and what retraining makes."""

    body: Json


@dataclass(frozen=True, slots=True)
class Apply:
    """Server-side apply, forced (children are ours).

    Skipped by the executor when the cached child carries the same desired-hash annotation; the executor puts it in.
    """

    body: Json
    manager: Manager = "specop"


@dataclass(frozen=True, slots=True)
class Delete:
    """DELETE with a uid precondition, background propagation; 404 and a uid conflict count as done."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Event:
    """Posted on the owner, deduplicated on (reason, message)."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Plan:
    """One reconcile's decision.

    A converged object's plan has no creates, applies or deletes, and a status that equals the stored one: then nothing
    is written.
    """

    creates: tuple[Create, ...] = ()
    applies: tuple[Apply, ...] = ()
    deletes: tuple[Delete, ...] = ()
    status: Json | None = None
    """The whole status that we own, or None to leave it."""
    events: tuple[Event, ...] = ()
    requeue_after: float | None = None
    """Seconds until a look without an event, or None."""
