"""Which matrix products a step makes, and how fast the machine makes them.

A peak is measured, not read from a data sheet: a product of 4096³; and the step's own products, each alone and warm,
one after another. What is lost between the second and a step's time is lost to everything that is not a matrix product.
Not here: how many operations a step should take; that is `specop.common.flops`.
"""

import time
from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

PRODUCTS = {torch.ops.aten.mm, torch.ops.aten.bmm, torch.ops.aten.addmm, torch.ops.aten.baddbmm}
LARGE = 4096
REPEATS = 5
Operand = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]
"""Shape, strides and type of one factor."""


class Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps which matrix products were made, and how often."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
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
