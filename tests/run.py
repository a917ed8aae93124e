"""`make test`: set-up, checks and all tests, each kind by itself, with the times it took in build/test/times.json.

Runs with the standard library alone. Tests that need a node need root: without it they are skipped, said so, and the
rest decides; with CI=true a skip is a failure.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from local import binaries, cache, console, env

TIMES = cache.REPOSITORY / "build" / "test" / "times.json"
PROGRAMS = ("kube", "versitygw", "helm")
MARKERS = {
    "unit": "not control_plane and not node and not engine and not gpu",
    "engine": "engine and not control_plane and not node and not gpu",
    "control_plane": "control_plane and not node and not gpu",
    "node": "node and not gpu",
}
"""Marker expressions of pytest."""
PHASES: dict[str, tuple[tuple[str, str], ...]] = {
    "unit": (("unit", "tests/trainer"),),
    "control_plane": (
        ("engine", "tests"),
        ("control_plane", "tests/integration/test_kills.py"),
        ("control_plane", "tests/integration/test_bad_days.py"),
        ("control_plane", "tests/integration"),
    ),
    "node": (),
}
"""What runs one after the other, the fastest to fail first; and tests that run beside the others of a phase, each by
themselves: busy on one thread, or waiting for a cluster."""
_NO_TESTS = 5
_ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""Models of tests are so small that threads only wait for each other, the longer the busier the machine is."""


def main() -> int:
    """Run everything that can run here; return 0 when all of it passed."""
    cold = not all(binaries.location(name).exists() for name in PROGRAMS)
    seconds: dict[str, float] = {}
    failed = []
    try:
        with _timed(seconds, "setup"):
            interpreter = env.path() / "venv/bin/python"
            for name in PROGRAMS:
                binaries.path(name)
    except console.LocalError as error:
        console.say(f"error: {error}")
        return 1
    for phase in PHASES:
        if phase == "node" and os.geteuid() != 0:
            console.say("SKIPPED node: needs root")
            if os.environ.get("CI") == "true":
                failed.append(phase)
            continue
        console.say(f"--- {phase}")
        with _timed(seconds, phase):
            passed = _phase(interpreter, phase)
        if not passed:
            failed.append(phase)
    _write("cold" if cold else "warm", seconds)
    console.say(f"failed: {', '.join(failed)}" if failed else "all passed")
    return 1 if failed else 0


@contextlib.contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    seconds[name] = round(time.monotonic() - started, 1)


def _phase(interpreter: Path, phase: str) -> bool:
    """Run the tests of a phase; what runs beside is shown when it has ended."""
    with contextlib.ExitStack() as files:
        beside, apart = [], list[str]()
        for kind, path in PHASES[phase]:
            output = files.enter_context(tempfile.TemporaryFile("w+"))
            beside.append((f"{kind}: {path}", output, _pytest(interpreter, kind, path, *apart, output=output)))
            apart += [f"--ignore={path}"] if kind == phase else []
        passed = _ended_well(_pytest(interpreter, phase, *apart))
        for name, output, tests in beside:
            passed = _ended_well(tests) and passed
            output.seek(0)
            console.say(f"--- {name}\n{output.read().rstrip()}")
    return passed


def _pytest(interpreter: Path, kind: str, *options: str, output: IO[str] | None = None) -> "subprocess.Popen[bytes]":
    command = [interpreter, "-m", "pytest", "-q", "-m", MARKERS[kind], *options]
    paths = os.pathsep.join([str(cache.REPOSITORY / "src"), str(cache.REPOSITORY)])
    variables = {**_ONE_THREAD, **os.environ, "PYTHONPATH": paths}
    return subprocess.Popen(command, cwd=cache.REPOSITORY, env=variables, stdout=output, stderr=output)


def _ended_well(tests: "subprocess.Popen[bytes]") -> bool:
    return tests.wait() in {0, _NO_TESTS}


def _write(cached: str, seconds: dict[str, float]) -> None:
    """Keep the times of the last run from an empty cache beside those of the last warm one."""
    TIMES.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(TIMES.read_text()) if TIMES.exists() else {}
    known[cached] = {**seconds, "total": round(sum(seconds.values()), 1)}
    TIMES.write_text(json.dumps(known, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
