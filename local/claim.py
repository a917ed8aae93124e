"""Whose node this machine has: one claim for the whole machine, made before and given back after all else of a node.

It is: a file under /run, so that it ends with the machine's uptime, as what it stands for does.
Races: two clusters that claim at once: a hard link is made by exactly one of them. After a crash the claim stands, and
says at any moment whose traces are on the machine; nobody else's clean-up touches them.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from local import console
from local.settings import NODE_SOCKETS

_OWNER = NODE_SOCKETS / "owner"


def owner() -> Path | None:
    """Return the state folder of the cluster that has the node, if one has."""
    return Path(_OWNER.read_text()) if _OWNER.exists() else None


def take(state: Path) -> None:
    """Claim the node for a cluster; nothing happens if it has it already."""
    NODE_SOCKETS.mkdir(mode=0o700, exist_ok=True)
    mine = NODE_SOCKETS / f"owner.{os.getpid()}"
    mine.write_text(str(state))
    try:
        _OWNER.hardlink_to(mine)
    except FileExistsError:
        if owner() != state:
            raise console.LocalError(refusal()) from None
    finally:
        mine.unlink()


def give_back() -> None:
    """Give the claim back, with the folder of sockets."""
    shutil.rmtree(NODE_SOCKETS, ignore_errors=True)


def refusal() -> str:
    """Return what to tell a cluster that cannot have the node."""
    return f"another cluster has the node of this machine: python3 -m local down --state {owner()}"
