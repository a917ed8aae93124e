"""How much memory and how many processors there are, and how they are shared out.

The limit is the container's (cgroup), not the machine's: whoever goes past it is killed. It is read, never guessed;
how it is divided is measured (`benchmarks/data.py`) and leaves a fifth for what no one counts: page tables, buffers of
sockets, the kernel's own share.
"""

import os
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_CGROUPS, _SELF = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
MIB = 1 << 20
_PARENT = 192 * MIB
"""The reading process, without its tables."""
_WORKER = 208 * MIB
"""A worker process with a tokenizer, a template and one chunk."""
LANGUAGES = 80 * MIB
"""What a process takes besides, where languages are looked at."""
_USED_PERCENT = 85
_LEAST_CHUNK, _CHUNK = 256 << 10, 4 * MIB
_CHUNKS = 8
"""For each worker, so that none waits long for the last."""


@dataclass(frozen=True, slots=True)
class Room:
    """How much of everything."""

    workers: int
    chunk_bytes: int
    tables_bytes: int
    """Memory that the first pass's tables may take before they go to disk."""


def room(limit: int, processors: int, size: int, besides: int = 0) -> Room:
    """Divide `limit` bytes: tables and the reading process first, then as many workers as fit, at least one.

    `size`: stored bytes of what is read, of which every worker gets several chunks. `besides`: bytes that every process
    takes more than usual.
    """
    tables = min(max(limit // 8, 96 * MIB), 192 * MIB)
    left = limit * _USED_PERCENT // 100 - _PARENT - besides - tables
    workers = max(1, min(processors, left // (_WORKER + besides)))
    chunk = min(limit // 1024, size // (workers * _CHUNKS), _CHUNK)
    return Room(workers, chunk_bytes=max(chunk, _LEAST_CHUNK), tables_bytes=tables)


def limit() -> int:
    """Bytes that this process and its children may take together."""
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *_numbers("memory.max", "memory.limit_in_bytes")]
    return min(found) if soft == resource.RLIM_INFINITY else min(*found, soft)


def processors() -> int:
    """Processors that this process may use, by affinity and by quota."""
    allowed = float(len(os.sched_getaffinity(0)))
    for folder in _folders("cpu"):
        quota, _, period = _read(folder / "cpu.max").partition(" ")
        quota, period = (
            (quota, period) if period else (_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us"))
        )
        if quota.isdigit() and period.isdigit():
            allowed = min(allowed, int(quota) / int(period))
    return max(1, int(allowed))


def _numbers(*names: str) -> Iterator[int]:
    for folder in _folders("memory"):
        for name in names:
            text = _read(folder / name)
            if text.isdigit():
                yield int(text)


def _folders(controller: str) -> Iterator[Path]:
    """Folders of this process's cgroup and of those above it, in either version."""
    for line in _read(_SELF).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = _CGROUPS / controllers if controllers else _CGROUPS
        folder = root / path.lstrip("/")
        yield from (folder, *(above for above in folder.parents if above.is_relative_to(root)))


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
