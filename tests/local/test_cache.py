"""Entries of the cache are whole or absent, and made once however many ask."""

import multiprocessing
import stat
import time
from pathlib import Path

import pytest

from local import cache


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPECOP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_an_entry_is_built_once_and_readable_by_everyone(folder: Path) -> None:
    built = []

    def build(target: Path) -> None:
        built.append(target)
        (target / "file").write_text("content")

    first = cache.entry("kind", "name", build)
    assert cache.entry("kind", "name", build) == first == folder / "kind" / "name"
    assert len(built) == 1
    assert stat.S_IMODE(first.stat().st_mode) == 0o755


def test_a_failed_build_leaves_nothing_that_counts_and_the_next_one_starts_afresh() -> None:
    def fail(target: Path) -> None:
        (target / "half").write_text("")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        cache.entry("kind", "name", fail)
    assert [path.name for path in cache.entry("kind", "name", lambda target: (target / "file").touch()).iterdir()] == [
        "file"
    ]


def _slowly(target: Path) -> None:
    with (cache.root() / "log").open("a") as log:
        log.write("built\n")
    time.sleep(0.2)
    (target / "file").touch()


def _want() -> None:
    assert (cache.entry("kind", "name", _slowly) / "file").exists()


def test_processes_that_want_the_same_entry_build_it_once() -> None:
    fork = multiprocessing.get_context("fork")
    askers = [fork.Process(target=_want) for _ in range(4)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert [asker.exitcode for asker in askers] == [0, 0, 0, 0]
    assert (cache.root() / "log").read_text() == "built\n"


def test_a_key_changes_with_names_contents_and_order(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "__pycache__").mkdir(parents=True)
    (source / "a").write_text("1")
    before = cache.key(source, "x")
    (source / "__pycache__" / "a.pyc").write_text("bytecode does not count")
    assert cache.key(source, "x") == before
    (source / "a").write_text("2")
    changed = cache.key(source, "x")
    (source / "a").rename(source / "b")
    assert len({before, changed, cache.key(source, "x"), cache.key("x", source), cache.key("x")}) == 5
