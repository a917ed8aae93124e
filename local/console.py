"""What a person sees: one line per thing that happens, errors as one sentence, commands whose output goes to a file."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

Command = Sequence[str | Path]
_TAIL_LINES = 20


class LocalError(Exception):
    """Something that the person at the keyboard can read and act on: shown as its message, without a traceback."""


def say(line: str) -> None:
    """Tell the person one thing, on standard error: standard output belongs to results."""
    print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def step(title: str) -> Iterator[None]:
    """Announce something slow, then say how long it took."""
    say(f"{title} …")
    started = time.monotonic()
    yield
    say(f"  done in {time.monotonic() - started:.1f} s")


def tail(log: Path) -> str:
    """Return the end of a log, indented, for an error message."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return "\n".join(f"    {line}" for line in lines[-_TAIL_LINES:])


def run(command: Command, log: Path, *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> None:
    """Run a command with its output in a file; if it fails, the end of that file is the error."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as output:
        done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, env=env, cwd=cwd, check=False)
    if done.returncode != 0:
        message = f"{command[0]} ended with code {done.returncode}; the end of {log}:\n{tail(log)}"
        raise LocalError(message)


def output(command: Command) -> str:
    """Run a short command and return what it printed; if it fails, what it said is the error."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        message = f"{' '.join(map(str, command))} ended with code {done.returncode}: {done.stderr.strip()}"
        raise LocalError(message)
    return done.stdout
