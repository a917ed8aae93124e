"""Our side of `make bench-train`: the trainer's own loop over a workload, in a process of its own.

It is: `Loop` as a training Job runs it, states read from its blocks. Clocks are taken where the loop shows its
progress, from one optimiser step's end to the next; what follows the last step (evaluation, checkpoint) is left out.
It is not: a Job: no download, and no teacher but where one is asked for.
"""

import argparse
import json
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch._C._profiler import _ExperimentalConfig
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks import products
from benchmarks.workload import DIGEST, Drawn, Tensors, normed, read, sizes
from specop.storage.local import LocalStore
from specop.trainer.batches import Pack
from specop.trainer.checkpoint import Checkpoints, Progress
from specop.trainer.config import DTYPES
from specop.trainer.libraries import keep_freed
from specop.trainer.loop import Course, Loop
from specop.trainer.losses import Labels, head_loss, step_weights
from specop.trainer.meter import flops_per_token
from specop.trainer.states import States
from specop.trainer.teacher import Teacher
from specop.trainer.vocabulary import draft_ids

Json = dict[str, Any]
ALL_THREADS = _ExperimentalConfig(profile_all_threads=True)
"""The loader is a thread of its own."""
PRODUCTS = {"aten::mm", "aten::bmm", "aten::addmm", "aten::baddbmm"}
PARTS = {
    "_TTTAttention": "attention",
    "_TTTAttentionBackward": "attention",
    "_HeadLoss": "loss",
    "_HeadLossBackward": "loss",
    "loader": "loader",
}
"""What the profiler calls an operation, and the part that it and all within it belong to; products are a part apart."""


class Enough(Exception):
    """The last step has been timed."""


class Named(States):
    """States whose reading the profiler sees."""

    def pack(self, *given: Any, **named: Any) -> Pack:
        """Assemble a pack, under a name."""
        with record_function("loader"):
            return super().pack(*given, **named)


class Ours:
    """Our trainer over one workload."""

    def __init__(self, folder: Path, scratch: Path) -> None:
        self.folder, self.scratch = folder, scratch
        self.workload = read(folder)
        self.tensors = Tensors(self.workload)
        source = Drawn(self.workload, self.tensors)
        self.states = Named(folder / "blocks", self.workload.rows, source, sizes(self.workload))
        self.states.fit(sys.maxsize)
        if self.states.missing():
            raise SystemExit("the workload's states are damaged")

    def run(self, warm: int, during: AbstractContextManager[Any] | None = None) -> Json:
        """Train anew; seconds and tokens of each step after the first `warm`, which pass within `during`."""
        loop, ends, used, tokens = self._loop(), [], [], []
        with ExitStack() as stack:

            def show(progress: Progress, total: int, _: float) -> None:
                ends.append(time.perf_counter())
                used.append(time.process_time())
                tokens.append(progress.tokens)
                if progress.step == warm and during is not None:
                    stack.enter_context(during)
                if progress.step == total:
                    raise Enough

            with suppress(Enough):
                loop.run(show)
        totals: dict[str, Sequence[float]] = {"seconds": ends, "cpu_seconds": used, "tokens": tokens}
        return {name: [x[step] - x[step - 1] for step in range(warm, len(x))] for name, x in totals.items()}

    def _loop(self) -> Loop:
        course = Course(
            recipe=self.workload.recipe,
            digest=DIGEST,
            train=self.states,
            holdout=self.states,
            vocabulary_D=self.tensors.vocabulary_D,
            teacher=self.tensors.teacher,
            device=torch.device("cpu"),
        )
        checkpoints = Checkpoints(self.scratch, LocalStore(), f"file://{self.scratch}/stored", DIGEST)
        return Loop(self.tensors.drafter(), course, checkpoints, threading.Event())

    def anatomy(self, warm: int) -> Json:
        """Operations of the steps, where their time goes, and what the machine can do."""
        counter, made = FlopCounterMode(display=False), products.Products()
        self.run(warm, both(counter, made))
        profiler = profile(activities=[ProfilerActivity.CPU], experimental_config=ALL_THREADS)
        self.run(warm, profiler)
        rows = [self.workload.rows[row] for members in self.workload.packs[warm:] for row in members]
        tokens = sum(row.length for row in rows)
        return {
            "counted_flops": counter.get_total_flops(),
            "model_flops": flops_per_token(self.workload.drafter, rows, self.workload.steps) * tokens,
            "flops_peak_at_shapes": products.peak_at(made.seen),
            "flops_peak_large": products.peak_large(DTYPES[self.workload.dtype]),
            "split": split(profiler),
        }

    def teacher(self) -> Json:
        """Time a random target of the demo's shape over the rows: what training without stored states adds."""
        c = self.workload.drafter
        layers = {"num_hidden_layers": 30, "tie_word_embeddings": True}
        model = LlamaForCausalLM(LlamaConfig(**{**c.llama(), **layers}))
        model.save_pretrained(self.scratch / "target")
        teacher = Teacher(self.scratch / "target", DTYPES[self.workload.dtype], torch.device("cpu"))
        seconds, tokens = [], []
        for members in self.workload.packs:
            rows = [self.workload.rows[row] for row in members]
            began = time.perf_counter()
            teacher.states(rows)
            seconds.append(time.perf_counter() - began)
            tokens.append(sum(row.length for row in rows))
        return {"seconds": seconds[1:], "tokens": tokens[1:]}

    def check(self, rows: list[int], steps: int, out: Path) -> Json:
        """Loss and gradients over a pack of these rows, in float32; the teacher's states are not rounded."""
        model, pack = self.tensors.drafter(), self.states.pack(rows, torch.device("cpu"))
        last_AH = torch.cat([self.tensors.states(row)[self._taught(row), -1].float() for row in rows])
        last_AH = normed(last_AH, self.workload.drafter)
        ids_V = draft_ids(self.tensors.vocabulary_D, self.workload.drafter.vocab_size)
        lse_A = (last_AH @ self.tensors.head_DH.T).logsumexp(-1)
        labels = Labels(last_AH, lse_A, ids_V[pack.argmax_A.long()], ids_V[pack.served_A], pack.end_A)
        counts = [sum(self.workload.rows[row].labels(steps)[k] for row in rows) for k in range(steps)]
        weights = step_weights(self.workload.recipe.loss, self.workload.recipe.step_decay, counts, None)
        hidden_KAH = torch.stack(list(model.unroll(pack, steps)))
        loss, _ = head_loss(
            hidden_KAH,
            model.lm_head.weight,
            labels,
            teacher=self.tensors.teacher,
            weights=weights,
            compute=torch.float32,
        )
        loss.backward()  # type: ignore[no-untyped-call]
        save_file({name: p.grad for name, p in model.named_parameters() if p.grad is not None}, out)
        return {"loss": loss.item()}

    def _taught(self, row: int) -> torch.Tensor:
        return torch.cat([torch.arange(start + 1, end + 1) for start, end in self.workload.rows[row].anchors])


@contextmanager
def both(first: AbstractContextManager[Any], second: AbstractContextManager[Any]) -> Iterator[None]:
    """Hold two context managers."""
    with first, second:
        yield


def split(profiler: profile) -> Json:
    """Share of the time in each part: an operation's own time, under the part of the nearest one that has a name."""
    found: dict[str, float] = defaultdict(float)
    for event in profiler.events():  # type: ignore[no-untyped-call]
        found[_part(event)] += event.self_cpu_time_total
    total = sum(found.values())
    return {part: round(value / total, 4) for part, value in sorted(found.items(), key=lambda item: -item[1])}


def _part(event: Any) -> str:
    if event.name in PRODUCTS:
        return "matmul"
    while event is not None:
        if event.name in PARTS:
            return PARTS[event.name]
        if event.name.startswith("Optimizer."):
            return "optimiser"
        event = event.cpu_parent
    return "other"


def main() -> None:
    """Answer in JSON on standard output."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_ours")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--warm", type=int, default=1)
    wanted = parser.add_mutually_exclusive_group()
    wanted.add_argument("--check", type=json.loads, help="[rows, draft steps]: loss and gradients instead of speed")
    wanted.add_argument("--anatomy", action="store_true", help="operations and where the time goes")
    wanted.add_argument("--teacher", action="store_true", help="speed of a target of the demo's shape")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    keep_freed()  # as a Job's process does
    with tempfile.TemporaryDirectory() as scratch:
        ours = Ours(given.folder, Path(scratch))
        if given.check:
            rows, steps = given.check
            answer = ours.check(rows, steps, given.folder / "ours.safetensors")
        elif given.anatomy:
            answer = ours.anatomy(given.warm)
        else:
            answer = ours.teacher() if given.teacher else ours.run(given.warm)
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
