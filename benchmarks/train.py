"""How fast a drafter is trained, beside the best open trainer: `make bench-train` writes build/bench/train.json.

It is: our loop and speculators' model (`train_peer` says how it is run), on the same packs, states, weights, recipe and
threads, in processes of their own that take turns; after a check that both find the same loss and gradients.
It is not: a figure of a GPU (`gpu` is), nor of what is learnt per token.

Figures: tokens are all input tokens; medians of runs, each without its first step. A ratio holds for runs that shared
one machine in one state. CPU seconds hold also where others used it, so both are given.
"""

import argparse
import importlib.metadata
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from benchmarks import peer, workload
from benchmarks.workload import Workload
from specop.trainer.libraries import CACHES
from tests.trainer.packs import SMOLLM2

ROOT = Path(__file__).resolve().parent.parent
REPORT = ROOT / "build" / "bench" / "train.json"
Json = dict[str, Any]
Row = tuple[str, float]
"""Dtype, and the share of tokens that is supervised."""

DEMO = 0.27
"""Share that is supervised in the demo's dataset: an agent's requests are long, its answers short."""
QUICK: Sequence[Row] = [("Float32", DEMO), ("Float32", 1.0), ("BFloat16", DEMO)]
FULL: Sequence[Row] = [(dtype, fraction) for dtype in ("BFloat16", "Float32") for fraction in (DEMO, 1.0, 0.5)]
STEPS = 3
"""Draft steps."""
PACK_TOKENS, MAX_LENGTH = 2048, 1024
"""The demo's."""
WARM = 1
RUNS, OPTIMISER_STEPS = 3, 8
QUICK_RUNS, QUICK_OPTIMISER_STEPS, QUICK_PACK_TOKENS = 1, 2, 1024
BUSY = 1.5
"""Load by core from which others must have used the machine."""
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-5, 1e-4
"""Of float32 sums that two programs make in different orders, relative."""
PEER = (
    "unmodified Eagle3DraftModel, forward and loss (attention sdpa, losses eager) with its own file reader and collate "
    "function, in the plainest loop: backward, clip, fused AdamW; its Trainer needs an accelerator and is not run"
)


class Bench:
    """Workloads in one folder, and the processes that train on them."""

    def __init__(self, folder: Path, threads: int, optimiser_steps: int, pack_tokens: int) -> None:
        self._folder, self._threads = folder, threads
        self._optimiser_steps, self._pack_tokens = optimiser_steps, pack_tokens
        self._peer = peer.binary()

    def workload(self, row: Row) -> Path:
        """Write a row's workload, once; return its folder."""
        dtype, fraction = row
        folder = self._folder / f"{dtype}-{fraction}"
        if not folder.exists():
            steps = WARM + self._optimiser_steps
            count = math.ceil(1.5 * steps * self._pack_tokens / workload.MEDIAN_TOKENS)
            rows = workload.draw_rows(count, fraction, MAX_LENGTH, SMOLLM2.vocab_size)
            workload.write(folder, Workload(SMOLLM2, STEPS, self._pack_tokens, dtype, steps, rows, seed=1))
        return folder

    def ours(self, row: Row, *options: str) -> Json:
        """Run our side."""
        return self._run([sys.executable, "-m", "benchmarks.train_ours"], row, options, CACHES)

    def peer(self, row: Row, *options: str) -> Json:
        """Run the peer's side. Its modules come from its environment, not from the folder of the script."""
        return self._run([self._peer, "-P", ROOT / "benchmarks" / "train_peer.py"], row, options, {})

    def _run(self, program: list[Any], row: Row, options: Sequence[str], settings: Mapping[str, str]) -> Json:
        """Run a process on a row's workload; its answer, and the most memory that it had resident."""
        command = [*map(str, program), str(self.workload(row)), f"--threads={self._threads}", f"--warm={WARM}"]
        environment = {**os.environ, **settings, "OMP_NUM_THREADS": str(self._threads), "CUDA_VISIBLE_DEVICES": ""}
        with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as log:
            started = subprocess.Popen([*command, *options], cwd=ROOT, env=environment, stdout=said, stderr=log)
            _, code, used = os.wait4(started.pid, 0)
            said.seek(0)
            log.seek(0)
            if code:
                raise SystemExit(f"{command[1]} failed:\n{log.read().decode()[-2000:]}")
            return {**json.loads(said.read()), "peak_rss_mib": round(used.ru_maxrss / 1024, 1)}

    def check(self) -> Json:
        """Compare losses and gradients of both sides; a difference ends the benchmark, for it would mean nothing."""
        return {
            "one document, all supervised, all draft steps": self._check(("Float32", 1.0), [[0], STEPS]),
            "several documents, partly supervised, one draft step": self._check(("Float32", DEMO), [[0, 1, 2], 1]),
        }

    def _check(self, row: Row, what: list[Any]) -> Json:
        option = f"--check={json.dumps(what)}"
        ours, theirs = self.ours(row, option)["loss"], self.peer(row, option)["loss"]
        mine, others = (load_file(self.workload(row) / f"{side}.safetensors") for side in ("ours", "peer"))
        if mine.keys() != others.keys():
            raise SystemExit(f"the two sides train different parameters: {mine.keys() ^ others.keys()}")
        apart = max(float((mine[name] - others[name]).norm() / others[name].norm()) for name in mine)
        if abs(ours / theirs - 1) > LOSS_TOLERANCE or apart > GRADIENT_TOLERANCE:
            raise SystemExit(f"the two sides disagree: losses {ours}, {theirs}; gradients by {apart}")
        return {"loss_ours": ours, "loss_peer": theirs, "gradients_apart": apart}

    def compare(self, row: Row, runs: int) -> Json:
        """Time both sides by turns."""
        found: dict[str, list[Json]] = {"ours": [], "peer": []}
        for run in range(runs):
            sides = [("ours", self.ours), ("peer", self.peer)]
            for name, side in sides if run % 2 == 0 else reversed(sides):
                found[name].append(side(row))
        ours, theirs = _summary(found["ours"]), _summary(found["peer"])
        return {
            "dtype": row[0],
            "supervised_fraction": round(workload.read(self.workload(row)).fraction, 3),
            "ours": ours,
            "peer": theirs,
            "ratio": round(ours["tokens_per_second"] / theirs["tokens_per_second"], 2),
            "ratio_cpu": round(ours["tokens_per_cpu_second"] / theirs["tokens_per_cpu_second"], 2),
        }

    def anatomy(self, row: Row, tokens_per_second: float) -> Json:
        """Say what our step is made of; `tokens_per_second` was measured without the instruments."""
        found = self.ours(row, "--anatomy")
        done = workload.read(self.workload(row))
        tokens = sum(done.rows[member].length for members in done.packs[WARM:] for member in members)
        speed = found["counted_flops"] / tokens * tokens_per_second
        return {
            "dtype": row[0],
            "matmul_fraction": round(speed / found["flops_peak_at_shapes"], 3),
            "matmul_fraction_of_4096": round(speed / found["flops_peak_large"], 3),
            "counted_per_model_flops": round(found["counted_flops"] / found["model_flops"], 4),
            "gflop_per_token": round(found["counted_flops"] / tokens / 1e9, 4),
            "gflops_peak_at_shapes": round(found["flops_peak_at_shapes"] / 1e9),
            "gflops_peak_of_4096": round(found["flops_peak_large"] / 1e9),
            "split": found["split"],
        }

    def online(self, row: Row, tokens_per_second: float) -> Json:
        """Add a teacher of the demo's shape to the measured speed: each token is seen by both, one after the other."""
        found = self.ours(row, "--teacher")
        teacher = sum(found["tokens"]) / sum(found["seconds"])
        both = 1 / (1 / teacher + 1 / tokens_per_second)
        return {"dtype": row[0], "tokens_per_second": round(both), "teacher_tokens_per_second": round(teacher)}


def _summary(runs: Sequence[Json]) -> Json:
    """Medians over runs."""
    speeds = [sum(run["tokens"]) / sum(run["seconds"]) for run in runs]
    frugal = [sum(run["tokens"]) / sum(run["cpu_seconds"]) for run in runs]
    return {
        "tokens_per_second": round(statistics.median(speeds), 1),
        "tokens_per_cpu_second": round(statistics.median(frugal), 1),
        "peak_rss_mib": statistics.median(run["peak_rss_mib"] for run in runs),
        "runs_tokens_per_second": [round(speed, 1) for speed in speeds],
    }


def machine(threads: int) -> Json:
    """Say what the figures were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = facts.get("flags", "").split()
    return {
        "cpu": facts.get("model name", platform.machine()),
        "cores": len(os.sched_getaffinity(0)),
        "threads": threads,
        "matrix_instructions": [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags],
        "bfloat16_in_hardware": bool({"avx512_bf16", "amx_bf16"} & set(flags)),
        "load_average_at_start": os.getloadavg()[0],
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("torch", "transformers")},
    }


def show(report: Json) -> None:
    """Print the figures as a table."""
    heads = ("supervised", "ours tok/s", "peer tok/s", "ratio", "by CPU", "ours MiB", "peer MiB")
    print(f"\n{'':10}" + "".join(f"{head:>12}" for head in heads))
    for row in report["rows"]:
        ours, theirs = row["ours"], row["peer"]
        speeds = (row["supervised_fraction"], ours["tokens_per_second"], theirs["tokens_per_second"])
        cells = (*speeds, row["ratio"], row["ratio_cpu"], ours["peak_rss_mib"], theirs["peak_rss_mib"])
        print(f"{row['dtype']:10}" + "".join(f"{cell:>12}" for cell in cells))
    for row in report["online"]:
        print(f"{row['dtype']:10}online, with the teacher: {row['tokens_per_second']} tok/s")
    for row in report["anatomy"]:
        split = ", ".join(f"{part} {share:.0%}" for part, share in row["split"].items())
        print(f"{row['dtype']:10}matmul fraction {row['matmul_fraction']} ({split})")
    if max(report["machine"]["load_average_at_start"], os.getloadavg()[1]) > BUSY * report["machine"]["cores"]:
        print("Others used this machine: matmul fraction and speeds by the clock do not hold; ratios by CPU do.")


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one run a row, fewer and smaller steps: some minutes")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--runs", type=int)
    parser.add_argument("--steps", type=int, help="optimiser steps that are timed in each run")
    given = parser.parse_args()
    runs = given.runs or (QUICK_RUNS if given.quick else RUNS)
    timed = given.steps or (QUICK_OPTIMISER_STEPS if given.quick else OPTIMISER_STEPS)
    pack_tokens = QUICK_PACK_TOKENS if given.quick else PACK_TOKENS
    report: Json = {
        "machine": machine(given.threads),
        "parameters": {
            "target": "SmolLM2-135M's shape, random weights",
            "architecture": SMOLLM2.architecture,
            "draft_vocabulary": SMOLLM2.draft_vocab_size,
            "draft_steps": STEPS,
            "pack_tokens": pack_tokens,
            "optimiser_steps": timed,
            "max_length": MAX_LENGTH,
            "loss": "KL",
            "optimiser": "AdamW, head trained",
            "runs": runs,
        },
        "peer": {"is": PEER},
    }
    rows = QUICK if given.quick else FULL
    with tempfile.TemporaryDirectory(prefix="specop-bench-") as folder:
        bench = Bench(Path(folder), given.threads, timed, pack_tokens)
        report["check"] = bench.check()
        report["rows"] = []
        for row in rows:
            print(f"{row[0]}, {row[1]:.0%} supervised", flush=True)
            report["rows"].append(bench.compare(row, runs))
        speeds = {row: found["ours"]["tokens_per_second"] for row, found in zip(rows, report["rows"], strict=True)}
        demo = [row for row in rows if row[1] == DEMO][: 1 if given.quick else None]
        report["anatomy"] = [bench.anatomy(row, speeds[row]) for row in demo]
        report["online"] = [bench.online(row, speeds[row]) for row in demo]
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps(report, indent=1))
    show(report)
    print(f"\n{REPORT.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
