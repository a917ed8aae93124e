"""Python's own tools from PyPI: `uv`, and wheels that carry a program.

It is: a tiny venv in the cache with one pinned `uv`, through which all else is installed.
It is not: the environment of the project: see `env`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from local import cache, console, preflight

UV = "uv==0.13.9"


def uv() -> Path:
    """Return the `uv` program, installed if it is missing."""
    return cache.entry("bin", UV.replace("==", "-"), _install_uv) / "bin/uv"


def _install_uv(target: Path) -> None:
    preflight.install(preflight.PYTHON_PACKAGES)
    log = cache.folder("logs") / "uv.log"
    with console.step(f"installing {UV}"):
        console.run([sys.executable, "-m", "venv", target], log)
        console.run([target / "bin/python", "-m", "pip", "install", "-q", UV], log, env=environment())


def wheel(requirement: str) -> Path:
    """Return a folder that holds the unpacked wheel of a pinned requirement, without its dependencies."""

    def install(target: Path) -> None:
        where = ["--python", sys.executable, "--target", str(target)]
        with console.step(f"installing {requirement}"):
            log = cache.folder("logs") / "wheel.log"
            console.run([uv(), "pip", "install", "--no-deps", *where, requirement], log, env=environment())

    return cache.entry("bin", requirement.replace("==", "-"), install)


def environment() -> dict[str, str]:
    """Return the process environment with the caches of pip and uv inside the cache folder."""
    return {**os.environ, "PIP_CACHE_DIR": str(cache.folder("pip")), "UV_CACHE_DIR": str(cache.folder("uv"))}
