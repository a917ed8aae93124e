"""The run's own log in object storage: `<output>/runs/<uid>/events.jsonl`, one JSON object a line.

    {"time", "event": "started",    "attempt", "device", "peakTflops", "mflopsPerToken"}
    {"time", "event": "stage",      "stage"}
    {"time", "event": "rows",       "learned", "cut", "dropped", "unlabelled"}
    {"time", "event": "training",   "step", "tokens", "loss", "tokensPerSecond", "mfuPercent", "memoryMib"}
    {"time", "event": "evaluation", "step", "tokens", "seconds", "loss", "acceptanceLength", …}
    {"time", "event": "ended",      "reason"}

Object storage cannot append, so the whole object, at most a few hundred kB, is written again at each evaluation and at
the end. A later attempt begins with what lies there; a step that it does again after an older checkpoint is not logged
twice. What a kill can lose is what was logged since the last evaluation; nothing that is finished. Two attempts at once
(a lost node) overwrite each other's log; the one that ends last stays. Counts and rates only, never content.
"""

import json
import logging
from typing import Any

from specop.common.clock import Clock, format_time
from specop.common.errors import SpecopError
from specop.storage.base import NotFound, Store
from specop.trainer.checkpoint import Progress

log = logging.getLogger(__name__)

Event = dict[str, Any]


class Events:
    """What happened in a run so far, over all its attempts."""

    def __init__(self, store: Store, uri: str, clock: Clock) -> None:
        """Read what earlier attempts wrote to `uri`."""
        self._store = store
        self._uri = uri
        self._clock = clock
        self.all = _read(store, uri)
        self.attempt = sum(event["event"] == "started" for event in self.all) + 1

    def add(self, event: str, **figures: Any) -> None:
        """Log an event now."""
        self.all.append({"time": format_time(self._clock()), "event": event, **figures})

    def training(self, step: int, **figures: Any) -> bool:
        """Log where training stands, unless this step, or a later one, is there already. Whether it was logged."""
        return self._once("training", step, figures)

    def evaluations(self, progress: Progress) -> list[Event]:
        """Log the evaluations that are new, and return them."""
        return [
            self.all[-1]
            for point in progress.curve
            if self._once("evaluation", int(point["step"]), {k: v for k, v in point.items() if k != "step"})
        ]

    def write(self) -> None:
        """Put the object; what fails is logged and put again the next time."""
        text = "".join(json.dumps(event, separators=(",", ":")) + "\n" for event in self.all)
        try:
            self._store.put(self._uri, text.encode())
        except SpecopError as error:
            log.warning("events.jsonl was not written: %s", error)

    def _once(self, event: str, step: int, figures: dict[str, Any]) -> bool:
        newest = next((known["step"] for known in reversed(self.all) if known["event"] == event), -1)
        if step <= newest:
            return False
        self.add(event, step=step, **figures)
        return True


def _read(store: Store, uri: str) -> list[Event]:
    try:
        return [json.loads(line) for line in store.get(uri).splitlines()]
    except (NotFound, ValueError):
        return []
