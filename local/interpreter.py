"""A copy of this machine's Python that runs somewhere else: in pods that mount it, and in the base of the local images.

It is: the interpreter, its standard library and the shared libraries that they load.
It is not: any package; those come in environments.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

from local import console

VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
_UNUSED = shutil.ignore_patterns(
    *("site-packages", "dist-packages", "test", "tests", "idlelib", "tkinter", "turtledemo", "config-*", "_tkinter*"),
    "EXTERNALLY-MANAGED",  # of a distribution that the copy is no part of
)


def identity() -> str:
    """Return what distinguishes this machine's Python from another: part of the key of all that holds a copy."""
    return f"{sys.version} {binary()}"


def binary() -> Path:
    """Return the interpreter itself, whatever environment this process runs in."""
    return Path(getattr(sys, "_base_executable", sys.executable)).resolve()


def copy(target: Path) -> None:
    """Write `bin/pythonX.Y` and `lib/pythonX.Y` below a folder, `lib` with the interpreter's own library too."""
    (target / "bin").mkdir(parents=True)
    shutil.copy2(binary(), target / "bin" / VERSION)
    for name in ("python3", "python"):
        (target / "bin" / name).symlink_to(VERSION)
    shutil.copytree(sysconfig.get_path("stdlib"), target / "lib" / VERSION, ignore=_UNUSED, symlinks=True)
    for library in libraries([binary()]):
        if library.name.startswith("libpython"):
            shutil.copy2(library, target / "lib" / library.name)


def libraries(binaries: Iterable[Path]) -> set[Path]:
    """Return the shared libraries that binaries load, the loader included."""
    shown = subprocess.run(["ldd", *binaries], capture_output=True, text=True, check=False).stdout
    words = (word for line in shown.splitlines() for word in line.split() if not line.endswith(":"))
    return {Path(word) for word in words if word.startswith("/")}


def system_library(name: str) -> Path:
    """Return where the machine has a shared library."""
    loader = shutil.which("ldconfig") or "/sbin/ldconfig"
    for line in console.output([loader, "-p"]).splitlines():
        if line.strip().startswith(f"{name} "):
            return Path(line.split()[-1])
    message = f"the library {name} is missing"
    raise console.LocalError(message)
