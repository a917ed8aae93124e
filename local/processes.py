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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from local import console

_OWNER = "SPECOP_LOCAL_STATE"
_PART = "SPECOP_LOCAL_PART"
_READY_SECONDS = 60
_POLL_SECONDS = 0.05
_END_SECONDS = 10
_ROUNDS = 20


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
    found = ((pid, _environment(pid)) for pid in _pids())
    return [Process(pid, env.get(_PART, "")) for pid, env in found if env.get(_OWNER) == str(state)]


def parts(state: Path) -> set[str]:
    """Return the names of the parts that run; what they started (a containerd's shims) may run on without them."""
    return {process.part for process in running(state) if _leads_its_session(process.pid)}


def wait(state: Path, part: str, ready: Callable[[], bool]) -> None:
    """Wait until a part is ready; if it ends or takes too long, raise with the end of its log."""
    deadline = time.monotonic() + _READY_SECONDS
    while not ready():
        late = time.monotonic() > deadline
        if late or part not in parts(state):
            what = f"was not ready within {_READY_SECONDS} s" if late else "ended"
            message = f"{part} {what}; the end of its log:\n{console.tail(log_of(state, part))}"
            raise console.LocalError(message)
        time.sleep(_POLL_SECONDS)


def kill(state: Path) -> None:
    """Kill every process of the cluster, until none is left: its state goes too, so none needs time to save it."""
    _kill_until_none(
        lambda: [process.pid for process in running(state)],
        lambda pid: _environment(pid).get(_OWNER) == str(state),
    )


def kill_listed(listing: Path) -> None:
    """Kill the processes that a `cgroup.procs` file lists, until it lists none."""
    _kill_until_none(lambda: _listed(listing), lambda pid: pid in _listed(listing))


def _kill_until_none(find: Callable[[], list[int]], still_ours: Callable[[int], bool]) -> None:
    for _ in range(_ROUNDS):  # a process may start another one while we look
        if not _kill(find(), still_ours):
            return
    message = f"these processes do not end: {find()}"
    raise console.LocalError(message)


def _kill(pids: list[int], still_ours: Callable[[int], bool]) -> bool:
    """Kill processes and wait for their ends; return whether there were any."""
    handles = {}
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            handles[os.pidfd_open(pid)] = pid
    try:
        for handle, pid in list(handles.items()):
            if still_ours(pid):  # the descriptor pins the process, so this answer stays true for it
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
        for handle, pid in handles.items():
            select.select([handle], [], [], _END_SECONDS)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)  # our own child: do not leave a zombie
    finally:
        for handle in handles:
            os.close(handle)
    return bool(handles)


def _leads_its_session(pid: int) -> bool:
    try:
        return os.getsid(pid) == pid
    except ProcessLookupError:
        return False


def _listed(listing: Path) -> list[int]:
    try:
        return [int(pid) for pid in listing.read_text().split()]
    except OSError:
        return []


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _environment(pid: int) -> dict[str, str]:
    """Return what a process was started with; nothing for one that has ended or belongs to someone else."""
    try:
        content = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return {}
    pairs = (item.partition("=") for item in content.decode(errors="replace").split("\0"))
    return {name: value for name, _, value in pairs}
