"""The Python environment of tests, demo and pods, and the project's own code for pods: made once, mounted.

It is: `<cache>/env/<key>` with `venv` (this machine's) and `pod` (the same packages, by hard links, with a copy of the
interpreter), and `<cache>/src/<key>` with the project installed apart, so that a change of it costs seconds.
It is not: an image: five gigabytes are mounted, not copied. See `volumes`.
Minds: a pod cannot write bytecode: all of it is compiled here, to be read without a look at the source's time.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from local import cache, console, interpreter, python

POD_ENV = "/opt/specop/env"
POD_SRC = "/opt/specop/src"
POD_PYTHON = f"{POD_ENV}/venv/bin/python"
POD_VARIABLES = {"LD_LIBRARY_PATH": f"{POD_ENV}/py/lib", "PYTHONPATH": POD_SRC, "PYTHONDONTWRITEBYTECODE": "1"}

_LOCK = cache.REPOSITORY / "requirements" / "local.lock"
_PROJECT = [cache.REPOSITORY / "pyproject.toml", cache.REPOSITORY / "README.md", cache.REPOSITORY / "src"]


def path() -> Path:
    """Return the folder of the environment, made if it is missing: `venv/bin/python` in it is the one to run."""
    return cache.entry("env", location().name, _build)


def location() -> Path:
    """Return where the environment is, or will be once it is made."""
    return cache.folder("env") / cache.key(_LOCK, interpreter.identity())


def source() -> Path:
    """Return a folder with the project installed in it, metadata included, for `PYTHONPATH`."""
    return cache.entry("src", cache.key(*_PROJECT, interpreter.identity()), _install_project)


def _build(target: Path) -> None:
    log = cache.folder("logs") / "env.log"
    venv = target / "venv"
    with console.step("installing the Python environment (5 GB, 1 to 3 minutes and the download)"):
        # Relocatable: it is made beside its final place, and scripts must not remember that.
        console.run([python.uv(), "venv", "-q", "--relocatable", "--python", interpreter.binary(), venv], log)
        _pip(["--require-hashes", "--python", f"{venv}/bin/python", "-r", str(_LOCK)], log)
    with console.step("preparing it for pods"):
        interpreter.copy(target / "pod" / "py")
        _relocate(venv, target / "pod" / "venv")


def _relocate(venv: Path, copy: Path) -> None:
    """Copy a venv by hard links; what must differ is written anew, for a linked file is one file at two places."""
    shutil.copytree(venv, copy, symlinks=True, copy_function=os.link)
    for name in ("python", "python3", interpreter.VERSION):
        (copy / "bin" / name).unlink(missing_ok=True)
        (copy / "bin" / name).symlink_to(f"../../py/bin/{interpreter.VERSION}")
    (copy / "pyvenv.cfg").unlink()
    (copy / "pyvenv.cfg").write_text(f"home = {POD_ENV}/py/bin\ninclude-system-site-packages = false\n")


def _install_project(target: Path) -> None:
    log = cache.folder("logs") / "src.log"
    _pip(["--python", str(interpreter.binary()), "--target", str(target), str(cache.REPOSITORY)], log)


def _pip(arguments: list[str], log: Path) -> None:
    environment = {**python.environment(), "PYC_INVALIDATION_MODE": "UNCHECKED_HASH"}
    console.run([python.uv(), "pip", "install", "--no-deps", "--compile-bytecode", *arguments], log, env=environment)
