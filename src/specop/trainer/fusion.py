"""Chains of elementwise operations as one kernel, where that pays: on CUDA.

Matrix products are made by their libraries everywhere. What lies between them moves memory, and on a GPU a chain that
is compiled moves it once instead of once an operation. On a CPU the same chains stay in cache and cost little, so
nothing is compiled there and a short run waits for no compiler.

Shapes are symbolic: packs differ in length, and a kernel serves all of them. Numerics are those of the function as it
is written. Without a C compiler, which Triton needs beside its own, the functions run as they are.
"""

import functools
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import ParamSpec, TypeVar

import torch

log = logging.getLogger(__name__)

_OFF = ContextVar("off", default=False)

P = ParamSpec("P")
R = TypeVar("R")


def fused(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a function of tensors when its first argument is on a GPU."""
    compiled: list[Callable[P, R]] = []

    @functools.wraps(function)
    def call(*given: P.args, **named: P.kwargs) -> R:
        if not _wanted(given[0]):
            return function(*given, **named)
        if not compiled:
            compiled.append(torch.compile(function, dynamic=True))
        return compiled[0](*given, **named)

    return call


def _wanted(first: object) -> bool:
    return isinstance(first, torch.Tensor) and first.is_cuda and _can_compile() and not _OFF.get()


@contextmanager
def without() -> Iterator[None]:
    """Run everything as it is written, to compare."""
    before = _OFF.set(True)
    try:
        yield
    finally:
        _OFF.reset(before)


@functools.cache
def _can_compile() -> bool:
    names = (os.environ.get("CC"), "gcc", "clang", "cc")
    if any(shutil.which(name) for name in names if name):
        return True
    log.warning("no C compiler was found: kernels are not fused, which makes training slower")
    return False
