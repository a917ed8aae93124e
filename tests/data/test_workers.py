"""Who works on chunks makes no difference to what is made; a worker that is killed ends the run."""

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from specop.data import main, memory
from specop.data.chunks import Chunk, Known, Place
from specop.data.formats import Fate
from specop.data.memory import Room, room
from specop.data.work import Setup
from specop.data.workers import Here, processes
from tests.data.world import World, capture, chat, jsonl

MIB = 1 << 20


def chunks(count: int, lines: int = 3) -> Iterator[Chunk]:
    """Chunks of different sizes, so that workers finish out of order."""
    place = Place(0, "log", "file:///a.jsonl", "e", None)
    for index in range(count):
        rows = [chat(f"{index} {line}", "answer " * (1 + 400 * (index % 3 == 0))) for line in range(lines)]
        data = jsonl(rows).splitlines()
        numbers, verdicts = list(range(lines)), ([Fate.TRAIN] * lines, [1] * lines, [False] * lines, [True] * lines)
        yield Chunk(place, "OpenAIChat", numbers, numbers, data, *verdicts, known=[Known()] * lines)


def test_results_are_in_the_order_of_the_chunks_and_the_same_in_processes(target: Path) -> None:
    setup = Setup(target, 8192)
    here = Here(setup)
    with processes(setup, 2) as pool:
        for name in ("survey", "build"):
            expected, found = [[of.rows for of in by.map(name, chunks(12))] for by in (here, pool)]
            assert found == expected
        assert list(pool.map("survey", [])) == []


def test_no_more_is_read_ahead_than_is_worked_on(target: Path) -> None:
    read = []

    def noted() -> Iterator[Chunk]:
        for chunk in chunks(20):
            read.append(chunk)
            yield chunk

    with processes(Setup(target, 8192), 2) as pool:
        for done, _ in enumerate(pool.map("survey", noted())):
            assert len(read) <= done + 6


def test_a_killed_worker_is_told_as_a_lack_of_memory(target: Path) -> None:
    with processes(Setup(target, 8192), 1) as pool:
        found = pool.map("build", chunks(20))
        next(found)
        (worker,) = pool._pool._processes
        os.kill(worker, signal.SIGKILL)
        with pytest.raises(MemoryError):
            list(found)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_any_number_of_workers_makes_the_same_dataset(
    world: World, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    rows: list[Any] = [capture(number, answer="word " * random.Random(number).randrange(60)) for number in range(120)]
    world.write("a.jsonl.gz", rows[:70] + rows[:9])
    world.write("b.jsonl", [*rows[70:], b"broken", *(capture(200 + number, finish="abort") for number in range(3))])
    expected = world.make()
    monkeypatch.setattr(main, "_SMALL", 0)
    monkeypatch.setattr(memory, "room", lambda *_: Room(workers, 4096, 96 * MIB))
    facts = world.make()
    assert facts == expected
    assert facts.counts.kept == 120


@pytest.mark.parametrize(
    ("limit", "processors", "workers"),
    [
        (256 * MIB, 8, 1),
        (700 * MIB, 8, 1),
        (1024 * MIB, 2, 2),
        (2048 * MIB, 8, 6),
        (8192 * MIB, 64, 31),
        (1 << 40, 2, 2),
    ],
)
def test_room(limit: int, processors: int, workers: int) -> None:
    found = room(limit, processors, 1 << 40)
    assert found.workers == workers
    assert room(limit, processors, 1 << 40, memory.LANGUAGES).workers <= workers
    assert (256 << 10) <= found.chunk_bytes <= 4 * MIB
    assert found.tables_bytes <= limit // 2


def test_the_machine_has_some_of_both() -> None:
    assert 1 <= memory.processors() <= (os.cpu_count() or 1)
    assert 64 * MIB < memory.limit() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize(
    ("files", "limit", "processors"),
    [
        ({"self": "0::/a/b", "a/b/memory.max": "max", "a/memory.max": "1000", "a/cpu.max": "150000 100000"}, 1000, 1),
        (
            {
                "self": "4:memory:/x\n1:cpu,cpuacct:/y\n0::/",
                "memory/x/memory.limit_in_bytes": "2000",
                "cpu,cpuacct/y/cpu.cfs_quota_us": "-1",
                "cpu,cpuacct/y/cpu.cfs_period_us": "100000",
            },
            2000,
            None,
        ),
        ({"self": "0::/"}, None, None),
    ],
    ids=["version 2", "version 1", "none"],
)
def test_limits_of_the_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], limit: int | None, processors: int | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path)
    monkeypatch.setattr(memory, "_SELF", tmp_path / "self")
    assert memory.limit() == (limit or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    assert memory.processors() == (processors or len(os.sched_getaffinity(0)))
