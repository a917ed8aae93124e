"""Set-up in one go: everything that a cluster, the tests or the demo would otherwise make when they first need it.

It is: first every reason why it cannot work on this machine, then an honest estimate, then the work.
It is not: needed: each piece is also made by whoever asks for it first.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from local import binaries, console, env, image, preflight, settings


@dataclass(frozen=True)
class Piece:
    """One thing of the cache: what it takes on two cores, whether it is there, and how it is made."""

    name: str
    minutes: int
    gib: int
    exists: Callable[[], bool]
    make: Callable[[], object]


def pieces(*, node: bool) -> list[Piece]:
    """Return what a cluster needs, in the order in which it is made."""
    programs = [
        Piece(name, minutes, gib, binaries.location(name).exists, partial(binaries.path, name))
        for name, minutes, gib in (("kube", 6, 6), ("versitygw", 1, 1), ("helm", 2, 1))
    ]
    packages = Piece("Python packages", 2, 9, env.location().exists, env.path)
    images = Piece("images", 2, 2, image.exist, image.archives)
    return [packages, *programs, *([images] if node else [])]


def run(state: Path, *, node: bool) -> None:
    """Make what is missing, or say, one line each, why it cannot be made or could not run here."""
    wanted = pieces(node=node)
    missing = [piece for piece in wanted if not piece.exists()]
    planned = settings.load(state) or settings.choose(state, node=node, controllers="*")
    preflight.check(planned, more_disk_gib=sum(piece.gib for piece in missing))
    if missing:
        names = ", ".join(piece.name for piece in missing)
        minutes = sum(piece.minutes for piece in missing)
        console.say(f"to make, once: {names}: about {minutes} minutes on two cores and a good line")
    for piece in wanted:
        piece.make()
