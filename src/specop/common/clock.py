"""The clock, as a value that is passed in. Nothing in `domain` or `manifests` may read the time itself."""

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]


def system_clock() -> datetime:
    """Return the time now, in UTC, with microseconds."""
    return datetime.now(UTC)


def format_time(moment: datetime) -> str:
    """RFC 3339 in UTC with whole seconds, as the API server writes times."""
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def parse_time(text: str) -> datetime:
    """Read RFC 3339; raises ValueError on anything else."""
    return datetime.fromisoformat(text).astimezone(UTC)
