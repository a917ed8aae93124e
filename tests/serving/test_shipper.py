"""From files on the pod's disk to storage: keys, the watermark, and days when storage or the engine is gone."""

import os
import time
from pathlib import Path

import pytest
import zstandard

from specop.serving import shipper as module
from specop.serving.shipper import Shipped, Shipper
from specop.storage.local import LocalStore
from specop.storage.s3 import S3Store
from tests.storage.server import S3Server, run_server

FIRST_MS = 1_767_312_000_123  # 2026-01-02T00:00:00.123Z
NOW_MS = FIRST_MS + 60_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "capture").mkdir()
    return tmp_path / "capture"


@pytest.fixture(autouse=True)
def now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time_ns", lambda: NOW_MS * 1_000_000)


def shipper(folder: Path, max_bytes: int = 1 << 20) -> Shipper:
    return Shipper(folder, LocalStore(), f"file://{folder.parent}/store/captured", "pod-1", max_bytes)


def stored(folder: Path) -> dict[str, bytes]:
    """Keys and plain content of everything in storage."""
    root = folder.parent / "store"
    return {
        str(path.relative_to(root)): zstandard.ZstdDecompressor().stream_reader(path.read_bytes()).read()
        for path in sorted(root.rglob("*.zst"))
    }


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_closed_file_is_shipped_and_an_open_one_bounds_the_watermark(folder: Path) -> None:
    (folder / f"{FIRST_MS}-1.jsonl").write_bytes(b"a\nb\n")
    (folder / f"{FIRST_MS + 5000}-2.open").write_bytes(b"c\n")
    subject = shipper(folder)
    assert subject.ship()
    assert stored(folder) == {f"captured/dt=2026-01-02/hour=00/pod-1-{FIRST_MS}-1.jsonl.zst": b"a\nb\n"}
    assert names(folder) == [f"{FIRST_MS + 5000}-2.open"]
    done = subject.done
    assert (done.requests, done.pending_bytes, done.watermark_ms) == (2, 2, FIRST_MS + 5000)
    assert done.bytes > 0


def test_what_is_behind_the_watermark_is_not_settled_yet(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = shipper(folder)
    for number, last_ms in enumerate((NOW_MS - 9000, NOW_MS - 500)):
        path = folder / f"{last_ms}-{number}.jsonl"
        path.write_bytes(b"a\nb\n")
        os.utime(path, ns=(last_ms * 1_000_000, last_ms * 1_000_000))
    assert subject.ship()
    assert (subject.done.requests, subject.done.settled) == (4, 2)
    monkeypatch.setattr("time.time_ns", lambda: (NOW_MS + 2500) * 1_000_000)
    assert subject.ship()
    assert (subject.done.requests, subject.done.settled) == (4, 4)


def test_with_nothing_left_the_watermark_is_what_must_have_reached_the_disk(folder: Path) -> None:
    subject = shipper(folder)
    assert subject.ship()
    assert subject.done == Shipped(watermark_ms=NOW_MS - 2000)


def test_an_abandoned_file_is_adopted_and_its_half_line_cut(folder: Path) -> None:
    path = folder / f"{FIRST_MS}-1.open"
    path.write_bytes(b"whole\nhal")
    subject = shipper(folder)
    subject.ship()
    assert names(folder) == [path.name]
    os.utime(path, (time.time() - 31, time.time() - 31))
    subject.ship()
    assert list(stored(folder).values()) == [b"whole\n"]
    assert subject.done.requests == 1


@pytest.mark.parametrize(
    ("content", "kept"),
    [
        (b"", b""),
        (b"half", b""),
        (b"a\n", b"a\n"),
        (b"a\n" + b"x" * 100, b"a\n"),
        (b"a" * 100 + b"\n" + b"x" * 100, b"a" * 100 + b"\n"),
    ],
)
def test_what_follows_the_last_line_end_is_cut(
    content: bytes, kept: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", 16)
    path = tmp_path / "file"
    path.write_bytes(content)
    module._cut_half_line(path)
    assert path.read_bytes() == kept


def test_at_the_end_open_files_are_shipped_too(folder: Path) -> None:
    (folder / f"{FIRST_MS}-1.open").write_bytes(b"a\n")
    subject = shipper(folder)
    subject.ship_rest(0)
    assert (names(folder), subject.done.requests) == ([], 1)


def test_storage_that_is_gone_keeps_files_holds_the_watermark_and_comes_back(folder: Path) -> None:
    (folder.parent / "store").write_bytes(b"a file where the store should be")
    for index in range(3):
        (folder / f"{FIRST_MS + index}-{index}.jsonl").write_bytes(b"line\n")
    subject = shipper(folder)
    assert not subject.ship()
    assert len(names(folder)) == 3
    assert subject.done == Shipped(failures=1, pending_bytes=15, watermark_ms=FIRST_MS)
    (folder.parent / "store").unlink()
    assert subject.ship()
    assert (subject.done.requests, subject.done.watermark_ms) == (3, NOW_MS - 2000)


def test_beyond_the_bound_the_oldest_are_dropped_and_counted(folder: Path) -> None:
    (folder.parent / "store").write_bytes(b"a file where the store should be")
    for index in range(3):
        (folder / f"{FIRST_MS + index}-{index}.jsonl").write_bytes(b"one\ntwo\n")
    subject = shipper(folder, max_bytes=16)
    assert not subject.ship()
    assert names(folder) == [f"{FIRST_MS + 1}-1.jsonl", f"{FIRST_MS + 2}-2.jsonl"]
    assert (subject.done.dropped, subject.done.watermark_ms) == (2, FIRST_MS + 1)


def test_a_file_that_was_put_but_not_deleted_is_put_over_itself(folder: Path) -> None:
    path = folder / f"{FIRST_MS}-1.jsonl"
    for _ in range(2):
        path.write_bytes(b"a\n")
        shipper(folder).ship()
    assert list(stored(folder).values()) == [b"a\n"]


@pytest.mark.control_plane
def test_on_a_real_s3_server_that_dies_and_comes_back(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers = run_server(tmp_path_factory.mktemp("s3"))
    server: S3Server = next(servers)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    bucket = server.new_bucket()
    store = S3Store(server.config, attempts=1)
    subject = Shipper(folder, store, f"s3://{bucket}/captured", "pod-1", 1 << 20)
    (folder / f"{FIRST_MS}-1.jsonl").write_bytes(b"a\n")
    assert subject.ship()
    assert [info.uri for info in store.list(f"s3://{bucket}/")] == [
        f"s3://{bucket}/captured/dt=2026-01-02/hour=00/pod-1-{FIRST_MS}-1.jsonl.zst"
    ]
    (folder / f"{FIRST_MS + 1}-2.jsonl").write_bytes(b"b\n")
    servers.close()  # type: ignore[attr-defined]
    assert not subject.ship()
    assert (subject.done.failures, subject.done.watermark_ms) == (1, NOW_MS - 2000)
    assert names(folder) == [f"{FIRST_MS + 1}-2.jsonl"]
