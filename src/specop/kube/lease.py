"""A Lease that at most one replica holds: the others stand by.

It is: a standby guard. Gain it before anything is watched; whoever cannot renew it in time must end its process.
It is not: what keeps two operators from harm. Deterministic names and server-side apply do that; a short overlap is
harmless.

Clocks of replicas may differ: a holder counts as gone when its record has not *changed* for the duration, by our own
clock.
"""

import asyncio
import logging
from datetime import UTC, datetime

from specop.api.shared import Json
from specop.common.errors import Conflict, Retryable, SpecopError
from specop.kube.port import Port
from specop.kube.resources import LEASE

_logger = logging.getLogger(__name__)


class LeaseLost(SpecopError):
    """Another replica may have taken over."""


class Lease:
    """One Lease object and this replica's identity."""

    def __init__(self, port: Port, namespace: str, name: str, identity: str, *, duration_seconds: int = 15) -> None:
        self._port = port
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._duration = duration_seconds
        self._seen: tuple[str, float] | None = None

    async def acquire(self) -> None:
        """Wait until the Lease is ours."""
        while not await self._try_patiently():  # noqa: ASYNC110 - the other holder is another process
            await asyncio.sleep(self._duration / 5)
        _logger.info("holding lease %s/%s as %s", self._namespace, self._name, self._identity)

    async def hold(self) -> None:
        """Renew until it fails for a whole duration, or another holds it; then raise LeaseLost."""
        loop = asyncio.get_running_loop()
        renewed = loop.time()
        while loop.time() - renewed < self._duration * 2 / 3:
            await asyncio.sleep(self._duration / 5)
            started = loop.time()
            held = await self._try_patiently()
            if held is False:
                break
            if held:
                renewed = started
        raise LeaseLost(f"lease {self._namespace}/{self._name} is no longer ours")

    async def release(self) -> None:
        """Give it up at once, so that a standby need not wait."""
        current = await self._port.get(LEASE, self._namespace, self._name)
        if current is not None and current["spec"].get("holderIdentity") == self._identity:
            await self._write("", version=current["metadata"]["resourceVersion"])

    async def _try_patiently(self) -> bool | None:
        """Take or renew; None if the API server could not be asked."""
        try:
            return await self._try()
        except Retryable as error:
            _logger.warning("lease %s/%s: %s", self._namespace, self._name, error)
            return None

    async def _try(self) -> bool:
        """Take or renew; False while another holds it."""
        current = await self._port.get(LEASE, self._namespace, self._name)
        if current is None:
            return await self._port.create(self._body(self._identity)) is not None
        holder = current["spec"].get("holderIdentity", "")
        if holder not in ("", self._identity) and not self._expired(current["metadata"]["resourceVersion"]):
            return False
        try:
            await self._write(self._identity, version=current["metadata"]["resourceVersion"])
        except Conflict:
            return False
        return True

    def _expired(self, version: str) -> bool:
        now = asyncio.get_running_loop().time()
        if self._seen is None or self._seen[0] != version:
            self._seen = (version, now)
        return now - self._seen[1] > self._duration

    async def _write(self, holder: str, *, version: str) -> None:
        body = self._body(holder)
        # With a resource version, an apply is refused if another replica wrote since we read.
        body["metadata"]["resourceVersion"] = version
        await self._port.apply(body, "specop/lease")

    def _body(self, holder: str) -> Json:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return {
            "apiVersion": LEASE.api_version,
            "kind": LEASE.name,
            "metadata": {"namespace": self._namespace, "name": self._name},
            "spec": {"holderIdentity": holder, "leaseDurationSeconds": self._duration, "renewTime": now},
        }
