"""Entry point: `python -m specop.operator.main`; or `kopf run operator/main.py` through `attach`."""

import asyncio
import signal
import sys
from typing import Any

import kopf

from specop.common import logging as specop_logging
from specop.operator import handlers
from specop.operator.app import App
from specop.operator.settings import Settings, load


def attach(registry: kopf.OperatorRegistry, settings: Settings) -> None:
    """Put the operator into the registry of a kopf that somebody else runs: it starts and stops with it."""
    app = App(settings)

    async def startup(settings: kopf.OperatorSettings, **_: Any) -> None:
        handlers.configure(settings)
        await app.start()

    async def cleanup(**_: Any) -> None:
        await app.stop()

    kopf.on.startup(registry=registry)(startup)
    kopf.on.cleanup(registry=registry)(cleanup)
    handlers.register(registry, seen=app.intake.seen, gone=app.intake.gone)


async def run(settings: Settings) -> bool:
    """Run until a signal comes; False if it ended because a part of it failed."""
    app = App(settings)
    signalled = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, signalled.set)
    starting = asyncio.create_task(app.start(watch=True))
    ends = [asyncio.create_task(event.wait()) for event in (signalled, app.failed)]
    try:
        await asyncio.wait((starting, *ends), return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (starting, *ends):
            task.cancel()
        await app.stop()
    return not app.failed.is_set()


def main() -> int:
    """Run the operator; 0 after a signal, 1 after a fault."""
    settings = load()
    specop_logging.setup(settings.log_level)
    return 0 if asyncio.run(run(settings)) else 1


if __name__ == "__main__":
    sys.exit(main())
