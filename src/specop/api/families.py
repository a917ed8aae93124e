"""Families of targets for which trainer and engine were proven to agree; the list is `families.json`.

Proven means: on a tiny random model of the family, states of captured layers, the embedding that the drafter reads, the
target's logits and an exported drafter's first logits were the same in both, to float32's last digits
(`make bench-families`). Another family may work as well; who uses one is told that nobody has looked.
"""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

ModelImpl = Literal["auto", "transformers"]


@dataclass(frozen=True, slots=True)
class Family:
    """One family."""

    name: str
    architectures: tuple[str, ...]
    """Classes that config.json names."""
    model_impl: ModelImpl = "auto"
    """Implementation that vLLM must be told to take: its own class of a family may not capture layers."""


@cache
def families() -> tuple[Family, ...]:
    """Return all families, in the order of the list."""
    return tuple(
        Family(item["name"], tuple(item["architectures"]), item.get("modelImpl", "auto"))
        for item in _list()["families"]
    )


@cache
def versions() -> tuple[str, str]:
    """Return engine and trainer that were compared, with their versions."""
    return _list()["engine"], _list()["trainer"]


def family_of(architecture: str) -> Family | None:
    """Find the family of a class; None where it is not proven."""
    return next((family for family in families() if architecture in family.architectures), None)


def unproven(architecture: str) -> str | None:
    """Say that a class is not proven; None where it is, or where it is not known."""
    if not architecture or family_of(architecture) is not None:
        return None
    return (
        f"targets of {architecture} are not proven: that trainer and engine see the same states was checked for "
        f"{', '.join(family.name for family in families())} alone"
    )


def _list() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((files("specop.api") / "families.json").read_bytes())
    return found
