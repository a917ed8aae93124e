"""kopf as an informer: every watched kind has one `on.event` handler that hands the object to the intake.

It is: all of kopf that specop uses, and all settings of it. Nothing here can fail, because kopf drops what a handler of
this kind raises.
It is not: create, update, delete, timer, daemon or index handlers. Those write annotations and finalizers on users'
objects, or slow the start down. No object of a user gets anything from kopf.
"""

import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import kopf

from specop.common.names import GROUP
from specop.controllers.intake import Intake
from specop.kube.client import Connection
from specop.kube.resources import WATCHED, Kind

_TOKEN_LIFE = timedelta(minutes=5)
"""ServiceAccount tokens rotate: kopf asks for the connection again after this time."""


def register(registry: kopf.OperatorRegistry, intake: Intake, connect: Callable[[], Awaitable[Connection]]) -> None:
    """Add the login and the event handlers to a registry."""

    async def login(**_: Any) -> kopf.ConnectionInfo:
        connection = await connect()
        return kopf.ConnectionInfo(
            server=connection.server,
            ca_path=connection.ca_path,
            certificate_path=connection.certificate_path,
            private_key_path=connection.private_key_path,
            token=connection.token,
            expiration=datetime.now(UTC) + _TOKEN_LIFE if connection.token else None,
        )

    kopf.on.login(registry=registry)(login)
    for kind in WATCHED:
        _watch(registry, intake, kind)


def _watch(registry: kopf.OperatorRegistry, intake: Intake, kind: Kind) -> None:
    async def on_event(event: kopf.RawEvent, **_: Any) -> None:
        body: dict[str, Any] = {"apiVersion": kind.api_version, "kind": kind.name, **event["object"]}
        if event["type"] == "DELETED":
            intake.gone(body)
        else:
            intake.seen(body)

    version = kind.api_version.rpartition("/")[2]
    kopf.on.event(kind.group, version, kind.plural, id=f"seen-{kind.plural}", registry=registry)(on_event)


def configure(settings: kopf.OperatorSettings) -> None:
    """Set every kopf setting that differs from its default, and say why."""
    # kopf notes each event of each object; our own log tells what was done.
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)
    # No peering: a stranger's peering object must not pause us.
    settings.peering.standalone = True
    # The chart installs CRDs first; watching CRDs and namespaces would need rights that we do not want.
    settings.scanning.disabled = True
    # Children only, filtered by the server: else all pods of the cluster would be streamed.
    for kind in WATCHED:
        if kind.selector:
            version = kind.api_version.rpartition("/")[2]
            settings.watching.label_selectors[kind.group, version, kind.plural] = kind.selector
    settings.watching.chunk_size = 500
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 5
    # While kopf throttles an object after an error of its own, it drops that object's events.
    settings.queueing.error_delays = (1, 2, 5, 10, 30, 60)
    # Events are recorded by the executor.
    settings.posting.enabled = False
    settings.posting.level = logging.WARNING
    # Never written with the handlers that we have; should one be added, the names are ours.
    settings.persistence.finalizer = f"{GROUP}/finalizer"
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=GROUP, v1=False)
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=GROUP, v1=False)
    # The pod has 30 s after SIGTERM.
    settings.process.ultimate_exiting_timeout = 25
