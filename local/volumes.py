"""Manifests of read-only volumes that pods of a `restricted` namespace may mount, as they may not name a hostPath.

It is: pure: dicts in, dicts out; whoever calls applies them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from local import cache, env

ENV_CLAIM = "specop-env"
SRC_CLAIM = "specop-src"


def manifests(namespace: str) -> list[dict[str, Any]]:
    """Return the volumes and claims of the environment and the project's code, for one namespace."""
    return [
        *read_only(ENV_CLAIM, namespace, env.path() / "pod"),
        *read_only(SRC_CLAIM, namespace, env.source()),
    ]


def read_only(name: str, namespace: str, folder: Path, size: str = "16Gi") -> list[dict[str, Any]]:
    """Return a PersistentVolume of a folder of this machine and the claim, in a namespace, that alone may bind it.

    A bound volume cannot be pointed at another folder: its name carries the folder's, so a new folder is a new pair
    (delete the claim and the volume before applying it).
    """
    volume = f"{namespace}-{name}-{cache.key(str(folder))[:8]}"
    capacity = {"storage": size}
    modes = {"accessModes": ["ReadOnlyMany"], "storageClassName": ""}
    return [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": volume},
            "spec": {
                **modes,
                "capacity": capacity,
                "hostPath": {"path": str(folder), "type": "Directory"},
                "claimRef": {"namespace": namespace, "name": name},
                "persistentVolumeReclaimPolicy": "Retain",
            },
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {**modes, "volumeName": volume, "resources": {"requests": capacity}},
        },
    ]
