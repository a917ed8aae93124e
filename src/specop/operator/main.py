"""Entry point: `python -m specop.operator.main`, with kopf inside; or `kopf run operator/main.py` through `attach`."""

import asyncio
import sys
from typing import Any

import kopf

from specop.common import logging as specop_logging
from specop.operator import handlers
from specop.operator.app import App
from specop.operator.settings import Settings, load


def attach(registry: kopf.OperatorRegistry, settings: Settings) -> App:
    """Put the operator into a kopf registry: it starts and stops with kopf."""
    app = App(settings)

    async def startup(settings: kopf.OperatorSettings, **_: Any) -> None:
        handlers.configure(settings)
        await app.start()

    async def cleanup(**_: Any) -> None:
        await app.stop()

    kopf.on.startup(registry=registry)(startup)
    kopf.on.cleanup(registry=registry)(cleanup)
    handlers.register(registry, app.intake, app.connect)
    return app


async def run(settings: Settings) -> bool:
    """Run until a signal comes; False if it ended because a part of it failed."""
    registry = kopf.OperatorRegistry()
    app = attach(registry, settings)
    await kopf.operator(
        registry=registry,
        clusterwide=not settings.watch_namespaces,
        namespaces=settings.watch_namespaces,
        stop_flag=app.failed,
    )
    return not app.failed.is_set()


def main() -> int:
    """Run the operator; 0 after a signal, 1 after a fault."""
    settings = load()
    specop_logging.setup(settings.log_level)
    return 0 if asyncio.run(run(settings)) else 1


if __name__ == "__main__":
    sys.exit(main())
