"""The processes of one run: which of them this is, and the few things that they say to each other.

Who is who comes from the environment, in torchrun's names (RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR,
MASTER_PORT); without it a process is alone, and everything here is free. Rank 0 is the leader: it alone writes to
storage, shows progress and speaks for the run.

Two ways to talk. Collectives (gloo on CPU tensors, NCCL on CUDA tensors) carry what a step needs; all ranks call them
in the same order. The store, a small key-value server in the leader's process, carries what takes long or comes
unasked: `meet` waits hours if it must, and a rank that leaves early is noticed by all that wait.

Races: a peer may be gone at any time. Whoever notices raises `PeerLost`, which is a `Preempted`: its own failure is
counted where it happened, and this process has nothing to be blamed for. Only a group that never came together is an
ordinary failure, so that a network which does not work is not tried for ever.
"""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from specop.storage.job import Preempted

T = TypeVar("T")

JOIN_TIMEOUT = timedelta(minutes=30)
"""For all processes to come together: pods of one Job may wait for their nodes."""
COLLECTIVE_TIMEOUT = timedelta(minutes=30)
"""For one collective; ranks are never further apart than a step or an evaluation."""
POLL_SECONDS = 0.1
LEAVE_SECONDS = 5.0
"""That the leader, who holds the store, stays for the others to see that it has left."""
_STOP, _LEFT, _SEEN = "specop/stop", "specop/left", "specop/seen"


class PeerLost(Preempted):
    """Another process of the run is gone; a new attempt goes on from the newest checkpoint."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a process stands among all."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @classmethod
    def from_environment(cls) -> "Place":
        """Read torchrun's variables."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        return cls(*(int(os.environ.get(name, default)) for name, default in zip(names, "0101", strict=True)))

    @property
    def nodes(self) -> int:
        """Machines of the run."""
        return self.size // self.local_size


class Group:
    """All processes of a run, seen from one of them."""

    def __init__(self, place: Place | None = None) -> None:
        self.place = place or Place()
        self._stopping = threading.Event()
        self._store: Store | None = None

    @property
    def alone(self) -> bool:
        """Whether there is one process only."""
        return self.place.size == 1

    @property
    def leader(self) -> bool:
        """Whether this is rank 0."""
        return self.place.rank == 0

    def join(self, device: torch.device, stopping: threading.Event) -> None:
        """Come together with the others; raises RuntimeError where that fails. `stopping`: SIGTERM came to this one."""
        self._stopping = stopping
        if self.alone:
            return
        store, rank, size = next(rendezvous("env://", timeout=JOIN_TIMEOUT))
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(
            backend,
            store=PrefixStore("collectives", store),
            rank=rank,
            world_size=size,
            timeout=COLLECTIVE_TIMEOUT,
            device_id=device if device.type == "cuda" else None,
        )
        self._store = PrefixStore("run", store)
        for where in {"cpu", device.type}:
            dist.all_reduce(torch.zeros((), device=where))

    def share(self, items: list[T]) -> list[T]:
        """Items that are this rank's: every `size`-th. There may be none."""
        return items[self.place.rank :: self.place.size]

    def sum(self, tensor: Tensor) -> Tensor:
        """Add a tensor up over all ranks, in place. Collective."""
        if not self.alone:
            with watching():
                dist.all_reduce(tensor)
        return tensor

    def copy(self, tensor: Tensor, rank: int = 0) -> Tensor:
        """Give all ranks one rank's tensor, the leader's if not said, in place. Collective."""
        if not self.alone:
            with watching():
                dist.broadcast(tensor, rank)
        return tensor

    def tell(self, value: T) -> T:
        """Give all ranks the leader's value, which can be pickled. Collective."""
        if self.alone:
            return value
        values = [value]
        with watching():
            dist.broadcast_object_list(values, 0, device=torch.device("cpu"))
        return values[0]

    def gather(self, value: T) -> list[T]:
        """Return everybody's value, which can be pickled, in order of rank. Collective."""
        if self.alone:
            return [value]
        values: list[Any] = [None] * self.place.size
        with watching():
            dist.all_gather_object(values, value)
        return values

    def meet(self, name: str) -> None:
        """Wait until all are at this point of the run, however long it takes; raises Preempted once one has left."""
        if self._store is None:
            return
        with watching():
            if self._store.add(f"{name}/arrived", 1) == self.place.size:
                self._store.set(f"{name}/all", "")
            while not self._store.check([f"{name}/all"]):
                if self._stopping.is_set() or self._store.check([_STOP]):
                    raise Preempted
                time.sleep(POLL_SECONDS)

    def outlast_leader(self) -> None:
        """Wait until the leader has ended, well or not; raises Preempted at SIGTERM."""
        with suppress(PeerLost), watching():
            while self._store is not None and not self._store.check([_LEFT]):
                if self._stopping.is_set():
                    raise Preempted
                time.sleep(POLL_SECONDS)
            if self._store is not None:
                self._store.add(_SEEN, 1)

    def leave(self, code: int) -> None:
        """Say that this process ends, with which exit code, and take the group down."""
        if self._store is None:
            return
        with suppress(RuntimeError):  # the leader, and the store with it, may be gone
            if code:
                self._store.set(_STOP, "")
            if self.leader:
                self._store.set(_LEFT, "")
                deadline = time.monotonic() + (0 if code else LEAVE_SECONDS)
                while self._store.add(_SEEN, 0) < self.place.size - 1 and time.monotonic() < deadline:
                    time.sleep(POLL_SECONDS)
        self._store = None
        dist.destroy_process_group()


@contextmanager
def watching() -> Iterator[None]:
    """Turn what torch raises when a peer does not answer into PeerLost; for collectives, and nothing but them."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise PeerLost("another process of the run is gone") from error
