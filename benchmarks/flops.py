"""Floating-point operations of a training step, by a model and by torch's counter; and what the machine can do.

The model is that of one unrolled step, H hidden, K draft steps, C captured layers, a multiplication and an addition
being two operations, backward twice the forward:

    3 [ 2CH² n + K (2 P a + 2 H D a + 4 h d p) ] + 2 H D a

for n tokens, of which a are anchors that together see p keys; P are the layer's parameters, D the draft vocabulary, and
the last term is the teacher's head. Where an anchor is not computed, nothing but keys and values of step 0 is left.
Not in it: what attention computes twice or under its mask, norms, losses, the optimiser. The counter sees the first.

A peak is measured, not read from a data sheet: a matrix product of 4096³; and the step's own products, one after
another, each alone and warm.
"""

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from specop.trainer.batches import Row
from specop.trainer.model import DrafterConfig

PRODUCTS = {torch.ops.aten.mm, torch.ops.aten.bmm, torch.ops.aten.addmm, torch.ops.aten.baddbmm}
LARGE = 4096
REPEATS = 5
Operand = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]
"""Shape, strides and type of one factor."""


def model_flops(c: DrafterConfig, steps: int, rows: Sequence[Row]) -> float:
    """Operations of one forward and backward pass over rows, by the model above."""
    tokens = sum(row.length for row in rows)
    anchors = sum(row.labels(1)[0] for row in rows)
    keys = sum((end - start) * (end + start + 1) // 2 for row in rows for start, end in row.anchors)
    wide, narrow = c.num_heads * c.head_dim, 2 * c.num_kv_heads * c.head_dim
    fused = 2 * len(c.aux_layers) * c.hidden_size**2 * tokens
    cached = 2 * 2 * c.hidden_size * narrow * (tokens + (steps - 1) * anchors)
    layer = 2 * (3 * c.hidden_size * wide + 3 * c.hidden_size * c.intermediate_size) * steps * anchors
    head = 2 * c.hidden_size * c.draft_vocab_size * anchors
    attention = 4 * wide * keys * steps
    return 3.0 * (fused + cached + layer + head * steps + attention) + head


class Products(TorchDispatchMode):
    """Keeps which matrix products were made, and how often."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[tuple[Operand, Operand]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Let the operation through; note its factors where it is a product."""
        if func.overloadpacket in PRODUCTS:
            first, second = (x for x in args if isinstance(x, Tensor) and x is not _addend(func, args))
            self.seen[_operand(first), _operand(second)] += 1
        return func(*args, **(kwargs or {}))


def _addend(func: Any, args: Any) -> Tensor | None:
    return args[0] if func.overloadpacket in {torch.ops.aten.addmm, torch.ops.aten.baddbmm} else None


def _operand(x: Tensor) -> Operand:
    return tuple(x.shape), tuple(x.stride()), x.dtype


def product_flops(products: Counter[tuple[Operand, Operand]]) -> float:
    """Operations of matrix products."""
    return float(sum(count * _flops(first, second) for (first, second), count in products.items()))


def _flops(first: Operand, second: Operand) -> int:
    *batch, rows, inner = first[0]
    return 2 * (batch[0] if batch else 1) * rows * inner * second[0][-1]


def peak_at(products: Counter[tuple[Operand, Operand]]) -> float:
    """Operations per second over the products of a step, each made again alone."""
    seconds = sum(count * _seconds(first, second) for (first, second), count in products.items())
    return product_flops(products) / seconds


def peak_large(dtype: torch.dtype) -> float:
    """Operations per second of a product of 4096³."""
    square = ((LARGE, LARGE), (LARGE, 1), dtype)
    return _flops(square, square) / _seconds(square, square)


def _seconds(first: Operand, second: Operand) -> float:
    """Least time of a product: what the machine can do, whatever else runs."""
    a, b = _tensor(first), _tensor(second)
    found = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        torch.matmul(a, b)
        found.append(time.perf_counter() - began)
    return min(found)


def _tensor(operand: Operand) -> Tensor:
    """Fill a tensor of that shape, strides included: a transposed factor is another product."""
    shape, strides, dtype = operand
    size = 1 + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    return torch.randn(size).to(dtype).as_strided(shape, strides)
