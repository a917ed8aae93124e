"""Starting, finding and ending a cluster's processes.

It is: every process of a cluster carries its state folder in its environment, and children inherit it, so all of them
are found in /proc at any time, by anyone.
It is not: a supervisor; nothing is started again by itself.
Races: there is no pid file to be stale or lost. Signals go through pid file descriptors opened *before* the environment
is read, so a pid that is used again is never hit.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from local import console

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_OWNER = "SPECOP_LOCAL_STATE"
_PART = "SPECOP_LOCAL_PART"


@dataclass(frozen=True)
class Process:
    """A running process of a cluster: its pid and the part that it is, or that started it."""

    pid: int
    part: str


def start(state: Path, part: str, command: Sequence[str | Path], env: Mapping[str, str] | None = None) -> None:
    """Start one part in a session of its own, with its output in `<state>/logs/<part>.log`."""
    log = log_of(state, part)
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, **(env or {}), _OWNER: str(state), _PART: part}
    with log.open("ab") as output, Path(os.devnull).open("rb") as nothing:
        os.posix_spawn(
            command[0],
            [str(argument) for argument in command],
            environment,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, nothing.fileno(), 0),
                (os.POSIX_SPAWN_DUP2, output.fileno(), 1),
                (os.POSIX_SPAWN_DUP2, output.fileno(), 2),
            ],
            setsid=True,
        )


def log_of(state: Path, part: str) -> Path:
    """Return where a part's output goes."""
    return state / "logs" / f"{part}.log"


def running(state: Path) -> list[Process]:
    """Return the cluster's processes."""
    return [process for process in map(_read, _pids()) if process and process[0] == str(state) for process in [process[1]]]


def parts(state: Path) -> set[str]:
    """Return the names of the parts that run."""
    return {process.part for process in running(state)}


def check(state: Path, part: str) -> None:
    """Raise with the end of its log if a part that was started is gone."""
    if part not in parts(state):
        log = log_of(state, part)
        message = f"{part} ended at once; the end of {log}:\n{console.tail(log)}"
        raise console.LocalError(message)


def kill(state: Path) -> None:
    """Kill every process of the cluster, until none is left; the state is thrown away, so nobody needs time to save it."""
    kill_all(lambda pid: (_read(pid) or ("",))[0] == str(state))
