"""A limit on the memory of a process and all its children, by a cgroup of its own (either version; needs root)."""

import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_END_SECONDS = 30


class NoCgroups(Exception):
    """None can be made here."""


@contextmanager
def limited(limit: int) -> Iterator[tuple[Callable[[], None], Path]]:
    """Yield a function that a child calls before it starts (`preexec_fn`), and the cgroup's folder.

    Raises NoCgroups. Whoever passes the limit is killed by the kernel.
    """
    version_1 = (_CGROUPS / "memory").is_dir()
    above = _CGROUPS / "memory" if version_1 else _CGROUPS
    folder = above / f"specop-test-{uuid.uuid4().hex[:8]}"
    try:
        folder.mkdir()
        names = ("memory.limit_in_bytes",) if version_1 else ("memory.max", "memory.swap.max")
        for name, value in zip(names, (limit, 0), strict=False):
            (folder / name).write_text(str(value))
    except OSError as error:
        if folder.is_dir():
            folder.rmdir()
        raise NoCgroups(str(error)) from error

    def enter() -> None:
        (folder / "cgroup.procs").write_text(str(os.getpid()))

    try:
        yield enter, folder
    finally:
        _remove(folder)


def _remove(folder: Path) -> None:
    """Remove a cgroup; helpers of the process that entered it may end a moment after it."""
    deadline = time.monotonic() + _END_SECONDS
    while folder.is_dir():
        try:
            folder.rmdir()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def was_killed(folder: Path) -> bool:
    """Whether the kernel killed somebody for lack of memory."""
    for name in ("memory.events", "memory.oom_control"):
        if (folder / name).exists():
            fields = dict(line.split() for line in (folder / name).read_text().splitlines())
            return int(fields.get("oom_kill", 0)) > 0
    return False
