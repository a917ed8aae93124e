"""The shell around every process of a Job: what it is told, what it shows while it works, how it ends.

A work function gets its configuration and a `Job`, and returns facts or raises. This module does the rest: result.json
is written once and adopted by every later attempt; the termination message repeats it for the operator, which holds no
storage credentials; the exit code tells the Job controller whether another attempt can help.

    0    facts                      result.json, termination message
    64   UserError                  termination message only: what a user mends outside the object may be tried again
    75   Preempted, after SIGTERM   nothing; another pod goes on
    1    anything else              termination message where the cause has a reason; the Job's back-off applies

Races: two attempts may run at once (a lost node). Both may finish; `put_if_absent` decides which result counts, and the
other repeats it.

Of several ranks (torchrun) only rank 0 speaks of success and of itself while it works. The others return None when
rank 0 has ended, and what they end with depends on whether there is a result then: a pod that ended well is not started
again, and rank 0 could not go on without it. A failure is told by whoever has it.
"""

import argparse
import errno
import logging
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, Literal, TypeVar

from prometheus_client import CollectorRegistry
from pydantic import ValidationError

from specop.api import reasons
from specop.api.base import Model, Observed
from specop.api.jobs import CONFIG_ENV, PROGRESS_PORT, TERMINATION_LOG, WORK_DIR, Outcome, RunConfig
from specop.common import logging as json_logging
from specop.common.errors import EXIT_OK, EXIT_PREEMPTED, EXIT_USER_ERROR, SpecopError, Unreachable, UserError
from specop.storage.base import NotFound, Store
from specop.storage.page import ProgressPage
from specop.storage.stores import open_store
from specop.storage.uri import join

log = logging.getLogger(__name__)

Kind = Literal["dataset", "training", "inspect", "fetch"]
MAX_TERMINATION_BYTES = 4096
"""The kubelet cuts what is longer."""
_MAX_MESSAGE = 1000
"""Characters; `Outcome` takes 1024."""
EXIT_RETRY = 1

PATIENCE_SECONDS = 900.0
"""How long a store, or whoever else is asked, may be gone in a long work."""
RETRY_SECONDS = 5.0

T = TypeVar("T")
ConfigT = TypeVar("ConfigT", bound=Model)


class Preempted(SpecopError):
    """SIGTERM came, and everything worth keeping is saved."""

    def __init__(self, why: str = "SIGTERM came, and everything is saved") -> None:
        super().__init__(why)


class Job(Generic[ConfigT]):
    """What a work function may use of its surroundings."""

    def __init__(self, config: ConfigT, work_dir: Path) -> None:
        self.config = config
        self.work_dir = work_dir
        """Scratch space on disk; empty at the start of a pod, not of a container."""
        self.registry = CollectorRegistry()
        """Metrics that `/metrics` shows."""
        self.stopping = threading.Event()
        """Set by SIGTERM: save what is worth keeping and raise `Preempted`."""
        self.page = ProgressPage(self.registry)

    def report(self, progress: Observed) -> None:
        """Show this on `/progress` from now on. Cheap; call it as often as is convenient."""
        self.page.body = progress.to_json()

    def check(self) -> None:
        """Raise `Preempted` once SIGTERM has come: for work that has nothing to save."""
        if self.stopping.is_set():
            raise Preempted

    def patiently(self, action: Callable[[], T]) -> T:
        """Do this again and again while there is no answer: for what must not be lost at the end of hours.

        Raises Unreachable after `PATIENCE_SECONDS`, Preempted at SIGTERM. Safe from several threads.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return action()
            except Unreachable as error:
                if time.monotonic() > deadline:
                    raise
                log.warning("tried again: %s", error)
                self.stopping.wait(RETRY_SECONDS)
                self.check()


Work = Callable[[ConfigT, Job[ConfigT]], Observed | None]


def run_job(
    kind: Kind,
    config_type: type[ConfigT],
    work: Work[ConfigT],
    argv: Sequence[str] | None = None,
    *,
    private: bool = False,
) -> int:
    """Run one Job's process from its command line and return its exit code.

    `work(config, job)` returns the facts that `Outcome` has a field for under `kind` (None for fetch). With `private`,
    messages of unexpected exceptions stay out of the log, because they may quote traffic.
    """
    options = _options(argv)
    json_logging.setup()
    leader = os.environ.get("RANK", "0") == "0"
    ended = _Ending(kind, options.termination_log, leader=leader)
    try:
        options.work.mkdir(parents=True, exist_ok=True)
        job = Job(_config(config_type, options.config), options.work)
        shown = leader and isinstance(job.config, RunConfig)
        with _sigterm_sets(job.stopping), job.page.serving(options.port if shown else None):
            return _run(job, work, ended, leader=leader)
    except Preempted as error:
        log.info("stopped: %s", error)
        return EXIT_PREEMPTED
    except Exception as error:  # noqa: BLE001 - the outermost frame: whatever it is becomes an exit code
        return ended.failed(error, private=private)


def _run(job: Job[ConfigT], work: Work[ConfigT], ended: "_Ending", *, leader: bool) -> int:
    config = job.config
    if not isinstance(config, RunConfig):
        work(config, job)
        return ended.succeeded(Outcome(kind=ended.kind, ok=True))
    store = open_store(config.output, config.store)
    uri = join(config.output, "runs", config.uid, "result.json")
    known = _known_result(store, uri)  # at once or not at all: nothing can be lost yet, and a wrong address is told
    if known is None:
        facts = work(config, job)
        if not leader:
            return ended.followed(job.patiently(lambda: _known_result(store, uri)))
        made = Outcome.model_validate({"kind": ended.kind, "ok": True, ended.kind: facts})
        known = job.patiently(lambda: _published(store, uri, made))
    else:
        log.info("%s is there already: adopted", uri)
    return ended.succeeded(known)


def _published(store: Store, uri: str, made: Outcome) -> Outcome:
    """Write a result unless one is there, and return the one that counts.

    Done again when the answer to the write was lost, it finds what it wrote itself.
    """
    if store.put_if_absent(uri, made.model_dump_json(exclude_none=True).encode()):
        return made
    return _known_result(store, uri) or made


def _known_result(store: Store, uri: str) -> Outcome | None:
    try:
        return Outcome.model_validate_json(store.get(uri))
    except NotFound:
        return None


class _Ending:
    """Turns how the work ended into a termination message and an exit code."""

    def __init__(self, kind: Kind, path: Path, *, leader: bool) -> None:
        self.kind = kind
        self._path = path
        self._leader = leader

    def succeeded(self, outcome: Outcome) -> int:
        if self._leader:
            self._write(outcome)
        return EXIT_OK

    def followed(self, result: Outcome | None) -> int:
        """End after the leader has."""
        if result is None:
            raise Preempted("the leader ended without a result, so that another attempt goes on")
        return EXIT_OK

    def failed(self, error: Exception, *, private: bool) -> int:
        meaning = _meaning(error)
        if meaning is None:
            log.error("failed: %s", _describe(error, private=private))
            return EXIT_RETRY
        reason, message = meaning
        log.error("failed: %s: %s", reason, message)
        self._write(Outcome(kind=self.kind, ok=False, reason=reason, message=message[:_MAX_MESSAGE]))
        return EXIT_RETRY if isinstance(error, Unreachable) else EXIT_USER_ERROR

    def _write(self, outcome: Outcome) -> None:
        data = outcome.model_dump_json(exclude_none=True).encode()
        if len(data) > MAX_TERMINATION_BYTES:  # a message in another script; facts are bounded by their models
            short = outcome.model_copy(update={"message": outcome.message[:200]})
            data = short.model_dump_json(exclude_none=True).encode()
        self._path.write_bytes(data)


def _meaning(error: Exception) -> tuple[str, str] | None:
    """Reason and message of what has one; None for what nobody foresaw."""
    if isinstance(error, UserError):
        return error.reason, error.message
    if isinstance(error, Unreachable):
        return error.reason, str(error)
    if isinstance(error, MemoryError):
        return reasons.OUT_OF_MEMORY, "The process ran out of memory: raise resources.limits.memory in podTemplate."
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return reasons.DISK_FULL, "The scratch volume is full: give the pods more ephemeral storage."
    return None


def _describe(error: Exception, *, private: bool) -> str:
    if not private:
        return "".join(traceback.format_exception(error))
    frames = traceback.extract_tb(error.__traceback__)
    return "\n".join([type(error).__name__, *(f"  {frame.filename}:{frame.lineno} {frame.name}" for frame in frames)])


def _config(config_type: type[ConfigT], path: Path | None) -> ConfigT:
    text = path.read_text() if path else os.environ.get(CONFIG_ENV)
    if not text:
        raise UserError(reasons.INVALID_SPEC, f"No configuration: set {CONFIG_ENV} or give --config.")
    try:
        return config_type.model_validate_json(text)
    except ValidationError as error:
        places = ", ".join(".".join(map(str, item["loc"])) or "JSON" for item in error.errors())
        raise UserError(reasons.INVALID_SPEC, f"The configuration of this process is wrong at: {places}.") from None


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="One Job's process; in a pod it needs no arguments.")
    parser.add_argument("--config", type=Path, help=f"file with the configuration, instead of ${CONFIG_ENV}")
    parser.add_argument("--work", type=Path, default=Path(WORK_DIR), help="scratch folder (%(default)s)")
    parser.add_argument(
        "--port", type=int, default=PROGRESS_PORT, help="of /progress, /metrics, /healthz (%(default)s)"
    )
    parser.add_argument("--termination-log", type=Path, default=Path(TERMINATION_LOG), help="(%(default)s)")
    return parser.parse_args(argv)


@contextmanager
def _sigterm_sets(event: threading.Event) -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, lambda *_: event.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
