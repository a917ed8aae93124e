"""Events on our objects, one object per reason and message: a repeated one counts up instead of piling up.

It is: best effort towards the reader, strict towards the server. The name of an Event is made from what it says, so two
operators, or one that was killed, write the same Event.
"""

from specop.api.shared import Json
from specop.common.clock import Clock, format_time
from specop.common.hashing import digest, short
from specop.common.names import MANAGED_BY
from specop.domain.plan import Event
from specop.kube.cache import Cache, Key
from specop.kube.port import Port
from specop.kube.resources import EVENT

_NAME_HASH = 16


class Recorder:
    """Posts Events."""

    def __init__(self, port: Port, cache: Cache, clock: Clock) -> None:
        self._port = port
        self._cache = cache
        self._clock = clock

    async def record(self, key: Key, event: Event) -> None:
        """Create the Event, or count it up if it exists. Nothing if the object is gone."""
        about = self._cache.get(key)
        if about is None:
            return
        body = self._body(about, event)
        if await self._port.create(body) is not None:
            return
        namespace, name = body["metadata"]["namespace"], body["metadata"]["name"]
        existing = await self._port.get(EVENT, namespace, name)
        if existing is not None:
            again = {"count": existing.get("count", 1) + 1, "lastTimestamp": body["lastTimestamp"]}
            await self._port.merge(EVENT, namespace, name, again)

    def _body(self, about: Json, event: Event) -> Json:
        metadata = about["metadata"]
        identity = digest([metadata["uid"], event.type, event.reason, event.message])
        now = format_time(self._clock())
        return {
            "apiVersion": EVENT.api_version,
            "kind": EVENT.name,
            "metadata": {
                "name": f"{metadata['name']}.{short(identity, _NAME_HASH)}",
                "namespace": metadata["namespace"],
            },
            "involvedObject": {
                "apiVersion": about["apiVersion"],
                "kind": about["kind"],
                "name": metadata["name"],
                "namespace": metadata["namespace"],
                "uid": metadata["uid"],
            },
            "type": event.type,
            "reason": event.reason,
            "message": event.message,
            "source": {"component": MANAGED_BY},
            "reportingComponent": MANAGED_BY,
            "count": 1,
            "firstTimestamp": now,
            "lastTimestamp": now,
        }
