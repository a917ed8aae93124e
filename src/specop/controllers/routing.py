"""Which reconciles a change calls for.

An object is reconciled when it changes, when a child of it changes, and when something changes that it looks at by
name. For the last, every object names the topics it is interested in, and every change has topics of its own. What an
object names need not exist yet: objects may be created in any order.
"""

from collections.abc import Iterator
from typing import Any

from specop.api.reasons import WAITING_FOR_REQUESTS
from specop.api.shared import Json
from specop.common.names import LABEL_KIND, LABEL_NAME
from specop.kube.cache import Cache, Change, Key, Topic, key_of
from specop.kube.resources import DATASET, DRAFTER, ENDPOINT, PRESET, RECONCILED, TRAINING_JOB

_RECONCILED = {kind.name: kind for kind in RECONCILED}
_BY_LABEL = {kind.name.lower(): kind.name for kind in RECONCILED}

ALL_DRAFTERS = "*"


def _at(body: Json, *path: str) -> Any:
    """Return a nested value of raw JSON, or None: an event may bring anything, and a handler must not fail."""
    value: Any = body
    for part in path:
        if not isinstance(value, dict):
            return None
        value = value.get(part)
    return value


def interests(body: Json) -> Iterator[Topic]:
    """Return what an object looks at, beside itself and its children."""
    kind, namespace, name = key_of(body)
    if kind == DATASET.name:
        yield from _of_dataset(body, namespace)
    elif kind == TRAINING_JOB.name:
        yield DATASET.name, namespace, _at(body, "spec", "datasetRef", "name")
        yield PRESET.name, "", _at(body, "spec", "preset")
        yield DRAFTER.name, namespace, name
        if parent := _at(body, "spec", "warmStart", "drafterRef", "name"):
            yield DRAFTER.name, namespace, parent
    elif kind == DRAFTER.name:
        if job := _at(body, "spec", "lineage", "trainingJob", "name"):
            yield TRAINING_JOB.name, namespace, job
        if digest := _at(body, "status", "digest"):
            yield "approval", namespace, digest
    elif kind == ENDPOINT.name and _at(body, "spec", "drafter", "from") is not None:
        yield DRAFTER.name, namespace, ALL_DRAFTERS


def _of_dataset(body: Json, namespace: str) -> Iterator[Topic]:
    sources = _at(body, "spec", "sources") or ()
    for user in (*(_at(source, "requestLog") for source in sources), _at(body, "spec", "regenerate")):
        if endpoint := _at(user, "endpointRef", "name"):
            yield ENDPOINT.name, namespace, endpoint
    for source in sources:
        if dataset := _at(source, "datasetRef", "name"):
            yield DATASET.name, namespace, dataset


def _topics(body: Json) -> Iterator[Topic]:
    """Return what a change of this object is news about."""
    kind, namespace, name = key_of(body)
    yield kind, namespace, name
    if kind == DRAFTER.name:
        yield kind, namespace, ALL_DRAFTERS
    if kind == ENDPOINT.name:
        for approval in _at(body, "spec", "drafter", "approval", "approvals") or ():
            yield "approval", namespace, _at(approval, "digest")


def owner_of(body: Json) -> Key | None:
    """Return the key whose reconcile looks after this object: its own, or that of the owner in its labels."""
    key = key_of(body)
    if key.kind in _RECONCILED:
        return key
    labels = _at(body, "metadata", "labels") or {}
    kind = _BY_LABEL.get(labels.get(LABEL_KIND, ""))
    return Key(kind, key.namespace, labels[LABEL_NAME]) if kind is not None and LABEL_NAME in labels else None


def is_awaited(cache: Cache, endpoint: Key) -> bool:
    """Whether a dataset waits for what this endpoint captures."""
    for key in cache.interested(tuple(endpoint)):
        conditions = _at(cache.get(key) or {}, "status", "conditions") or ()
        if key.kind == DATASET.name and any(_at(each, "reason") == WAITING_FOR_REQUESTS for each in conditions):
            return True
    return False


def topics(change: Change) -> set[Topic]:
    """All topics of a change: of the object as it was, and as it is."""
    return {topic for body in change if body is not None for topic in _topics(body)}


def owners(change: Change) -> set[Key]:
    """Return the keys that a change concerns directly."""
    return {owner for body in change if body is not None and (owner := owner_of(body)) is not None}
