"""Ranks of a training run as real processes, forked from one that has torch loaded."""

import json
import multiprocessing
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from specop.common.errors import EXIT_PREEMPTED
from specop.storage.local import LocalStore
from specop.trainer import batches
from specop.trainer.checkpoint import Checkpoints, Progress
from specop.trainer.group import Group, PeerLost, Place
from specop.trainer.loop import Loop
from tests.trainer.tiny_run import World, parts

PACK_TOKENS = 96
"""So small that a batch has more packs than ranks, and a number of them that no number of ranks divides."""


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def kill(processes: Sequence[BaseProcess]) -> None:
    for process in processes:
        process.kill()
    for process in processes:
        process.join()


@dataclass
class Run:
    """One run of a loop over some ranks; the leader appends step and loss to `losses`."""

    world: World
    folder: Path
    size: int
    sharded: bool = False
    changed: dict[str, Any] = field(default_factory=dict)
    """Hyperparameters, and checkpoint_seconds of the recipe itself."""
    last_leaves_in: str = ""
    """Collective of `Shards` in which the last rank ends without a word, at the third step."""
    port: int = field(default_factory=free_port)
    earlier: int = field(default=0, init=False)
    """Steps that runs in this folder had recorded before this one."""

    def start(self) -> list[BaseProcess]:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.earlier = len(self._records())
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.trainer.ranks"])
        processes: list[BaseProcess] = [
            context.Process(target=rank_main, args=(self, rank)) for rank in range(self.size)
        ]
        for process in processes:
            process.start()
        return processes

    def finish(self) -> dict[int, float]:
        processes = self.start()
        try:
            for process in processes:
                process.join()
        finally:
            kill(processes)
        assert [process.exitcode for process in processes] == [0] * self.size
        return self.losses()

    def kill_at(self, step: int) -> None:
        """Kill all ranks at once when this step is done."""
        processes = self.start()
        try:
            while max(self.losses(), default=0) < step:
                assert all(process.is_alive() for process in processes)
                time.sleep(0.01)
        finally:
            kill(processes)

    def kept(self) -> dict[str, Tensor]:
        """Tensors of the newest checkpoint."""
        return self._newest()[1]

    def kept_step(self) -> int:
        """Step after which the newest checkpoint was written."""
        return self._newest()[0].step

    def _newest(self) -> tuple[Progress, dict[str, Tensor]]:
        found = self.checkpoints().newest()
        assert found
        return found

    def checkpoints(self) -> Checkpoints:
        return Checkpoints(self.folder / "local", LocalStore(), f"file://{self.folder}/stored", "inputs")

    def losses(self) -> dict[int, float]:
        """Loss of every step, as it was computed last."""
        return dict(self._records())

    def first_step(self) -> int:
        """Step that this run did first."""
        return self._records()[self.earlier][0]

    def _records(self) -> list[tuple[int, float]]:
        """Step and loss, in the order that they were done in, over all runs in this folder."""
        file = self.folder / "losses"
        lines = file.read_text().split("\n")[:-1] if file.exists() else []
        return [(step, loss) for step, loss in map(json.loads, lines)]


class Recording(Group):
    """Keeps the loss of every step, which is the third figure of those that a step adds up."""

    def __init__(self, place: Place, record: Callable[[float], None]) -> None:
        super().__init__(place)
        self._record = record

    def sum(self, tensor: Tensor) -> Tensor:
        found = super().sum(tensor)
        if found.dtype == torch.float64:
            self._record(float(found[2]))
        return found


def leave_in(loop: Loop, collective: str) -> None:
    """End the process where it would take part in a collective, at the third step."""
    takes_part = getattr(loop._replicas, collective)

    def leave() -> None:
        if loop.progress.step == 2:
            os._exit(1)
        takes_part()

    setattr(loop._replicas, collective, leave)


def rank_main(run: Run, rank: int) -> None:
    torch.set_num_threads(1)
    batches.PACK_TOKENS = PACK_TOKENS
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(run.size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(run.port),
    }
    changed = dict(run.changed)
    seconds = changed.pop("checkpoint_seconds", 1e9)
    model, course, _ = parts(run.world, run.folder / f"rank{rank}", **changed)
    course = replace(course, recipe=replace(course.recipe, checkpoint_seconds=seconds), sharded=run.sharded)
    stopping = threading.Event()
    with (run.folder / "losses").open("a") as file:

        def record(loss: float) -> None:
            if rank == 0:
                file.write(json.dumps([loop.progress.step + 1, loss]) + "\n")
                file.flush()

        group = Recording(Place(rank, run.size, rank, run.size), record)
        group.join(course.device, stopping)
        loop = Loop(model, course, run.checkpoints(), stopping, group)
        if run.last_leaves_in and rank == run.size - 1:
            leave_in(loop, run.last_leaves_in)
        try:
            loop.run(lambda *_: None)
        except PeerLost:
            sys.exit(EXIT_PREEMPTED)
        assert loop.progress.best_length > 1
    if rank:
        group.outlast_leader()
    group.leave(0)
