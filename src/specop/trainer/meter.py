"""How well a run uses its device: MFU and memory.

MFU is the share of the device's peak that the drafter's own matrix products take: executed FLOPs of a trained token, a
mean over the rows of the run (`common/flops.py`), times tokens a second, over the peak. The peak is the vendor's dense
figure where the GPU is a known one, and elsewhere what one square product reaches when the run starts, so that on a CPU
a share of 100 % means as fast as its own matrix library, not as its data sheet.
"""

import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from specop.common.devices import DENSE_BFLOAT16, known_gpu
from specop.common.flops import DrafterShape, Work, training_flops
from specop.trainer.batches import Row
from specop.trainer.model import DrafterConfig

PROBE_SIZE = 1024
PROBES = 5
MEBIBYTE = 1 << 20
MEMORY_STEP = 64
"""MiB to which memory is rounded: a figure that moves with every step would be written with every step."""


@dataclass(frozen=True, slots=True)
class Meter:
    """Turns tokens a second into a share of the peak."""

    flops_per_token: float
    """Of training, a mean over the rows."""
    peak: float
    """FLOP/s of all devices together."""
    device: torch.device

    def mfu_percent(self, tokens_per_second: float) -> int:
        """Model FLOPs utilisation, rounded."""
        return round(100 * tokens_per_second * self.flops_per_token / self.peak)

    def memory_mib(self) -> int:
        """Peak memory so far: of the device where it has its own, else of the process; rounded."""
        if self.device.type == "cuda":
            used = torch.cuda.max_memory_reserved(self.device)
        else:
            used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
        return round(used / MEBIBYTE / MEMORY_STEP) * MEMORY_STEP


def flops_per_token(config: DrafterConfig, rows: Sequence[Row], steps: int) -> float:
    """Mean FLOPs of training on a token of these rows."""
    work = work_of(rows, steps)
    return training_flops(drafter_shape(config), work).total / max(work.tokens, 1)


def drafter_shape(config: DrafterConfig) -> DrafterShape:
    """Sizes as `common/flops.py` wants them."""
    return DrafterShape(
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        queries=config.num_heads * config.head_dim,
        keys=config.num_kv_heads * config.head_dim,
        captured=len(config.aux_layers),
        draft_vocab=config.draft_vocab_size,
        normed_states=config.modern,
    )


def work_of(rows: Sequence[Row], steps: int) -> Work:
    """Count what one pass over these rows computes."""
    ranges = [pair for row in rows for pair in row.anchors]
    return Work(
        tokens=sum(row.length for row in rows),
        anchors=sum(stop - start for start, stop in ranges),
        pairs=sum((stop - start) * (start + 1 + stop) / 2 for start, stop in ranges),
        steps=steps,
    )


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of dense matrix products of one device."""
    if device.type == "cuda" and dtype == torch.bfloat16:
        known = known_gpu(torch.cuda.get_device_name(device))
        if known is not None:
            return DENSE_BFLOAT16[known]
    return _measured(device, dtype)


@torch.no_grad()
def _measured(device: torch.device, dtype: torch.dtype) -> float:
    size = PROBE_SIZE * (8 if device.type == "cuda" else 1)
    a, b = torch.randn(2, size, size, device=device).to(dtype)
    best = float("inf")
    for _ in range(PROBES):
        began = time.perf_counter()
        float((a @ b)[0, 0])  # reading a value waits for the device
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best
