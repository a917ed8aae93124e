"""The cgroup that all pods live under, in every hierarchy: our own root makes clean-up exact.

Minds: cgroup v1 (one hierarchy for each controller), v2, and a v1 machine with an empty v2 mount beside it.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from local import processes

NAME = "specop"
_MOUNT = Path("/sys/fs/cgroup")
_END_SECONDS = 5


def prepare() -> None:
    """Make our root in every hierarchy, with the controllers or CPUs that its children need."""
    if (_MOUNT / "cgroup.controllers").exists():
        (_MOUNT / NAME).mkdir(exist_ok=True)
        available = (_MOUNT / "cgroup.controllers").read_text().split()
        for name in {"cpu", "cpuset", "hugetlb", "io", "memory", "pids"}.intersection(available):
            (_MOUNT / "cgroup.subtree_control").write_text(f"+{name}")
        return
    for hierarchy in _hierarchies():
        (hierarchy / NAME).mkdir(exist_ok=True)
        for setting in ("cpuset.cpus", "cpuset.mems"):  # a new v1 cpuset is empty, and nothing can join an empty one
            if (hierarchy / setting).exists():
                (hierarchy / NAME / setting).write_text((hierarchy / setting).read_text())


def remove() -> None:
    """Kill whatever runs under our root, in any hierarchy, and remove it."""
    roots = [hierarchy / NAME for hierarchy in [_MOUNT, *_hierarchies()] if (hierarchy / NAME).is_dir()]
    for root in roots:
        for listing in root.rglob("cgroup.procs"):
            processes.kill_listed(listing)
    for root in roots:
        folders = sorted((path for path in root.rglob("*") if path.is_dir()), key=lambda path: -len(path.parts))
        for folder in [*folders, root]:
            _remove_folder(folder)


def _remove_folder(folder: Path) -> None:
    deadline = time.monotonic() + _END_SECONDS
    while time.monotonic() < deadline:  # busy for a moment after its last process has ended
        with contextlib.suppress(OSError):
            folder.rmdir()
        if not folder.exists():
            return
        time.sleep(0.01)


def _hierarchies() -> list[Path]:
    return [path for path in _MOUNT.iterdir() if (path / "cgroup.procs").exists()] if _MOUNT.exists() else []
