"""What is too old goes, by the hour in its key; what is younger, and what is no capture, stays."""

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from specop.api import reasons
from specop.common.errors import UserError
from specop.serving.retention import REFUSALS, Removed, Retention
from specop.storage.base import ObjectInfo, StorageUnreachable, Store
from specop.storage.local import LocalStore
from specop.storage.s3 import S3Store
from tests.storage.server import S3Server, run_server

NOW = datetime(2026, 1, 31, 12, 30, tzinfo=UTC)
OLD = ("dt=2025-12-31/hour=23/p-1-1.jsonl.zst", "dt=2026-01-01/hour=00/p-2-1.jsonl.zst", "dt=2026-01-01/hour=11/")
"""Hours that ended thirty days ago."""
YOUNG = ("dt=2026-01-01/hour=12/p-3-1.jsonl.zst", "dt=2026-01-02/hour=00/p-4-1.jsonl.zst")
OTHERS = (
    "dt=2020-01-01/notes.txt",
    "dt=2020-01-01/hour=0/x",
    "dt=2020-01-01/hour=24/x",
    "dt=2020-02-30/hour=00/x",
    "dt=2020-1-01/hour=00/x",
    "dt=yesterday/hour=00/x",
    "dt=٢٠٢٠-01-01/hour=00/x",
    "day=2020-01-01/hour=00/x",
    "archive/dt=2020-01-01/hour=00/x",
)
"""Nothing that specop put there."""


def keys(store: Store, root: str) -> list[str]:
    return [info.uri.removeprefix(f"{root}/") for info in store.list(f"{root}/")]


class Refusing(LocalStore):
    """Raises what a key is mapped to."""

    def __init__(self, errors: dict[str, Exception]) -> None:
        self.errors = errors
        self.asked: list[str] = []

    def delete(self, uri: str) -> None:
        self.asked.append(uri)
        for part, error in self.errors.items():
            if part in uri:
                raise error
        super().delete(uri)


def denied() -> UserError:
    return UserError(reasons.STORAGE_ACCESS_DENIED, "no")


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    yield from run_server(tmp_path_factory.mktemp("s3"))


@pytest.mark.control_plane
def test_on_a_real_s3_server(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    store, root = S3Store(s3.config), f"s3://{s3.new_bucket()}"
    ours = [f"captured/team-a/agent/{key}" for key in (*OLD, *YOUNG)]
    others = [f"captured/team-a/agent/{key}" for key in OTHERS]
    others += [f"captured/team-a/{name}/{OLD[0]}" for name in ("agent-2", "agen", "agents")]
    for key in (*ours, *others):
        store.put(f"{root}/{key}", b"")
    pods = [Retention(store, f"{root}/captured/team-a/agent", 30) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda pod: pod.remove(NOW), pods))
    assert keys(store, root) == sorted([*ours[len(OLD) :], *others])
    assert sum(pod.done.objects for pod in pods) >= len(OLD)
    assert [pod.done.failures for pod in pods] == [0] * 4


@pytest.mark.control_plane
def test_keys_that_may_not_delete(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    root = f"s3://{s3.new_bucket()}"
    S3Store(s3.config).put(f"{root}/{OLD[0]}", b"")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secrets.token_hex(8))
    subject = Retention(S3Store(s3.config), root, 30)
    subject.remove(NOW)
    assert subject.done == Removed(failures=1)


def filled(folder: Path, *names: str) -> tuple[str, list[str]]:
    root = f"file://{folder}/captured/team-a/agent"
    for key in names:
        LocalStore().put(f"{root}/{key}", b"x")
    return root, sorted(names)


def test_what_is_no_capture_stays(tmp_path: Path) -> None:
    files = [key for key in (*OLD, *YOUNG, *OTHERS) if not key.endswith("/")]
    root, _ = filled(tmp_path, *files)
    subject = Retention(LocalStore(), root, 30)
    subject.remove(NOW)
    assert keys(LocalStore(), root) == sorted(set(files) - set(OLD))
    assert subject.done == Removed(objects=2)


@pytest.mark.parametrize(("minute", "gone"), [(59, False), (60, True)])
def test_an_hour_goes_as_a_whole_when_its_end_is_old_enough(minute: int, gone: bool, tmp_path: Path) -> None:
    root, _ = filled(tmp_path, "dt=2026-01-01/hour=00/a", "dt=2026-01-01/hour=00/b")
    Retention(LocalStore(), root, 1).remove(datetime(2026, 1, 2, tzinfo=UTC) + timedelta(minutes=minute))
    assert (keys(LocalStore(), root) == []) is gone


def test_a_listing_ends_where_what_is_kept_begins(tmp_path: Path) -> None:
    class Counting(LocalStore):
        seen = 0

        def list(self, prefix: str, after: str | None = None) -> Iterator[ObjectInfo]:
            for info in super().list(prefix, after):
                self.seen += 1
                yield info

    root, _ = filled(tmp_path, OLD[0], *(f"dt=2026-01-20/hour={hour:02}/x" for hour in range(24)))
    store = Counting()
    Retention(store, root, 30).remove(NOW)
    assert store.seen == 2


def test_a_folder_that_is_refused_shields_no_younger_one_and_is_tried_again(tmp_path: Path) -> None:
    names = [f"dt=2025-12-01/hour={hour:02}/{name}" for hour in range(3) for name in "ab"]
    root, _ = filled(tmp_path, *names)
    store = Refusing({"hour=01/a": denied()})
    subject = Retention(store, root, 30)
    subject.remove(NOW)
    assert keys(store, root) == names[2:4]
    assert subject.done == Removed(objects=4, failures=1)
    store.errors = {}
    subject.remove(NOW)
    assert (keys(store, root), subject.done) == ([], Removed(objects=6, failures=1))


def test_who_may_not_delete_does_not_go_on_asking(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root, names = filled(tmp_path, *(f"dt=2025-12-0{day}/hour={hour:02}/x" for day in (1, 2) for hour in range(24)))
    store = Refusing({"": denied()})
    subject = Retention(store, root, 30)
    subject.remove(NOW)
    assert (len(store.asked), keys(store, root), subject.done) == (REFUSALS, names, Removed(failures=1))
    assert [record.getMessage() for record in caplog.records] == [
        "captures past their retention could not all be removed (StorageAccessDenied); tried again later"
    ]


def test_storage_that_is_gone_ends_the_round(tmp_path: Path) -> None:
    root, names = filled(tmp_path, "dt=2025-12-01/hour=00/a", "dt=2025-12-01/hour=01/a")
    store = Refusing({"hour=00": StorageUnreachable("gone")})
    subject = Retention(store, root, 30)
    subject.remove(NOW)
    assert (len(store.asked), keys(store, root), subject.done) == (1, names, Removed(failures=1))


def test_a_round_that_runs_can_be_stopped(tmp_path: Path) -> None:
    root, names = filled(tmp_path, "dt=2025-12-01/hour=00/a")
    subject = Retention(LocalStore(), root, 30)
    subject.stop()
    subject.remove(NOW)
    assert (keys(LocalStore(), root), subject.done) == (names, Removed())
