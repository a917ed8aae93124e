"""Kubernetes quantities, such as 500m, 2 or 16Gi, as numbers."""

import re
from decimal import Decimal

_QUANTITY = re.compile(r"([0-9.]+)(?:[eE](-?[0-9]+))?([a-zA-Z]*)")
_SUFFIXES = {
    "": Decimal(1),
    "m": Decimal("0.001"),
    **{letter: Decimal(1000) ** power for power, letter in enumerate("kMGTPE", 1)},
    **{f"{letter}i": Decimal(1024) ** power for power, letter in enumerate("KMGTPE", 1)},
}


def amount(quantity: str) -> Decimal:
    """Return what a quantity stands for, exactly; its form was checked by the schema of the objects."""
    match = _QUANTITY.fullmatch(quantity)
    assert match is not None
    digits, exponent, suffix = match.groups()
    return Decimal(digits) * Decimal(10) ** int(exponent or 0) * _SUFFIXES[suffix or ""]
