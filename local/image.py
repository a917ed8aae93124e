"""The container images, built from `images/` without a registry and imported into the node.

It is: the project's real Dockerfiles, built by buildah on a local stand-in for their public base; each image is an
archive in the cache under the hash of what it holds.
It is not: how images are published: any builder with a registry builds the same Dockerfiles.
Minds: builds run in a mount namespace of their own, so that an interrupted one leaves no mounts.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from local import cache, console, interpreter, node, preflight, rootfs, settings

PYTHON = "docker.io/library/python:3.11-slim"
OPERATOR = "docker.io/specop/operator:dev"
RUNTIME = "docker.io/specop/runtime:dev"
_IMAGES = cache.REPOSITORY / "images"
_INPUTS = {
    OPERATOR: ["requirements/operator.lock", "pyproject.toml", "README.md", "src", "operator/main.py"],
    RUNTIME: [],
}


def archive(name: str) -> Path:
    """Return the archive of an image, built if it is missing."""
    return cache.entry("images", _entry(name), lambda target: _build(name, target)) / "image.tar"


def archives() -> list[Path]:
    """Return the archives of all images, built if they are missing."""
    return [archive(name) for name in _INPUTS]


def exist() -> bool:
    """Return whether all images are built."""
    return all((cache.folder("images") / _entry(name)).exists() for name in _INPUTS)


def _folder(name: str) -> Path:
    return _IMAGES / name.rpartition("/")[2].partition(":")[0]


def _entry(name: str) -> str:
    inputs = [cache.REPOSITORY / path for path in _INPUTS[name]]
    return f"{_folder(name).name}-{cache.key(_folder(name), *inputs, _base_key())}"


def load(state: Path, *names: str) -> None:
    """Bring images of a cluster's node up to date: these, or all."""
    chosen = settings.load(state.absolute())
    if chosen is None or not chosen.node:
        message = f"no cluster with a node at {state}"
        raise console.LocalError(message)
    for name in names or _INPUTS:
        found = archive(name)
        imported = chosen.state / "node" / f"{found.parent.name}.imported"
        if not imported.exists():
            with console.step(f"importing {name}"):
                node.ctr(chosen, "images", "import", str(found))
            imported.touch()


def _build(name: str, target: Path) -> None:
    base = _base()
    with console.step(f"building {name}"):
        _buildah("pull", "-q", f"docker-archive:{base}")
        build = (
            "bud",
            "--isolation=chroot",
            "--layers",
            "--pull-never",
            "-f",
            _folder(name) / "Dockerfile",
            "-t",
            name,
        )
        _buildah(*build, cache.REPOSITORY)
        _push(name, target)
    for old in _older(folder=target.parent, prefix=f"{_folder(name).name}-"):
        shutil.rmtree(old)


def _older(folder: Path, prefix: str) -> list[Path]:
    """Return an image's archives but the newest: each change of the project makes another, of most of a gigabyte."""
    found = [path for path in folder.iterdir() if path.name.startswith(prefix)]
    return sorted(found, key=lambda path: path.stat().st_mtime)[:-1]


def _push(name: str, target: Path) -> None:
    _buildah("push", name, f"docker-archive:{target}/image.tar:{name}")  # the archive whose layers are not compressed


def _base() -> Path:
    return cache.entry("images", f"python-{_base_key()}", _build_base) / "image.tar"


def _base_key() -> str:
    return cache.key(interpreter.identity(), rootfs.PIP, Path(rootfs.__file__), _IMAGES / "python")


def _build_base(target: Path) -> None:
    if os.geteuid() != 0:
        raise console.LocalError("building images needs root")
    preflight.install(preflight.IMAGE_PACKAGES)
    with console.step("building the local stand-in for python:3.11-slim"), tempfile.TemporaryDirectory() as context:
        root = Path(context) / "rootfs"
        root.mkdir()
        rootfs.write(root)
        _buildah("bud", "--isolation=chroot", "-f", _IMAGES / "python/Dockerfile", "-t", PYTHON, root)
        _push(PYTHON, target)


def _buildah(*arguments: str | Path) -> None:
    storage: list[str | Path] = [
        *("--root", str(cache.folder("images/storage"))),
        *("--runroot", str(cache.folder("images/run"))),
    ]
    configuration = cache.folder("images/etc") / "containers.conf"  # else a lock file appears under /etc/cni
    configuration.write_text(f'[network]\nnetwork_config_dir = "{configuration.parent}"\n')
    environment = {
        **os.environ,
        "CONTAINERS_CONF": str(configuration),
        "TMPDIR": str(cache.folder("images/tmp")),  # also where cache mounts are kept
    }
    log = cache.folder("logs") / "buildah.log"
    console.run(["unshare", "--mount", "buildah", *storage, *arguments], log, env=environment)
