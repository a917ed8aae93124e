"""Which objects a dataset is read from, resolved once: URI, size and etag of each, in order.

A window of captures is absolute by the time it gets here; of its objects only the hours that it touches are listed.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

from specop.api import reasons
from specop.api.jobs import DatasetConfig, RegenerateConfig, SourceConfig
from specop.api.shared import TargetFacts
from specop.common.clock import parse_time
from specop.common.errors import UserError
from specop.data.detect import Format
from specop.data.intake import Selection
from specop.data.question import Anew
from specop.data.seeds import open_set
from specop.data.shards import find_shards
from specop.storage.base import ObjectInfo, Store
from specop.storage.stores import open_store
from specop.storage.uri import expand, join


@dataclass(frozen=True, slots=True)
class Window:
    """Captured requests with `since <= time < until`."""

    since: datetime
    until: datetime

    def __contains__(self, moment: datetime) -> bool:
        return self.since <= moment < self.until


@dataclass(frozen=True, slots=True)
class SourceObject:
    """One object of one source."""

    source: int
    """Index in the configuration."""
    name: str
    """Of the source."""
    store: Store
    info: ObjectInfo
    format: Format | None = None
    """None: by its first row."""
    window: Window | None = None


def selection(source: SourceConfig, regenerate: RegenerateConfig | None = None) -> Selection:
    """Say what a source takes of its rows."""
    wanted = source.filter
    names = frozenset({regenerate.model, *regenerate.target_names}) if regenerate else frozenset()
    return Selection(
        Window(parse_time(source.window.since), parse_time(source.window.until)) if source.window else None,
        tuple(Window(parse_time(period.since), parse_time(period.until)) for period in source.exclude_periods),
        frozenset(wanted.models),
        frozenset(wanted.statuses),
        frozenset(wanted.routes),
        frozenset(wanted.tenants),
        Anew(regenerate.mode, names) if regenerate else Anew(),
    )


def list_objects(
    config: DatasetConfig, target: TargetFacts, passed: Callable[[int], None] = lambda _: None
) -> list[SourceObject]:
    """Find the objects of all sources, in the order of the configuration and of their keys.

    `passed` is told of stored bytes that are read for it. Raises UserError: SourceEmpty, InvalidSpec, what
    `find_shards` raises, and what the store raises.
    """
    found = []
    for index, source in enumerate(config.sources):
        if source.seeds and not config.regenerate:
            raise UserError(
                reasons.INVALID_SPEC, f"Source {source.name!r} has prompts without answers: set spec.regenerate."
            )
        if source.dataset:
            store = open_store(source.dataset.uri, source.store or config.store)
            shards = find_shards(store, source.name, source.dataset, target, passed)
            found += [SourceObject(index, source.name, store, info, "DatasetRow") for info in shards]
            continue
        objects = [item for item in _of_source(config, index, source) if item.info.size]
        pattern = source.objects.uri if source.objects else source.seeds.uri if source.seeds else None
        if not objects and pattern:
            raise UserError(
                reasons.SOURCE_EMPTY,
                f"Source {source.name!r}: nothing but emptiness at {pattern}. Check the pattern; "
                "`*` does not cross a `/`, `**` does.",
            )
        found += objects
    return found


def _of_source(config: DatasetConfig, index: int, source: SourceConfig) -> Iterator[SourceObject]:
    if source.objects:
        store = open_store(source.objects.uri, source.store or config.store)
        stated: Format | None = None if source.objects.format == "Auto" else source.objects.format
        for info in expand(store, source.objects.uri):
            yield SourceObject(index, source.name, store, info, stated)
    elif source.seeds and source.seeds.uri:
        store = open_store(source.seeds.uri, source.store or config.store)
        for info in expand(store, source.seeds.uri):
            yield SourceObject(index, source.name, store, info, "Prompts")
    elif source.seeds and source.seeds.set:
        yield SourceObject(index, source.name, *open_set(source.seeds.set), "Prompts")
    elif source.window:
        store = open_store(source.window.prefix, source.store or config.store)
        window = Window(parse_time(source.window.since), parse_time(source.window.until))
        first, last = (_hour(source.window.prefix, moment) for moment in (window.since, window.until))
        # nothing of hours before: retention may be taking them away
        for info in store.list(join(source.window.prefix, "dt="), after=first):
            if info.uri[: len(last)] > last:
                return
            yield SourceObject(index, source.name, store, info, "Capture", window)


def _hour(prefix: str, moment: datetime) -> str:
    """Folder of what was captured in an hour."""
    return join(prefix, f"dt={moment:%Y-%m-%d}", f"hour={moment:%H}", "")
