"""What a process tells the libraries below torch about memory, before torch is loaded. It matters on a CPU.

Every pack has its own shape. torch and oneDNN each keep the compiled product of every shape that they have seen, with
its scratch memory: gigabytes over a run, and no faster. glibc, on the other hand, returns the memory of each large
tensor to the kernel as soon as it is freed, and has its pages filled with zeros again for the next one: 3 to 5 % of a
step. What is freed is kept here, so a process stays as large as it was at its peak.
"""

import ctypes
import os

CACHES = {"LRU_CACHE_CAPACITY": "32", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "32"}
"""Environment: products that torch and oneDNN keep compiled."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h
_NEVER = 2**31 - 1


def settle() -> None:
    """Tell them; what the environment says already stays."""
    for name, capacity in CACHES.items():
        os.environ.setdefault(name, capacity)
    keep_freed()


def keep_freed() -> None:
    """Have malloc keep freed memory; where it is not glibc's nothing changes."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _NEVER)
        mallopt(_TRIM_THRESHOLD, _NEVER)
