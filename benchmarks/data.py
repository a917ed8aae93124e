"""How fast datasets are made, beside Hugging Face datasets: `make bench-data` writes build/bench/data.json.

It is: (a) tokenising and masking alone, ours and the peer's `Dataset.map`, same tokenizer, same rows, two processes
each, in turns, after a check that both supervise the same tokens; and the tokenizer alone, which bounds both.
(b) the whole Job (parse, consent, duplicates, privacy, template, mask, Parquet, manifest) against the peer's
tokenising alone. (c) the whole Job against `speculators prepare-data`, once. (d) a million rows, ours only. With
`--gigabytes 10`, so much input under two gigabytes of memory (root).
It is not: a figure of a cluster, nor of storage: everything lies on this machine's disk.

A ratio holds for runs that took turns on one machine; that of CPU seconds also where others used it. Ours and the
tokenizer start from running processes, the peer from loaded rows; what starting and loading took stands beside.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import conversations, peer
from benchmarks.data_prepared import prepared
from demo import model
from local import cache
from specop.data.formats import read_chat
from specop.data.render import turns
from specop.data.tokens import TargetText
from tests.data.limited import limited

ROOT = Path(__file__).resolve().parent.parent
REPORT = ROOT / "build" / "bench" / "data.json"
PROCESSES = 2
RUNS = 3
MILLION = 1_000_000
LIMIT = 2 << 30
"""Bytes of memory for `--gigabytes`."""
Json = dict[str, Any]


class Bench:
    """Rows in one folder, and the processes that work on them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._target = model.prepare()
        self._peer = peer.binary()

    def rows(self, count: int) -> Path:
        """Return the file with so many rows."""
        return conversations.write(self._folder / f"{count}.jsonl", count)

    def ours(self, count: int) -> Json:
        """Tokenise and mask alone."""
        return _run([sys.executable, "-m", "benchmarks.data_ours", "tokens", self.rows(count), self._target, PROCESSES])

    def job(self, path: Path, options: Json, preexec: Callable[[], None] | None = None) -> Json:
        """Run the whole Job."""
        command = [sys.executable, "-m", "benchmarks.data_ours", "job", path, self._target, json.dumps(options)]
        return _run(command, preexec)

    def theirs(self, count: int) -> Json:
        """Tokenise and mask with the peer; -P: this folder's names are not its library's."""
        script = ROOT / "benchmarks" / "data_peer.py"
        return _run([self._peer, "-P", script, self.rows(count), self._target, PROCESSES])

    def bare(self, count: int) -> Json:
        """Call the tokenizer alone."""
        texts = self._folder / f"{count}.texts"
        if not texts.exists():
            target = TargetText(self._target)
            with self.rows(count).open("rb") as rows, texts.open("w") as file:
                for row in rows:
                    (found,) = turns(read_chat(json.loads(row)), target.template, target.end_of_turn)
                    file.write(json.dumps(found.text) + "\n")
        script = ROOT / "benchmarks" / "data_bare.py"
        return _run([sys.executable, "-P", script, texts, self._target, PROCESSES])

    def side_by_side(self, count: int) -> Json:
        """Rows (a) and (b) at one size: everybody in turns, medians."""
        options: Json = {}
        runs: dict[str, list[Json]] = {"ours": [], "peer": [], "tokenizer": [], "job": []}
        for _ in range(RUNS):
            runs["peer"].append(self.theirs(count))
            runs["ours"].append(self.ours(count))
            runs["tokenizer"].append(self.bare(count))
            runs["job"].append(self.job(self.rows(count), options))
        for name in ("rows", "tokens", "supervised"):
            one, other = runs["ours"][0][name], runs["peer"][0][name]
            if one != other:
                raise SystemExit(f"ours and the peer's {name} differ: {one} and {other}")
        speeds = {name: [count / run["seconds"] for run in of] for name, of in runs.items()}
        middle = {name: statistics.median(of) for name, of in speeds.items()}
        measured = ("ours", "peer", "tokenizer")
        cpu = {name: statistics.median(run["cpu_seconds"] for run in runs[name]) for name in measured}
        found = {
            "rows": count,
            "rows_per_second": {name: round(value) for name, value in middle.items()},
            "all_runs": {name: [round(value) for value in of] for name, of in speeds.items()},
            "ratio_hf": round(middle["ours"] / middle["peer"], 3),
            "tokenizer_fraction": round(middle["ours"] / middle["tokenizer"], 3),
            "cpu_ratio_hf": round(cpu["peer"] / cpu["ours"], 3),
            "cpu_tokenizer_fraction": round(cpu["tokenizer"] / cpu["ours"], 3),
            "ratio_full": round(middle["job"] / middle["peer"], 3),
            "job": runs["job"][-1],
            "start_seconds": runs["ours"][-1]["start_seconds"],
            "peer_load_seconds": runs["peer"][-1]["load_seconds"],
        }
        _say(found)
        return found

    def against_speculators(self, count: int) -> Json:
        """Row (c): the whole Job against `speculators prepare-data`, which has no privacy, duplicates or consent."""
        theirs = prepared(self.rows(count), self._target, self._peer, PROCESSES)
        ours = self.job(self.rows(count), {})
        found = {
            "rows": count,
            "job_seconds": ours["seconds"],
            "speculators": theirs,
            "ratio_speculators": round(theirs["seconds"] / ours["seconds"], 3),
        }
        _say(found)
        return found

    def million(self, smaller: Json) -> Json:
        """Row (d): a million rows once, against the Job at a smaller size."""
        run = self.job(self.rows(MILLION), {})
        speed = MILLION / run["seconds"]
        found = {
            "rows": MILLION,
            "rows_per_second": round(speed),
            "speed_ratio": round(speed / smaller["rows_per_second"]["job"], 3),
            "memory_ratio": round(run["peak_mib"] / smaller["job"]["peak_mib"], 3),
            "job": run,
        }
        _say(found)
        return found

    def limited(self, gigabytes: int) -> Json:
        """So much input under `LIMIT` bytes of memory, all processes together."""
        path = self.rows(gigabytes * MILLION)
        with limited(LIMIT) as (enter, _):
            run = self.job(path, {}, enter)
        found = {"bytes": path.stat().st_size, "limit_bytes": LIMIT, "job": run}
        _say(found)
        return found


def _run(command: list[Any], preexec: Callable[[], None] | None = None) -> Json:
    done = subprocess.run(
        [str(part) for part in command], stdout=subprocess.PIPE, cwd=ROOT, check=True, preexec_fn=preexec
    )
    found: Json = json.loads(done.stdout.splitlines()[-1])
    return found


def _say(found: Json) -> None:
    print(json.dumps({name: value for name, value in found.items() if name != "job"}))


def main() -> None:
    """Run what is asked for and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="10^4 rows only: some minutes")
    parser.add_argument(
        "--gigabytes", type=int, help="also: so much input under 2 GB of memory (root; 7 minutes a gigabyte)"
    )
    options = parser.parse_args()
    bench = Bench(cache.folder("bench-data"))
    sizes = (10_000,) if options.quick else (10_000, 100_000)
    known = json.loads(REPORT.read_text()) if REPORT.exists() else {}
    report: Json = {
        **known,
        "machine": {
            "processors": os.cpu_count(),
            "model": platform.processor() or platform.machine(),
            "python": platform.python_version(),
            "versions": {name: importlib.metadata.version(name) for name in ("tokenizers", "pyarrow", "duckdb")},
        },
    }
    parts: dict[str, Callable[[], Any]] = {
        "side_by_side": lambda: [bench.side_by_side(size) for size in sizes],
        "speculators": lambda: bench.against_speculators(sizes[0]),
    }
    if not options.quick:
        parts["million"] = lambda: bench.million(report["side_by_side"][-1])
    if options.gigabytes:
        parts["limited"] = lambda: bench.limited(options.gigabytes)
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    for name, measure in parts.items():
        report[name] = measure()
        REPORT.write_text(json.dumps(report, indent=2) + "\n")
    print(f"written: {REPORT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
