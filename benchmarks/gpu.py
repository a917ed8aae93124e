"""How fast a drafter is trained on one GPU: `python -m benchmarks.gpu` prints figures, and writes them to $OUT if set.

It is: forward, loss, backward, clipping and AdamW of our trainer on a drafter of Llama-3.1-8B's shape, random weights
and states, packs of two documents of 2048 tokens, bfloat16 products, float32 masters. Some minutes; no download.
It is not: a run: packs lie on the GPU already; how long reading one takes is said apart.

MFU: executed operations (`specop.common.flops`) by time by 989 TFLOP/s, what an H100 or H200 does dense in bfloat16.
"""

import json
import os
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.workload import LLAMA_8B, Tensors, Workload, blocks, draw_rows
from specop.trainer import fusion
from specop.trainer.batches import Pack
from specop.trainer.losses import Labels, head_loss, step_weights
from specop.trainer.meter import flops_per_token
from specop.trainer.model import Eagle3
from specop.trainer.optim import adamw
from specop.trainer.vocabulary import draft_ids

Json = dict[str, Any]
PEAK = 989e12
LENGTH, DOCUMENTS = 2048, 2
WARM, TIMED = 3, 6
CASES = ((7, 1.0), (3, 1.0), (7, 0.3), (3, 0.3))
"""Draft steps, and the share of tokens that is supervised."""
PARTS = ("unroll", "loss", "backward", "clip", "optimiser")


class Bench:
    """One workload on the GPU."""

    def __init__(self, folder: Path, fraction: float) -> None:
        rows = draw_rows(DOCUMENTS, fraction, LENGTH, LLAMA_8B.vocab_size, median=100 * LENGTH)  # all are cut to LENGTH
        self.workload = Workload(LLAMA_8B, CASES[0][0], DOCUMENTS * LENGTH, "BFloat16", 1, rows, seed=1)
        self.tensors = Tensors(self.workload, "cuda")
        self.states = blocks(folder, self.workload, self.tensors)
        self.pack, self.reading_seconds = self._read()
        self.ids_V = draft_ids(self.tensors.vocabulary_D.cpu(), LLAMA_8B.vocab_size).cuda()
        self.head_DH = self.tensors.head_DH.bfloat16()

    def _read(self) -> tuple[Pack, float]:
        found = []
        for _ in range(3):
            began = time.perf_counter()
            pack = self.states.pack(range(DOCUMENTS), torch.device("cuda"))
            torch.cuda.synchronize()
            found.append(time.perf_counter() - began)
        return pack, min(found)

    def step(self, model: Eagle3, optimiser: torch.optim.Optimizer, steps: int) -> list[torch.cuda.Event]:
        """One optimiser step; events around its parts."""
        pack, recipe = self.pack, self.workload.recipe
        events = [_mark()]
        with torch.autocast("cuda", torch.bfloat16):
            hidden_KAH = torch.stack(list(model.unroll(pack, steps)))
        events.append(_mark())
        counts = [sum(column) for column in zip(*(row.labels(steps) for row in self.workload.rows), strict=True)]
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
        """Time some steps; the first ones compile."""
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        model = Eagle3(LLAMA_8B, self.tensors.embedding_VH)
        model.initialise(self.tensors.head_DH, seed=0)
        model.cuda()
        optimiser = adamw(model, self.workload.recipe)
        began = time.perf_counter()
        for _ in range(WARM):
            self.step(model, optimiser, steps)
        torch.cuda.synchronize()
        warm, began = time.perf_counter() - began, time.perf_counter()
        timed = [self.step(model, optimiser, steps) for _ in range(TIMED)]
        torch.cuda.synchronize()
        seconds = (time.perf_counter() - began) / TIMED
        split = {
            part: round(statistics.median(events[i].elapsed_time(events[i + 1]) for events in timed), 2)
            for i, part in enumerate(PARTS)
        }
        tokens = len(self.pack.next_N)
        executed = flops_per_token(LLAMA_8B, self.workload.rows, steps)
        return {
            "draft_steps": steps,
            "supervised_fraction": round(self.workload.fraction, 3),
            "tokens_per_second": round(tokens / seconds),
            "mfu": round(executed * tokens / seconds / PEAK, 4),
            "gflop_per_token": round(executed / 1e9, 3),
            "step_ms": round(1000 * seconds, 2),
            "peak_memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
            "milliseconds": split,
            "warm_seconds": round(warm, 1),
            "reading_a_pack_ms": round(1000 * self.reading_seconds, 1),
        }

    def kernels(self, steps: int) -> str:
        """Return a table of the kernels of one step, those that take longest first."""
        model = Eagle3(LLAMA_8B, self.tensors.embedding_VH)
        model.initialise(self.tensors.head_DH, seed=0)
        model.cuda()
        optimiser = adamw(model, self.workload.recipe)
        self.step(model, optimiser, steps)
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
            self.step(model, optimiser, steps)
            torch.cuda.synchronize()
        return profiler.key_averages().table(sort_by="self_cuda_time_total", row_limit=40, max_name_column_width=70)


def _mark() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
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
    return 2 * 4096**3 / min(first.elapsed_time(second) for first, second in pairwise(marks)) * 1000


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
            bench = Bench(Path(folder), fraction)
        for steps in (steps for steps, share in CASES if share == fraction):
            attempt(f"K{steps}, {fraction:.0%} supervised", report, lambda k=steps, b=bench: b.measure(k))
        if fraction == CASES[0][1]:
            attempt("kernels", report, lambda b=bench: b.kernels(CASES[0][0]))
            with fusion.without():
                attempt(f"K{CASES[0][0]}, not fused", report, lambda b=bench: b.measure(CASES[0][0]))
        del bench
    if out := os.environ.get("OUT"):
        (Path(out) / "gpu.json").write_text(json.dumps(report, indent=1))
        if isinstance(report["kernels"], str):
            (Path(out) / "kernels.txt").write_text(report["kernels"])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
