"""What of kopf is used, and what never is."""

import asyncio
from typing import Any

import kopf
import pytest

from specop.kube.resources import WATCHED
from specop.operator import handlers

Json = dict[str, Any]


def registered() -> tuple[kopf.OperatorRegistry, list[Json], list[Json]]:
    registry, seen, gone = kopf.OperatorRegistry(), [], []
    handlers.register(registry, seen=seen.append, gone=gone.append)
    return registry, seen, gone


def test_nothing_that_writes_to_users_objects_is_registered() -> None:
    registry, _, _ = registered()
    for kind in ("_changing", "_spawning", "_indexing", "_webhooks"):
        assert list(getattr(registry, kind).get_all_handlers()) == []
    watched = {
        handler.selector.any_name or handler.selector.plural for handler in registry._watching.get_all_handlers()
    }
    assert watched == {kind.plural for kind in WATCHED}


@pytest.mark.parametrize("event", [None, "ADDED", "MODIFIED", "DELETED"])
def test_an_event_is_handed_on_with_the_kind_that_lists_leave_out(event: str | None) -> None:
    registry, seen, gone = registered()
    handler = next(each for each in registry._watching.get_all_handlers() if each.id == "seen-pods")
    asyncio.run(handler.fn(event={"type": event, "object": {"metadata": {"name": "a"}}}))  # type: ignore[arg-type]
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}}
    assert (seen, gone) == (([], [body]) if event == "DELETED" else ([body], []))


def test_settings() -> None:
    settings = handlers.settings()
    assert settings.peering.standalone
    assert settings.scanning.disabled
    assert not settings.posting.enabled
    assert settings.persistence.finalizer == "specop.dev/finalizer"
    assert max(settings.queueing.error_delays) <= 60
    assert settings.process.ultimate_exiting_timeout == 25
    selectors = dict(settings.watching.label_selectors)
    children = {kind.plural for kind in WATCHED if not kind.ours}
    assert {selector.any_name or selector.plural for selector in selectors} == children
    assert set(selectors.values()) == {"app.kubernetes.io/managed-by=specop"}
