"""An API server in memory behind the same port as the real one: for property tests, with thousands of runs.

It has: resource versions, uids, generations, field ownership of server-side apply (maps by key, lists whole, conditions
by type), `/status` apart, 404/409 as the real one, owner references with garbage collection, watch events in order,
faults on request. The contract tests run on it and on the real server; what they do not cover, it does not promise.
"""

import copy
import itertools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from specop.api import reasons
from specop.common.errors import Conflict, Terminal
from specop.kube.cache import Key, key_of
from specop.kube.port import Listing
from specop.kube.resources import Kind, kind_named

Json = dict[str, Any]
T = TypeVar("T")
Path = tuple[str, ...]
Watcher = Callable[[str, Json], None]
Fault = Callable[[str, Key], None]
"""Called before and after every write with the verb and the key; what it raises, the caller gets."""

LIST_KEYS = {"conditions": "type", "arms": "name", "failed": "digest", "windows": "source", "setBy": "name"}
"""Lists that are merged by a key; all others belong to one manager as a whole."""


class FakeKube:
    """Implements `Port`."""

    def __init__(self) -> None:
        self._objects: dict[Key, Json] = {}
        self._owned: dict[Key, dict[str, set[Path]]] = {}
        self._versions = itertools.count(1)
        self._version = 0
        self._uids = (f"uid-{number}" for number in itertools.count(1))
        self.watchers: list[Watcher] = []
        self.before: Fault = lambda _verb, _key: None
        self.after: Fault = lambda _verb, _key: None
        self.writes: list[tuple[str, Key]] = []

    # --- the port

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Json | None:
        found = self._objects.get(Key(kind.name, namespace or "", name))
        return copy.deepcopy(found)

    async def list(self, kind: Kind, namespace: str | None = None, selector: str = "") -> Listing:
        wanted = dict(part.split("=", 1) for part in selector.split(",") if part)
        items = [
            copy.deepcopy(body)
            for key, body in sorted(self._objects.items())
            if key.kind == kind.name
            and namespace in (None, key.namespace)
            and wanted.items() <= body["metadata"].get("labels", {}).items()
        ]
        return Listing(tuple(items), self._version)

    async def create(self, body: Json) -> Json | None:
        key = key_of(body)
        return self._written("create", key, lambda: None if key in self._objects else self.put(body))

    async def apply(self, body: Json, manager: str) -> Json:
        key = key_of(body)

        def write() -> Json:
            existing = self._objects.get(key)
            self._check_preconditions(existing, body)
            owned = {field: value for field, value in _leaves(body).items() if field[0] != "status"}
            if existing is None:
                self._owned[key] = {manager: set(owned)}
                return self.put(body)
            return self._merge(key, existing, owned, manager)

        return self._written("apply", key, write)

    async def apply_status(self, body: Json, manager: str) -> Json:
        key = key_of(body)

        def write() -> Json:
            existing = self._objects.get(key)
            if existing is None:
                raise Conflict("not found")
            self._check_preconditions(existing, body)
            owned = {field: value for field, value in _leaves(body).items() if field[0] == "status"}
            return self._merge(key, existing, owned, manager)

        return self._written("apply_status", key, write)

    async def merge(self, kind: Kind, namespace: str, name: str, patch: Json) -> None:
        key = Key(kind.name, namespace, name)

        def write() -> None:
            if key not in self._objects:
                raise Conflict("not found")
            self._store(key, {**self._objects[key], **patch})

        self._written("patch", key, write)

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str) -> None:
        key = Key(kind.name, namespace, name)

        def write() -> None:
            existing = self._objects.get(key)
            if existing is not None and existing["metadata"]["uid"] == uid:
                self.remove(key)

        self._written("delete", key, write)

    # --- what others do to the cluster

    def put(self, body: Json) -> Json:
        """Create an object."""
        key, body = key_of(body), copy.deepcopy(body)
        version = self._next()
        body["metadata"] |= {"uid": next(self._uids), "generation": 1, "creationTimestamp": _time(version)}
        if key.kind == "Deployment":
            body["spec"].setdefault("replicas", 1)
        if kind_named(key.kind).ours:
            body["status"] = {"observedGeneration": -1}
        return self._emit("ADDED", key, body, version)

    def change(self, key: Key, **parts: Any) -> Json:
        """Change spec or status of an object, as a user or a controller does."""
        return self._store(key, {**self._objects[key], **copy.deepcopy(parts)})

    def remove(self, key: Key) -> None:
        """Delete an object, and what it owns."""
        body = self._objects.pop(key)
        self._owned.pop(key, None)
        last = copy.deepcopy(body)
        last["metadata"]["resourceVersion"] = str(self._next())
        self._tell("DELETED", last)
        uid = body["metadata"]["uid"]
        for child in [child for child, owned in self._objects.items() if _is_owned(owned, uid)]:
            if child in self._objects:
                self.remove(child)

    def all(self, kind: str) -> Iterator[Json]:
        """All objects of a kind."""
        return (copy.deepcopy(body) for key, body in sorted(self._objects.items()) if key.kind == kind)

    # --- inside

    def _written(self, verb: str, key: Key, write: Callable[[], T]) -> T:
        self.before(verb, key)
        result = write()
        self.writes.append((verb, key))
        self.after(verb, key)
        return copy.deepcopy(result)

    def _check_preconditions(self, existing: Json | None, body: Json) -> None:
        for field in ("uid", "resourceVersion"):
            wanted = body["metadata"].get(field)
            if wanted is not None and (existing is None or existing["metadata"][field] != wanted):
                raise Conflict(f"{field} mismatch")
        if body["kind"] == "Job" and existing is None and "template" not in body.get("spec", {}):
            raise Terminal(reasons.INVALID_SPEC, "spec.template: Required value")

    def _merge(self, key: Key, existing: Json, owned: dict[Path, Any], manager: str) -> Json:
        managers = self._owned.setdefault(key, {})
        merged = copy.deepcopy(existing)
        for field in managers.get(manager, set()) - set(owned):
            if not any(field in others for name, others in managers.items() if name != manager):
                _delete(merged, field)
        for field, value in owned.items():
            _set(merged, field, value)
        for name, others in managers.items():
            if name != manager:
                others -= set(owned)  # forced
        managers[manager] = set(owned)
        return self._store(key, merged)

    def _store(self, key: Key, body: Json) -> Json:
        before = self._objects[key]
        if body == before:
            return before
        body = copy.deepcopy(body)
        generation = before["metadata"]["generation"] + (body.get("spec") != before.get("spec"))
        body["metadata"] = {**body["metadata"], "generation": generation}
        return self._emit("MODIFIED", key, body, self._next())

    def _emit(self, event: str, key: Key, body: Json, version: int) -> Json:
        body["metadata"]["resourceVersion"] = str(version)
        self._objects[key] = body
        self._tell(event, body)
        return body

    def _tell(self, event: str, body: Json) -> None:
        for watcher in self.watchers:
            watcher(event, copy.deepcopy(body))

    def _next(self) -> int:
        self._version = next(self._versions)
        return self._version


def _time(version: int) -> str:
    return f"2026-01-01T{version // 3600 % 24:02}:{version // 60 % 60:02}:{version % 60:02}Z"


def _is_owned(body: Json, uid: str) -> bool:
    return any(owner["uid"] == uid for owner in body["metadata"].get("ownerReferences", ()))


def _leaves(value: Any, path: Path = ()) -> dict[Path, Any]:
    """Fields that a manager owns: scalars and atomic lists by path; items of keyed lists by their key."""
    if path[:1] == ("metadata",) and path[1:] in {("uid",), ("resourceVersion",), ("name",), ("namespace",)}:
        return {}
    if path in {("apiVersion",), ("kind",)}:
        return {}
    if isinstance(value, dict) and value:
        return {k: v for name, item in value.items() for k, v in _leaves(item, (*path, name)).items()}
    key = LIST_KEYS.get(path[-1]) if path and isinstance(value, list) else None
    if key is not None:
        return {(*path, f"{key}={item[key]}"): item for item in value} or {path: []}
    return {path: copy.deepcopy(value)}


def _set(body: Json, path: Path, value: Any) -> None:
    *parents, last = path
    for part in parents[:-1] if "=" in last else parents:
        body = body.setdefault(part, {})
    if "=" in last:
        items = body.setdefault(parents[-1], [])
        key, name = last.split("=", 1)
        position = next((i for i, item in enumerate(items) if item[key] == name), len(items))
        items[position : position + 1] = [copy.deepcopy(value)]
    else:
        body[last] = copy.deepcopy(value)


def _delete(body: Json, path: Path) -> None:
    *parents, last = path
    chain: list[Any] = [body]
    for part in parents:
        following = chain[-1].get(part) if isinstance(chain[-1], dict) else None
        if following is None:
            return
        chain.append(following)
    if "=" in last:
        key, name = last.split("=", 1)
        chain[-1][:] = [item for item in chain[-1] if item[key] != name]
    else:
        chain[-1].pop(last, None)
    for parent, part in reversed(list(zip(chain, parents, strict=False))):
        if parent.get(part) in ({}, []):
            del parent[part]
