"""How memory and speed grow: `make bench-scaling` writes build/bench/scaling.json.

Memory: what one step (forward, loss, backward) needs at its peak beyond weights, states and what was there before it,
against draft vocabulary, draft steps and length of one document, all of whose tokens are supervised. Beside it stands
what the logits of all draft steps would weigh if they were kept. Gradients of the weights are part of it.
Speed: tokens a second of our loop with one process and with two that share a batch (gloo), on the same workload.

It is not: a figure of a GPU, nor of a network; two processes of one machine share its memory bandwidth, and where
others use the machine, they share its cores. CPU seconds are given for that.
"""

import argparse
import json
import math
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.train import ROOT, machine
from benchmarks.workload import (
    DIGEST,
    MEDIAN_TOKENS,
    Drawn,
    Tensors,
    Workload,
    blocks,
    draw_rows,
    read,
    sizes,
    write_plan,
)
from specop.storage.local import LocalStore
from specop.trainer.checkpoint import Checkpoints, Progress
from specop.trainer.config import DTYPES
from specop.trainer.group import Group, Place
from specop.trainer.loop import Course, Loop
from specop.trainer.losses import step_weights
from specop.trainer.objective import Objective
from specop.trainer.states import States
from tests.trainer.packs import SMOLLM2

Json = dict[str, Any]
Size = tuple[int, int, int]
"""Draft vocabulary, draft steps, tokens of one document."""
REPORT = ROOT / "build" / "bench" / "scaling.json"
BASE: Size = (4096, 3, 1024)
QUICK: Sequence[Size] = [BASE, (49_152, 3, 1024), (4096, 7, 1024), (4096, 3, 4096)]
FULL: Sequence[Size] = [
    BASE,
    *((vocabulary, 3, 1024) for vocabulary in (16_384, 32_000, 49_152)),
    *((4096, steps, 1024) for steps in (1, 5, 7)),
    *((4096, 3, length) for length in (256, 2048, 4096, 8192)),
]
PACKS_A_STEP = 2
"""Packs of an optimiser step: one for each of two processes."""
PACK_TOKENS = 4096
FRACTION = 0.27
"""Share of tokens that is supervised where speed is measured: the demo's."""
STEPS = 3
"""Draft steps there."""
WARM = 1
MIB = 2**20


class Enough(Exception):
    """The last step has been timed."""


def peak(size: Size, folder: Path) -> Json:
    """Take one step of this size and say what it needed, in MiB."""
    vocabulary, steps, length = size
    drafter = replace(SMOLLM2, draft_vocab_size=vocabulary)
    rows = draw_rows(1, 1.0, length + 2, drafter.vocab_size, median=100 * length)  # cut to this length
    workload = Workload(drafter, steps, length, "Float32", 1, rows, seed=1)
    tensors = Tensors(workload)
    pack = blocks(folder, workload, tensors).pack([0], torch.device("cpu"))
    objective = Objective(
        tensors.drafter(),
        vocabulary_D=tensors.vocabulary_D,
        teacher=tensors.teacher,
        steps=steps,
        compute=DTYPES[workload.dtype],
    )
    weights = step_weights(workload.recipe.loss, workload.recipe.step_decay, rows[0].labels(steps), None)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins here
    before = _status("VmRSS")
    loss, _ = objective(pack, weights)
    loss.backward()
    parameters = sum(p.numel() for p in objective.parameters())
    return {
        "draft_vocabulary": vocabulary,
        "draft_steps": steps,
        "length": len(pack.next_N),
        "peak_of_a_step_mib": round((_status("VmHWM") - before) / MIB, 1),
        "of_which_gradients_mib": round(4 * parameters / MIB, 1),
        "all_logits_would_be_mib": round(4 * steps * len(pack.anchor_A) * vocabulary / MIB, 1),
    }


def _status(what: str) -> int:
    """Bytes, as the kernel counts them for this process."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(lines[what].split()[0])


def speed(folder: Path) -> Json:
    """Train on a written workload as one of the processes of a run; tokens are those of all."""
    workload, group, stopping = read(folder), Group(Place.from_environment()), threading.Event()
    tensors, device = Tensors(workload), torch.device("cpu")
    states = States(folder / "blocks", workload.rows, Drawn(workload, tensors), sizes(workload))
    states.fit(sys.maxsize)
    states.missing()
    group.join(device, stopping)
    course = Course(
        recipe=workload.recipe,
        digest=DIGEST,
        train=states,
        holdout=states,
        vocabulary_D=tensors.vocabulary_D,
        teacher=tensors.teacher,
        device=device,
    )
    ends: list[tuple[float, float, int]] = []

    def show(progress: Progress, total: int, _: float) -> None:
        ends.append((time.perf_counter(), time.process_time(), progress.tokens))
        if progress.step == total:
            raise Enough

    with tempfile.TemporaryDirectory() as scratch, suppress(Enough):
        checkpoints = Checkpoints(Path(scratch), LocalStore(), f"file://{scratch}/stored", DIGEST)
        Loop(tensors.drafter(), course, checkpoints, stopping, group).run(show)
    group.leave(0)
    seconds, used, done = (last - first for first, last in zip(ends[WARM - 1], ends[-1], strict=True))
    return {"seconds": seconds, "cpu_seconds": used, "tokens": done}


def processes(folder: Path, count: int, threads: int) -> Json:
    """Run `count` processes of `threads` threads each."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    places = [{**common, "RANK": rank, "LOCAL_RANK": rank} for rank in range(count)]
    started = [_start(["speed", str(folder)], threads, place) for place in places]
    found = [_answer(process) for process in started]
    done, seconds = found[0]["tokens"], found[0]["seconds"]
    return {
        "processes": count,
        "threads_each": threads,
        "tokens_per_second": round(done / seconds, 1),
        "tokens_per_cpu_second": round(done / sum(one["cpu_seconds"] for one in found), 1),
    }


def _start(arguments: list[str], threads: int, place: dict[str, Any]) -> "subprocess.Popen[str]":
    """Start this module as a worker; a process of its own begins with an allocator of its own."""
    environment = {
        **os.environ,
        **{name: str(value) for name, value in place.items()},
        "OMP_NUM_THREADS": str(threads),
        "CUDA_VISIBLE_DEVICES": "",
    }
    command = [sys.executable, "-m", "benchmarks.scaling", "--worker", *arguments]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


def _answer(process: "subprocess.Popen[str]") -> Json:
    said, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"a worker ended with {process.returncode}")
    found: Json = json.loads(said)
    return found


def worker(what: str, *given: str) -> None:
    """Answer in JSON on standard output."""
    if what == "peak":
        with tempfile.TemporaryDirectory() as folder:
            vocabulary, steps, length = map(int, given)
            answer = peak((vocabulary, steps, length), Path(folder))
    else:
        answer = speed(Path(given[0]))
    print(json.dumps(answer))


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer sizes and steps: some minutes")
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        worker(*given.worker)
        return 0
    timed = 2 if given.quick else 8
    report: Json = {"machine": machine(2), "drafter": asdict(SMOLLM2), "dtype": "Float32", "memory": [], "speed": []}
    for size in QUICK if given.quick else FULL:
        report["memory"].append(_answer(_start(["peak", *map(str, size)], 2, {})))
        print(json.dumps(report["memory"][-1]), flush=True)
    with tempfile.TemporaryDirectory(prefix="specop-bench-") as name:
        folder, batch = Path(name), PACKS_A_STEP * PACK_TOKENS
        rows = draw_rows(math.ceil(1.2 * (WARM + timed) * batch / MEDIAN_TOKENS), FRACTION, 2048, SMOLLM2.vocab_size)
        workload = Workload(SMOLLM2, STEPS, batch, "Float32", WARM + timed, rows, seed=1)
        write_plan(folder, workload)
        blocks(folder, workload, Tensors(workload))
        for count, threads in ((1, 1), (1, 2), (2, 1)):
            report["speed"].append(processes(folder, count, threads))
            print(json.dumps(report["speed"][-1]), flush=True)
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps(report, indent=1))
    print(REPORT.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
