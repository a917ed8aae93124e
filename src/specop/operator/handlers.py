"""kopf as an informer: every watched kind has one `on.event` handler that hands the object on.

It is: all of kopf that specop uses, and all settings of it. Nothing here can fail, because kopf drops what a handler of
this kind raises.
It is not: create, update, delete, timer, daemon or index handlers. Those write annotations and finalizers on users'
objects, or slow the start down. No object of a user gets anything from kopf.
"""

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import kopf

from specop.api.shared import Json
from specop.common.names import GROUP
from specop.kube.client import connection_of, load_configuration
from specop.kube.resources import WATCHED, Kind

_TOKEN_LIFE = timedelta(minutes=5)
"""ServiceAccount tokens rotate: kopf asks for the connection again after this time."""

Deliver = Callable[[Json], object]


def register(registry: kopf.OperatorRegistry, *, seen: Deliver, gone: Deliver) -> None:
    """Add the login and the event handlers to a registry: `seen` is told what exists, `gone` what was deleted."""
    kopf.on.login(registry=registry)(_login)
    for kind in WATCHED:
        _watch(registry, kind, seen, gone)


async def _login(**_: Any) -> kopf.ConnectionInfo:
    connection = await connection_of(await load_configuration())
    return kopf.ConnectionInfo(
        server=connection.server,
        ca_path=connection.ca_path,
        certificate_path=connection.certificate_path,
        private_key_path=connection.private_key_path,
        token=connection.token,
        expiration=datetime.now(UTC) + _TOKEN_LIFE if connection.token else None,
    )


def _watch(registry: kopf.OperatorRegistry, kind: Kind, seen: Deliver, gone: Deliver) -> None:
    async def on_event(event: kopf.RawEvent, **_: Any) -> None:
        body: Json = {"apiVersion": kind.api_version, "kind": kind.name, **event["object"]}
        (gone if event["type"] == "DELETED" else seen)(body)

    kopf.on.event(kind.group, _version(kind), kind.plural, id=f"seen-{kind.plural}", registry=registry)(on_event)


def _version(kind: Kind) -> str:
    return kind.api_version.rpartition("/")[2]


def settings() -> kopf.OperatorSettings:
    """Return kopf's settings as specop wants them."""
    made = kopf.OperatorSettings()
    configure(made)
    return made


def configure(settings: kopf.OperatorSettings) -> None:
    """Set every kopf setting that differs from its default, and say why."""
    # kopf notes each event of each object; our own log tells what was done.
    logging.getLogger("kopf").setLevel(logging.WARNING)
    # No peering: a stranger's peering object must not pause us.
    settings.peering.standalone = True
    # The chart installs CRDs first; watching CRDs and namespaces would need rights that we do not want.
    settings.scanning.disabled = True
    # Children only, filtered by the server: else all pods of the cluster would be streamed.
    for kind in WATCHED:
        if kind.selector:
            settings.watching.label_selectors[kind.group, _version(kind), kind.plural] = kind.selector
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
