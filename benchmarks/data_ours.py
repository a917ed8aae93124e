"""The dataset engine on one file: run by `benchmarks.data`, in a process of its own.

`tokens` is the second pass alone (lines to rows of tokens on disk) on workers that run already, as they do in a Job
when it begins; `job` is the whole Job. Memory is the proportional share (PSS) of this process and its workers together,
sampled, so that pages that they share count once.
"""

import json
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from specop.api.jobs import DatasetConfig
from specop.data.build import Output
from specop.data.chunks import Verdict, read_chunks
from specop.data.decide import Survey
from specop.data.formats import Fate
from specop.data.main import make_dataset
from specop.data.memory import limit, room
from specop.data.sources import SourceObject
from specop.data.work import Setup
from specop.data.workers import processes
from specop.storage.job import Job
from specop.storage.local import LocalStore

Json = dict[str, Any]
MAX_LENGTH = 8192


def tokens(path: Path, target: Path, count: int, folder: Path) -> Json:
    """Second pass alone."""
    store = LocalStore()
    objects = [SourceObject(0, "rows", store, store.head(f"file://{path}"), "OpenAIChat")]
    size = room(limit(), count, path.stat().st_size).chunk_bytes
    began = time.perf_counter()
    with processes(Setup(target, MAX_LENGTH), count) as workers, Survey(folder / "survey") as survey:
        for _ in workers.map("build", read_chunks([], lambda _: None, size)):
            pass
        first = next(read_chunks(objects, lambda _: None, size, lambda _: Verdict(Fate.TRAIN, clean=True)))
        list(workers.map("build", [first] * count))  # each worker has loaded the tokenizer
        started, before = time.perf_counter(), _cpu_seconds()
        with Output(folder / "made", survey) as output:
            chunks = read_chunks(objects, lambda _: None, size, lambda _: Verdict(Fate.TRAIN, clean=True))
            for made in workers.map("build", chunks):
                output.write(first.place, made)
        done, used = time.perf_counter(), _cpu_seconds() - before
    built = output.built
    return {
        "start_seconds": round(started - began, 3),
        "seconds": round(done - started, 3),
        "cpu_seconds": round(used, 3),
        "rows": built.rows,
        "tokens": built.tokens,
        "supervised": built.supervised.total(),
    }


def _cpu_seconds() -> float:
    """Of this process and of the workers that it has now."""
    me = psutil.Process()
    times = (process.cpu_times() for process in (me, *me.children(recursive=True)))
    return float(sum(of.user + of.system for of in times))


def job(path: Path, target: Path, more: Json, folder: Path) -> Json:
    """Run the whole Job, with the time of each stage."""
    body = {
        "uid": "u",
        "namespace": "n",
        "name": "d",
        "output": f"file://{folder}/out",
        "target": f"file://{target}",
        "sources": [{"name": "rows", "objects": {"uri": f"file://{path}"}}],
        **more,
    }
    config = DatasetConfig.model_validate(body)
    stages: dict[str, float] = {}
    timed = _Timed(config, folder / "work", stages)
    began = time.perf_counter()
    with _peak() as memory:
        facts = make_dataset(config, timed)
        timed.change("")
    seconds = time.perf_counter() - began
    return {
        "seconds": round(seconds, 3),
        "rows": facts.rows + facts.holdout_rows,
        "tokens": facts.tokens,
        "stages": {name: round(seconds, 3) for name, seconds in stages.items()},
        "peak_mib": round(memory[0] / 2**20, 1),
        "counts": facts.counts.to_json(),
        "digest": facts.digest,
    }


class _Timed(Job[DatasetConfig]):
    """A Job that notes how long each stage takes."""

    def __init__(self, config: DatasetConfig, work: Path, stages: dict[str, float]) -> None:
        super().__init__(config, work)
        self._stages = stages
        self._stage, self._since = "", time.perf_counter()

    def report(self, progress: Any) -> None:
        self.change(progress.stage)

    def change(self, stage: str) -> None:
        if stage != self._stage:
            now = time.perf_counter()
            if self._stage:
                self._stages[self._stage] = self._stages.get(self._stage, 0.0) + now - self._since
            self._stage, self._since = stage, now


@contextmanager
def _peak() -> Iterator[list[int]]:
    """Sample the memory of this process and its children while the block runs."""
    most, ended = [0], threading.Event()
    me = psutil.Process()

    def sample() -> None:
        while not ended.wait(0.2):
            total = 0
            for process in (me, *me.children(recursive=True)):
                try:
                    total += process.memory_full_info().pss
                except psutil.Error:
                    continue
            most[0] = max(most[0], total)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    yield most
    ended.set()
    thread.join()


def main() -> None:
    """Run one mode and say how long it took."""
    mode, path, target, option = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
    folder = Path(tempfile.mkdtemp(prefix="data-", dir=path.parent))
    try:
        found = (
            tokens(path, target, int(option), folder)
            if mode == "tokens"
            else job(path, target, json.loads(option), folder)
        )
    finally:
        shutil.rmtree(folder)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
