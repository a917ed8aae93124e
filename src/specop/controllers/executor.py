"""Carries a plan out: creates, applies, deletes, status, events, in this order, and nothing that is done already.

It is: idempotent at every point. Killed after any write, the next reconcile of the same object does the rest.
It is not: a judge of what to do; the plan decided.

Skipping: a child carries the digest of the body that we last applied, so an equal body is not sent again; but if its
generation has moved since our own last write, somebody else changed it, and it is. One-field applies (scale, suspend)
are skipped where the child already has these values. Status is skipped when it equals what is stored.

A body that the API server refuses for good does not keep status from being written: it becomes `Stalled` there.
"""

from datetime import datetime
from typing import Any

from specop.api import reasons
from specop.api.shared import Json
from specop.common.clock import Clock, format_time
from specop.common.errors import Terminal
from specop.common.hashing import canonical_json, digest
from specop.common.names import ANNOTATION_HASH
from specop.controllers.intake import Intake
from specop.controllers.recorder import Recorder
from specop.domain.plan import Apply, Plan
from specop.kube.cache import Key, key_of
from specop.kube.port import Port
from specop.kube.resources import kind_named

_OWN = "specop"
_STATUS = "specop/status"


class Executor:
    """Writes to the API server, and tells the cache."""

    def __init__(self, port: Port, intake: Intake, recorder: Recorder, clock: Clock) -> None:
        self._port = port
        self._intake = intake
        self._recorder = recorder
        self._clock = clock
        self._generations: dict[str, int] = {}
        """By uid of a child: its generation after our last write."""
        self._held: set[Key] = set()
        """Objects whose status waits for the reconcile that sees their new children."""

    async def execute(self, key: Key, plan: Plan) -> None:
        """Do what the plan says, which was made from what the cache holds at this moment."""
        planned_on = self._intake.cache.get(key)
        if planned_on is None:
            self._held.discard(key)
            return
        status = plan.status
        try:
            if await self._children(plan) and self._holds(key, plan):
                return
        except Terminal as error:
            status = self._stalled(planned_on, status, error)
        if status is not None:
            await self._write_status(key, planned_on, status)
        for event in plan.events:
            await self._recorder.record(key, event)

    async def refuse(self, key: Key, error: Terminal) -> None:
        """Say in status that the object cannot be reconciled until it is changed."""
        stored = self._intake.cache.get(key)
        if stored is not None:
            await self._write_status(key, stored, self._stalled(stored, None, error))

    def _holds(self, key: Key, plan: Plan) -> bool:
        """Hold status and Events back for the next reconcile, which begins at once and can tell of the new children.

        Not twice in a row, and not if something was deleted: why it was may be known from status alone.
        """
        if plan.deletes or key in self._held:
            self._held.discard(key)
            return False
        self._held.add(key)
        self._intake.queue.add(key)
        return True

    def _stalled(self, stored: Json, status: Json | None, error: Terminal) -> Json:
        before: Json = status if status is not None else stored.get("status", {})
        return stalled(before, error, _generation(stored), self._clock())

    async def _write_status(self, key: Key, planned_on: Json, status: Json) -> None:
        """Apply the whole status, unless it is stored already.

        With the version that it was planned on: a user's edit in between is a Conflict, and so is a namesake. A uid
        alone is not enough, the server looks at that in writes of other kinds only.
        """
        self._held.discard(key)
        if _same(planned_on.get("status", {}), status):
            return
        metadata = {
            "name": key.name,
            "namespace": key.namespace,
            "uid": planned_on["metadata"]["uid"],
            "resourceVersion": planned_on["metadata"]["resourceVersion"],
        }
        body = {"apiVersion": planned_on["apiVersion"], "kind": key.kind, "metadata": metadata, "status": status}
        self._intake.seen(await self._port.apply_status(body, _STATUS))

    async def _children(self, plan: Plan) -> bool:
        """Create, apply, delete; True if anything was made or changed."""
        changed = False
        for create in plan.creates:
            made = await self._port.create(create.body)
            if made is not None:
                self._intake.seen(made)
                changed = True
        for apply in plan.applies:
            changed |= await self._apply(apply)
        for delete in plan.deletes:
            await self._port.delete(kind_named(delete.kind), delete.namespace, delete.name, delete.uid)
            self._generations.pop(delete.uid, None)
        return changed

    async def _apply(self, apply: Apply) -> bool:
        key = key_of(apply.body)
        known = self._intake.cache.get(key)
        body = marked(apply.body) if apply.manager == _OWN else apply.body
        if known is not None and self._is_done(known, body, apply.manager):
            return False
        if known is not None and apply.manager != _OWN:
            # Without a uid, a one-field apply to a child that is gone would be taken for a (broken) new child.
            body = {**body, "metadata": {**body["metadata"], "uid": known["metadata"]["uid"]}}
        result = await self._port.apply(body, apply.manager)
        self._generations[result["metadata"]["uid"]] = _generation(result)
        self._intake.seen(result)
        return True

    def _is_done(self, known: Json, body: Json, manager: str) -> bool:
        if manager != _OWN:
            return covers(known, body)
        metadata = known["metadata"]
        marks = {name: body["metadata"][name] for name in ("annotations", "labels") if name in body["metadata"]}
        if not covers(metadata, marks):
            return False
        return self._generations.get(metadata["uid"], _generation(known)) == _generation(known)


def marked(body: Json) -> Json:
    """Return the body with its own digest as annotation."""
    metadata = body["metadata"]
    annotations = {**metadata.get("annotations", {}), ANNOTATION_HASH: digest(body)}
    return {**body, "metadata": {**metadata, "annotations": annotations}}


def covers(known: Any, wanted: Any) -> bool:
    """Whether every value in `wanted` is in `known`, at the same place."""
    if isinstance(wanted, dict):
        return isinstance(known, dict) and all(name in known and covers(known[name], wanted[name]) for name in wanted)
    return bool(known == wanted)


def stalled(status: Json, error: Terminal, generation: int, now: datetime) -> Json:
    """Return a status that says `Stalled`, with the reason; all else as it was."""
    conditions = {condition["type"]: condition for condition in status.get("conditions", ())}
    before = conditions.get(reasons.STALLED, {})
    since = before.get("lastTransitionTime") if before.get("status") == "True" else None
    conditions.pop(reasons.RECONCILING, None)
    conditions[reasons.STALLED] = {
        "type": reasons.STALLED,
        "status": "True",
        "reason": error.reason,
        "message": error.message[:1024],
        "observedGeneration": generation,
        "lastTransitionTime": since or format_time(now),
    }
    return {**status, "observedGeneration": generation, "conditions": list(conditions.values())}


def _generation(body: Json) -> int:
    generation: int = body["metadata"].get("generation", 0)
    return generation


def _same(stored: Json, wanted: Json) -> bool:
    """Equal up to the order of conditions, which the API server does not keep."""
    return canonical_json(_ordered(stored)) == canonical_json(_ordered(wanted))


def _ordered(status: Json) -> Json:
    return {**status, "conditions": sorted(status.get("conditions", ()), key=lambda condition: str(condition["type"]))}
