"""What we know of the cluster: the newest copy of every watched object, in memory.

It is: fed by watch events, by the answers to our own writes, and by lists, which also prune what vanished while a watch
was broken.
It is not: a promise of freshness; plans must be right on stale input.

Races: the three sources arrive in any order. A copy never replaces one with a higher resource version (the server's
versions are integers that grow over all objects of a kind), so the answer to our own write is not undone by an older
event; and a removed object leaves its last version as a tombstone, so a late answer does not bring it back.

Interests: an object may name others that it looks at, which may not exist yet. `interested` finds it by what it named.
"""

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from specop.api.shared import Json
from specop.common.names import LABEL_KIND, LABEL_NAME
from specop.kube.port import Listing
from specop.kube.resources import MODELS, Kind

_TOMBSTONES = 10_000


class Key(NamedTuple):
    """An object by name. Cluster-scoped objects have the namespace ''."""

    kind: str
    namespace: str
    name: str


class Change(NamedTuple):
    """One accepted change of the cache."""

    before: Json | None
    after: Json | None


Topic = tuple[str, ...]
"""Something that an object can be interested in."""
Interests = Callable[[Json], Iterable[Topic]]


def key_of(body: Json) -> Key:
    """Return the key of an object."""
    metadata = body["metadata"]
    return Key(body["kind"], metadata.get("namespace", ""), metadata["name"])


def version_of(body: Json) -> int:
    """Return the resource version of an object as a number."""
    return int(body["metadata"]["resourceVersion"])


def _owner_of(body: Json) -> Key | None:
    """Return the object of ours that a child's labels name."""
    metadata = body["metadata"]
    labels = metadata.get("labels") or {}
    if LABEL_KIND not in labels or LABEL_NAME not in labels:
        return None
    return Key(labels[LABEL_KIND], metadata.get("namespace", ""), labels[LABEL_NAME])


class Cache:
    """Objects by kind, namespace and name; children by owner; objects by what they are interested in."""

    def __init__(self, interests: Interests = lambda _: ()) -> None:
        self._interests = interests
        self._objects: dict[Key, Json] = {}
        self._by_kind: dict[tuple[str, str], dict[Key, None]] = defaultdict(dict)
        self._children: dict[Key, dict[Key, None]] = defaultdict(dict)
        self._interested: dict[Topic, dict[Key, None]] = defaultdict(dict)
        self._models: dict[Key, tuple[int, Any]] = {}
        self._tombstones: OrderedDict[Key, int] = OrderedDict()

    def get(self, key: Key) -> Json | None:
        """Return the newest copy of an object."""
        return self._objects.get(key)

    def model(self, key: Key) -> Any | None:
        """Return the newest copy of an object of ours, parsed once a version; raises pydantic's ValidationError."""
        body = self._objects.get(key)
        if body is None:
            return None
        version = version_of(body)
        known = self._models.get(key)
        if known is None or known[0] != version:
            known = (version, MODELS[key.kind].model_validate(body))
            self._models[key] = known
        return known[1]

    def keys(self, kind: Kind, namespace: str | None = None) -> tuple[Key, ...]:
        """Keys of a kind, in a namespace or in all."""
        if namespace is not None:
            return tuple(self._by_kind.get((kind.name, namespace), ()))
        return tuple(key for (name, _), keys in self._by_kind.items() if name == kind.name for key in keys)

    def children(self, owner: Key) -> tuple[Json, ...]:
        """All objects whose labels name this owner, of all kinds."""
        return tuple(self._objects[key] for key in self._children.get(_label_key(owner), ()))

    def interested(self, topic: Topic) -> tuple[Key, ...]:
        """Objects that named this topic."""
        return tuple(self._interested.get(topic, ()))

    def put(self, body: Json) -> Change | None:
        """Take a copy in; None if it is not newer than what is known. The body belongs to the cache afterwards."""
        key = key_of(body)
        before = self._objects.get(key)
        known = version_of(before) if before is not None else self._tombstones.get(key, -1)
        if version_of(body) <= known:
            return None
        body["metadata"].pop("managedFields", None)
        if before is not None:
            self._unlink(key, before)
        self._tombstones.pop(key, None)
        self._objects[key] = body
        self._link(key, body)
        return Change(before, body)

    def remove(self, body: Json) -> Change | None:
        """Take the deletion of an object in; `body` is its last state. None if a newer one is known, or none."""
        return self._remove(key_of(body), version_of(body))

    def replace(self, kind: Kind, namespace: str | None, listing: Listing) -> list[Change]:
        """Take a list in: what it has is put, what it lacks and was known before it is removed."""
        changes = [self.put(body) for body in listing.items]
        listed = {key_of(body) for body in listing.items}
        changes += [self._remove(key, listing.version) for key in self.keys(kind, namespace) if key not in listed]
        return [change for change in changes if change is not None]

    def _remove(self, key: Key, version: int) -> Change | None:
        before = self._objects.get(key)
        if before is not None and version_of(before) > version:
            return None
        self._tombstones[key] = max(version, self._tombstones.pop(key, -1))
        if len(self._tombstones) > _TOMBSTONES:
            self._tombstones.popitem(last=False)
        if before is None:
            return None
        del self._objects[key]
        self._models.pop(key, None)
        self._unlink(key, before)
        return Change(before, None)

    def _links(self, key: Key, body: Json) -> Iterator[tuple[dict[Any, dict[Key, None]], Any]]:
        """Where an object is listed: index and entry."""
        yield self._by_kind, (key.kind, key.namespace)
        owner = _owner_of(body)
        if owner is not None:
            yield self._children, owner
        for topic in self._interests(body):
            yield self._interested, topic

    def _link(self, key: Key, body: Json) -> None:
        for index, entry in self._links(key, body):
            index[entry][key] = None

    def _unlink(self, key: Key, body: Json) -> None:
        for index, entry in self._links(key, body):
            index[entry].pop(key, None)
            if not index[entry]:
                del index[entry]


def _label_key(owner: Key) -> Key:
    """Labels carry the kind in lower case."""
    return owner._replace(kind=owner.kind.lower())
