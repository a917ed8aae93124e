"""The trainer that ours is measured against, in a Python environment of its own.

It is: speculators as published, with torch and transformers of our own versions, at `<cache>/peer/<key>`.
It is not: changed, nor importable from here. What runs in it is `train_peer`, which knows nothing of this project.
"""

from pathlib import Path

from local import cache, console, interpreter, python

_LOCK = cache.REPOSITORY / "requirements" / "peer.lock"


def binary() -> Path:
    """Return the environment's Python, installed if it is missing."""
    return cache.entry("peer", cache.key(_LOCK, interpreter.identity()), _build) / "bin/python"


def _build(target: Path) -> None:
    log = cache.folder("logs") / "peer.log"
    install = ["pip", "install", "--no-deps", "--require-hashes", "--python", f"{target}/bin/python", "-r", str(_LOCK)]
    with console.step("installing the peer's Python environment (5 GB, most of it shared with ours)"):
        # Relocatable: it is made beside its final place, and scripts must not remember that.
        venv = ["venv", "-q", "--allow-existing", "--relocatable", "--python", str(interpreter.binary())]
        console.run([python.uv(), *venv, target], log)
        console.run([python.uv(), *install], log, env=python.environment())
