"""What a person sees while the demo waits: one line that changes, in a terminal; a line now and then, in a log."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

from local import console

_POLL_SECONDS = 1.0
_LOG_SECONDS = 15.0


class Line:
    """The one line."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._terminal = Console(stderr=True)
        self._status = self._terminal.status(title) if self._terminal.is_terminal else None
        self._said = time.monotonic()
        self._started = time.monotonic()

    def tell(self, now: str) -> None:
        """Show how far it is."""
        if self._status is not None:
            self._status.update(f"{self._title}: {now} ({self._seconds():.0f} s)")
        elif time.monotonic() - self._said >= _LOG_SECONDS:
            self._said = time.monotonic()
            console.say(f"  {now}")

    def begin(self) -> None:
        """Show the title."""
        if self._status is not None:
            self._status.start()
        else:
            console.say(f"{self._title} …")

    def end(self, *, done: bool) -> None:
        """Leave one line that says how long it took."""
        if self._status is not None:
            self._status.stop()
        mark = "✓" if done else "✗"
        console.say(f"{mark} {self._title} ({self._seconds():.0f} s)")

    def _seconds(self) -> float:
        return time.monotonic() - self._started


@contextmanager
def line(title: str) -> Iterator[Line]:
    """Show a line while something runs."""
    shown = Line(title)
    shown.begin()
    try:
        yield shown
    except BaseException:
        shown.end(done=False)
        raise
    shown.end(done=True)


def wait(title: str, seconds: float, look: Callable[[], str | None]) -> None:
    """Look once a second until there is nothing more to tell; raises LocalError when that takes too long."""
    deadline = time.monotonic() + seconds
    with line(title) as shown:
        while (now := look()) is not None:
            if time.monotonic() > deadline:
                message = f"{title}: not done within {seconds:.0f} s; last seen: {now}"
                raise console.LocalError(message)
            shown.tell(now)
            time.sleep(_POLL_SECONDS)


def heading(text: str) -> None:
    """Begin a chapter."""
    console.say(f"\n{text}\n{'─' * len(text)}")


if not sys.stderr.isatty():
    # A log is read by people too: whole lines, as they come.
    sys.stderr.reconfigure(line_buffering=True)  # type: ignore[union-attr]
