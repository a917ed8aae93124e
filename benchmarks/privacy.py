"""What privacy costs, finds and takes for personal data that is none: build/bench/privacy.json.

Recall is measured on planted text; false alarms on code (Python's standard library, in pieces of about 1 KB) and JSON
files of installed packages, where whatever is changed is counted; speed on rows of that code with and without entities.
Run it with `python -m benchmarks.privacy`; with `--show`, what was taken in code is printed.
"""

import json
import random
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from specop.api.privacy import Privacy
from specop.data.formats import Exchange
from specop.data.privacy import Scrubber
from tests.data.planted import PLANTED, TEXTS

_PIECE = 1200
_PIECES = 6000
_OUT = Path("build/bench/privacy.json")


def _pieces(files: list[Path]) -> Iterator[str]:
    for path in files:
        try:
            lines = path.read_text().splitlines(keepends=True)
        except (UnicodeDecodeError, OSError):
            continue
        piece = ""
        for line in lines:
            piece += line
            if len(piece) >= _PIECE:
                yield piece[: 4 * _PIECE]
                piece = ""


def _some(files: list[Path]) -> list[str]:
    files = sorted(files)
    random.Random(1).shuffle(files)
    found = []
    for piece in _pieces(files):
        found.append(piece)
        if len(found) == _PIECES:
            break
    return found


def _alarms(scrubber: Scrubber, pieces: list[str], *, show: bool) -> dict[str, object]:
    counts: Counter[str] = Counter()
    changed = 0
    for piece in pieces:
        found = scrubber.find(piece)
        changed += bool(found)
        counts.update(item.entity for item in found)
        if show:
            for item in found:
                print(f"{item.entity:13} {piece[max(0, item.start - 30) : item.end + 15]!r}")
    return {
        "pieces": len(pieces),
        "megabytes": round(sum(map(len, pieces)) / 1e6, 2),
        "changedPercent": round(100 * changed / len(pieces), 2),
        "changedPercentWithoutEmail": round(
            100 * sum(any(item.entity != "Email" for item in scrubber.find(piece)) for piece in pieces) / len(pieces), 2
        ),
        "found": dict(counts),
    }


def _speed(pieces: list[str], every: int) -> float:
    """Rows a CPU second, of two texts each; a planted entity in each `every`th row."""
    scrubber = Scrubber(Privacy(), {})
    rows = []
    for index in range(0, len(pieces) - 1, 2):
        planted = PLANTED[index % len(PLANTED)][1] if every and index % (2 * every) == 0 else ""
        request = {"messages": [{"role": "user", "content": pieces[index] + planted}]}
        rows.append(Exchange(request, {"role": "assistant", "content": pieces[index + 1]}))
    scrubber.scrub(Exchange({"messages": [{"content": "a@b.org 4155552671"}]}, {}), b"")  # what is loaded once
    started = time.process_time()
    for row in rows:
        scrubber.scrub(row, b"")
    return round(len(rows) / (time.process_time() - started))


def _without(scrubber: Scrubber, text: str) -> str:
    parts, end = [], 0
    for found in scrubber.find(text):
        parts += [text[end : found.start], "[]"]
        end = found.end
    return "".join([*parts, text[end:]])


def main() -> None:
    """Measure and write."""
    show = "--show" in sys.argv
    paths = sysconfig.get_paths()
    library, packages = Path(paths["stdlib"]), Path(paths["purelib"])
    code = _some([path for path in library.rglob("*.py") if "site-packages" not in path.parts])
    data = _some([path for path in packages.rglob("*.json") if path.stat().st_size < 1 << 20])
    scrubber = Scrubber(Privacy(), {})
    texts = [(value, value) for _, value in PLANTED] + TEXTS
    missed = sum(value in _without(scrubber, text) for text, value in texts)
    calm = [piece for piece in code if not scrubber.find(piece)]
    result = {
        "recall": round(1 - missed / len(texts), 4),
        "planted": len(texts),
        "code": _alarms(scrubber, code, show=show),
        "json": _alarms(scrubber, data, show=show),
        "rowsPerCpuSecond": {"clean": _speed(calm, 0), "oneInTen": _speed(calm, 10), "all": _speed(calm, 1)},
        "bytesPerRow": round(2 * sum(map(len, calm)) / len(calm)),
    }
    _OUT.parent.mkdir(parents=True, exist_ok=True)
    _OUT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
