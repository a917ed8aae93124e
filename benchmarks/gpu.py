"""How fast a drafter is trained on one GPU: `python -m benchmarks.gpu` prints figures, and writes them to $OUT if set.

It is: forward, loss, backward, clipping and AdamW of our trainer on a drafter of Llama-3.1-8B's shape, random weights
and states, packs of two documents of 2048 tokens, bfloat16 products, float32 masters. Some minutes; no download.
Fixed packs lie on the GPU already, and how long reading one takes is said apart; the varied ones come as in a run, each
of other lengths, from disk by way of the feed.
It is not: a run: no teacher, no evaluation, no checkpoints.

Steps are timed one by one, after as many as it takes until two agree; the median counts, the slowest is said, and so
are compilations and collections of garbage in the meantime, which are what makes one slow.

MFU: executed operations (`specop.common.flops`) by time by 989 TFLOP/s, what an H100 or H200 does dense in bfloat16.
"""

import gc
import json
import math
import os
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch._dynamo.utils import counters
from torch.profiler import ProfilerActivity, profile

from benchmarks.workload import MEDIAN_TOKENS, Tensors, Workload, blocks, draw_rows
from specop.trainer import fusion
from specop.trainer.batches import Pack
from specop.trainer.feed import feed
from specop.trainer.losses import Labels, head_loss, step_weights
from specop.trainer.meter import flops_per_token
from specop.trainer.model import Eagle3
from specop.trainer.optim import Optimiser, optimiser
from specop.trainer.vocabulary import draft_ids
from tests.trainer.packs import LLAMA_8B

Json = dict[str, Any]
PEAK = 989e12
LENGTH, DOCUMENTS = 2048, 2
TIMED = 8
WARM_AT_MOST, AGREEING = 20, 0.03
"""Steps before the timed ones, and how far the last two of them may differ."""
VARIED = 16
"""Packs of different lengths: taken once before the clock starts, once while it runs."""
VARIED_FRACTION = 0.27
"""Supervised share of the varied packs: the demo's."""
CASES = ((7, 1.0), (3, 1.0), (7, 0.3), (3, 0.3))
"""Draft steps, and the share of tokens that is supervised."""
PARTS = ("unroll", "loss", "backward", "clip", "optimiser")


class Bench:
    """One workload on the GPU."""

    def __init__(self, folder: Path, workload: Workload) -> None:
        """`folder` is read whenever a pack is."""
        self.workload = workload
        self.tensors = Tensors(workload, "cuda")
        self.states = blocks(folder, workload, self.tensors)
        self.ids_V = draft_ids(self.tensors.vocabulary_D.cpu(), LLAMA_8B.vocab_size).cuda()
        self.head_DH = self.tensors.head_DH.bfloat16()

    @classmethod
    def fixed(cls, folder: Path, fraction: float) -> "Bench":
        """Whole documents, always the same pack."""
        rows = draw_rows(DOCUMENTS, fraction, LENGTH, LLAMA_8B.vocab_size, median=100 * LENGTH)  # all are cut to LENGTH
        return cls(folder, Workload(LLAMA_8B, CASES[0][0], DOCUMENTS * LENGTH, "BFloat16", 1, rows, seed=1))

    @classmethod
    def varied(cls, folder: Path) -> "Bench":
        """Packs as a run has them: documents, anchors and lengths differ in each."""
        count = math.ceil(1.2 * VARIED * DOCUMENTS * LENGTH / MEDIAN_TOKENS)
        rows = draw_rows(count, VARIED_FRACTION, LENGTH, LLAMA_8B.vocab_size)
        return cls(folder, Workload(LLAMA_8B, CASES[0][0], DOCUMENTS * LENGTH, "BFloat16", VARIED, rows, seed=1))

    def read(self) -> tuple[Pack, float]:
        """Read the fixed pack some times; the least seconds it took."""
        found = []
        for _ in range(3):
            began = time.perf_counter()
            pack = self.states.pack(range(DOCUMENTS), torch.device("cuda"))
            torch.cuda.synchronize()
            found.append(time.perf_counter() - began)
        return pack, min(found)

    def drafter(self) -> tuple[Eagle3, Optimiser]:
        """Return a new drafter and its optimiser."""
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        model = Eagle3(LLAMA_8B, self.tensors.embedding_VH)
        model.initialise(self.tensors.head_DH, seed=0)
        model.cuda()
        return model, optimiser(model, self.workload.recipe)

    def step(
        self, model: Eagle3, optimiser: Optimiser, steps: int, pack: Pack, members: Sequence[int]
    ) -> list[torch.cuda.Event]:
        """One optimiser step on a pack of these rows; events around its parts."""
        recipe = self.workload.recipe
        events = [_mark()]
        with torch.autocast("cuda", torch.bfloat16):
            hidden_KAH = torch.stack(list(model.unroll(pack, steps)))
        events.append(_mark())
        labelled = (self.workload.rows[member].labels(steps) for member in members)
        counts = [sum(column) for column in zip(*labelled, strict=True)]
        labels = Labels(
            pack.last_AH, pack.lse_A, self.ids_V[pack.argmax_A.long()], self.ids_V[pack.served_A], pack.end_A
        )
        loss, _ = head_loss(
            hidden_KAH,
            model.lm_head.weight,
            labels,
            teacher=lambda last_CH: last_CH @ self.head_DH.T,
            weights=step_weights(recipe.loss, recipe.step_decay, counts, None),
            compute=torch.bfloat16,
        )
        events.append(_mark())
        loss.backward()  # type: ignore[no-untyped-call]
        events.append(_mark())
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
        events.append(_mark())
        optimiser.step()
        optimiser.zero_grad()
        events.append(_mark())
        return events

    def measure(self, steps: int) -> Json:
        """Time steps on the fixed pack."""
        (model, optimiser), members = self.drafter(), range(DOCUMENTS)
        pack, reading_seconds = self.read()
        warm: list[float] = []
        while len(warm) < WARM_AT_MOST and not (len(warm) > 1 and abs(warm[-1] / warm[-2] - 1) < AGREEING):
            began = time.perf_counter()
            self.step(model, optimiser, steps, pack, members)
            torch.cuda.synchronize()
            warm.append(time.perf_counter() - began)
        with disturbances() as disturbed:
            timed = [self.step(model, optimiser, steps, pack, members) for _ in range(TIMED)]
            timed.append([_mark()])
            torch.cuda.synchronize()
        taken = [first[0].elapsed_time(second[0]) for first, second in pairwise(timed)]
        split = {
            part: round(statistics.median(events[i].elapsed_time(events[i + 1]) for events in timed[:-1]), 2)
            for i, part in enumerate(PARTS)
        }
        return {
            **self._figures(steps, members, statistics.median(taken) / 1000),
            "slowest_step_ms": round(max(taken), 2),
            "milliseconds": split,
            "while_timed": disturbed,
            "warm_steps_ms": [round(1000 * seconds) for seconds in warm],
            "reading_a_pack_ms": round(1000 * reading_seconds, 1),
        }

    def run(self, steps: int) -> Json:
        """Train on the varied packs as they come from the feed; whether another length compiles anything."""
        (model, optimiser), packs = self.drafter(), self.workload.packs
        waited = 0.0
        with closing(feed(self.states, [*packs, *packs], torch.device("cuda"))) as ready:
            for members in packs:
                self.step(model, optimiser, steps, next(ready), members)
            torch.cuda.synchronize()
            began = time.perf_counter()
            with disturbances() as disturbed:
                for members in packs:
                    asked = time.perf_counter()
                    pack = next(ready)
                    waited += time.perf_counter() - asked
                    self.step(model, optimiser, steps, pack, members)
                torch.cuda.synchronize()
            seconds = (time.perf_counter() - began) / len(packs)
        lengths = [sum(self.workload.rows[member].length for member in members) for members in packs]
        return {
            **self._figures(steps, [member for members in packs for member in members], seconds, len(packs)),
            "tokens_of_packs": [min(lengths), max(lengths)],
            "waited_for_a_pack_ms": round(1000 * waited / len(packs), 1),
            "while_timed": disturbed,
        }

    def _figures(self, steps: int, members: Sequence[int], seconds: float, packs: int = 1) -> Json:
        """Speed of a step of so many seconds, the mean over packs of all these rows."""
        rows = [self.workload.rows[member] for member in members]
        tokens = sum(row.length for row in rows) / packs
        executed = flops_per_token(LLAMA_8B, rows, steps)
        return {
            "draft_steps": steps,
            "supervised_fraction": round(self.workload.fraction, 3),
            "tokens_per_second": round(tokens / seconds),
            "mfu": round(executed * tokens / seconds / PEAK, 4),
            "gflop_per_token": round(executed / 1e9, 3),
            "step_ms": round(1000 * seconds, 2),
            "peak_memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
        }

    def kernels(self, steps: int) -> str:
        """Return a table of the kernels of one step, those that take longest first."""
        (model, optimiser), pack, members = self.drafter(), self.read()[0], range(DOCUMENTS)
        self.step(model, optimiser, steps, pack, members)
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
            self.step(model, optimiser, steps, pack, members)
            torch.cuda.synchronize()
        kernels = profiler.key_averages()
        return str(kernels.table(sort_by="self_cuda_time_total", row_limit=40, max_name_column_width=70))


@contextmanager
def disturbances() -> Iterator[Json]:
    """Graphs that are compiled inside the block, and the milliseconds of its longest collection of garbage."""
    found: Json = {"graphs_compiled": 0, "longest_collection_ms": 0.0}
    compiled, began = counters["stats"]["unique_graphs"], 0.0

    def watch(phase: str, _: dict[str, int]) -> None:
        nonlocal began
        now = time.perf_counter()
        if phase == "stop":
            found["longest_collection_ms"] = max(found["longest_collection_ms"], round(1000 * (now - began), 1))
        began = now

    gc.callbacks.append(watch)
    try:
        yield found
    finally:
        gc.callbacks.remove(watch)
        found["graphs_compiled"] = counters["stats"]["unique_graphs"] - compiled


def _mark() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event


def peak_of_4096() -> float:
    """Operations per second of a bfloat16 product of 4096³: what the card reaches, beside what its maker says."""
    a, b = torch.randn(2, 4096, 4096, device="cuda", dtype=torch.bfloat16)
    for _ in range(3):
        a @ b
    marks = [_mark()]
    for _ in range(20):
        a @ b
        marks.append(_mark())
    torch.cuda.synchronize()
    milliseconds: float = min(first.elapsed_time(second) for first, second in pairwise(marks))
    return 2 * 4096**3 / milliseconds * 1000


def attempt(name: str, report: Json, work: Callable[[], Any]) -> None:
    """Keep what a part found, or how it failed: a figure that is missing costs no other."""
    began = time.perf_counter()
    try:
        report[name] = work()
    except Exception:  # noqa: BLE001 - told in the report
        report[name] = {"failed": traceback.format_exc()[-3000:]}
    print(f"{name} ({time.perf_counter() - began:.0f} s): {json.dumps(report[name])[:700]}", flush=True)


def main() -> int:
    """Run the benchmark."""
    report: Json = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "target": "Llama-3.1-8B's shape, random weights",
        "pack": f"{DOCUMENTS} documents of {LENGTH} tokens",
        "peak_tflops": PEAK / 1e12,
    }
    attempt("tflops_of_4096", report, lambda: round(peak_of_4096() / 1e12))
    for fraction in sorted({fraction for _, fraction in CASES}, reverse=True):
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench.fixed(Path(folder), fraction)
            for steps in (steps for steps, share in CASES if share == fraction):
                attempt(f"K{steps}, {fraction:.0%} supervised", report, partial(bench.measure, steps))
            if fraction == CASES[0][1]:
                attempt("kernels", report, partial(bench.kernels, CASES[0][0]))
                with fusion.without():
                    attempt(f"K{CASES[0][0]}, not fused", report, partial(bench.measure, CASES[0][0]))
            del bench
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench.varied(Path(folder))
        for steps in sorted({steps for steps, _ in CASES}, reverse=True):
            attempt(f"K{steps}, as a run", report, partial(bench.run, steps))
    if out := os.environ.get("OUT"):
        (Path(out) / "gpu.json").write_text(json.dumps(report, indent=1))
        if isinstance(report["kernels"], str):
            (Path(out) / "kernels.txt").write_text(report["kernels"])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
