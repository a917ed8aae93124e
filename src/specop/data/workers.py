"""Who works on chunks: this process, processes beside it, or Ray. The same functions, in the same order of results.

    read_chunks ─► chunk, chunk, chunk ─► Worker.survey / … / Worker.build ─► results, in the order of the chunks

Results come in the order of the chunks, whoever was faster, so that what is made of them does not depend on how many
workers there are. At most `AHEAD` chunks a worker wait or are worked on: memory is bounded, and nobody idles.

Races: a worker that is killed (memory) ends the run; workers end with the process that started them, also when that
is killed.
"""

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import Any, Literal, Protocol

from specop.data.chunks import Chunk
from specop.data.work import Setup, Worker

Pass = Literal["survey", "questions", "build"]
AHEAD = 2


class Workers(Protocol):
    """Some workers with the same setup."""

    def map(self, name: Pass, chunks: Iterable[Chunk]) -> Iterator[Any]:
        """Yield `Worker.<name>` of each chunk, in order."""
        ...


class Here:
    """No other process: nothing to start, for what is small."""

    def __init__(self, setup: Setup) -> None:
        self._worker = Worker(setup)

    def map(self, name: Pass, chunks: Iterable[Chunk]) -> Iterator[Any]:
        """As `Workers.map`."""
        return map(getattr(self._worker, name), chunks)


class Processes:
    """Processes of this machine, made by a server that never held a thread or a connection."""

    def __init__(self, pool: ProcessPoolExecutor, count: int) -> None:
        self._pool = pool
        self._most = count * (AHEAD + 1)

    def map(self, name: Pass, chunks: Iterable[Chunk]) -> Iterator[Any]:
        """As `Workers.map`. Raises MemoryError where a worker was killed."""
        running: deque[Future[Any]] = deque()
        try:
            for chunk in chunks:
                running.append(self._pool.submit(_call, name, chunk))
                if len(running) == self._most:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        except BrokenProcessPool as error:
            raise MemoryError from error


@contextmanager
def processes(setup: Setup, count: int) -> Iterator[Processes]:
    """Run `count` worker processes while the block runs."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["specop.data.preload"])
    pool = ProcessPoolExecutor(count, context, initializer=_start, initargs=(setup,))
    try:
        yield Processes(pool, count)
    finally:
        pool.shutdown(cancel_futures=True)


_worker: Worker | None = None
"""Of a worker process."""


def _start(setup: Setup) -> None:
    global _worker  # noqa: PLW0603 - a process has one
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _worker = Worker(setup)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _call(name: Pass, chunk: Chunk) -> Any:
    assert _worker is not None
    return getattr(_worker, name)(chunk)
