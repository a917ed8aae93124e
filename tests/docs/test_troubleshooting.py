"""The page on reasons names each of them, and no other."""

import re
from pathlib import Path

from specop.api import reasons

PAGE = Path(__file__).parents[2] / "docs" / "troubleshooting.md"
TYPES = {
    *(reasons.READY, reasons.SUCCEEDED, reasons.RECONCILING, reasons.STALLED),
    *(reasons.DRAFTER_APPROVED, reasons.DRAFTER_SERVING, reasons.ACCEPTANCE_HEALTHY, reasons.TARGET_PROVEN),
    reasons.RECIPE_SOUND,
}


def test_every_reason_is_explained() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", PAGE.read_text(), re.MULTILINE)
    known = {value for name, value in vars(reasons).items() if name.isupper()} - TYPES
    assert sorted(rows) == sorted(known)
