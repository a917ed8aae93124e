"""What every store promises; the same tests on a directory and on a real S3 server."""

from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest

from specop.api import reasons
from specop.common.errors import Conflict, UserError
from specop.storage.base import CHUNK, NotFound, Store, download
from specop.storage.uri import expand, join

Place = tuple[Store, str]
LARGE = bytes(range(256)) * (20 * CHUNK // 256 + 7)
"""Over the size from which boto3 uploads in parts."""


def test_what_is_put_is_read(place: Place) -> None:
    store, uri = place
    for data in (b"", b"one", b"two, and longer"):
        store.put(uri + "/a/b", data)
        assert store.get(uri + "/a/b") == data
        assert b"".join(store.stream(uri + "/a/b")) == data
        assert store.head(uri + "/a/b").size == len(data)


@pytest.mark.parametrize(
    ("start", "length", "expected"),
    [(0, 4, b"0123"), (3, 2, b"34"), (8, 100, b"89"), (10, 5, b""), (99, 1, b""), (4, 0, b"")],
    ids=["head", "middle", "over the end", "at the end", "behind the end", "nothing"],
)
def test_a_range_ends_with_the_object(place: Place, start: int, length: int, expected: bytes) -> None:
    store, uri = place
    store.put(uri + "/digits", b"0123456789")
    assert store.get_range(uri + "/digits", start, length) == expected


def test_a_range_of_nothing_is_nothing(place: Place) -> None:
    store, uri = place
    store.put(uri + "/empty", b"")
    assert store.get_range(uri + "/empty", 0, 10) == b""


def test_the_etag_follows_the_bytes(place: Place) -> None:
    store, uri = place
    store.put(uri + "/x", b"before")
    etag = store.head(uri + "/x").etag
    assert b"".join(store.stream(uri + "/x", etag)) == b"before"
    store.put(uri + "/x", b"after")
    assert store.head(uri + "/x").etag != etag
    with pytest.raises(Conflict):
        list(store.stream(uri + "/x", etag))


def test_one_of_many_writers_wins(place: Place) -> None:
    store, uri = place
    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(lambda n: store.put_if_absent(uri + "/fence", b"%d" % n), range(16)))
    assert won.count(True) == 1
    assert store.get(uri + "/fence") == b"%d" % won.index(True)


def test_put_if_absent_leaves_what_is_there(place: Place) -> None:
    store, uri = place
    store.put(uri + "/fence", b"first")
    assert store.put_if_absent(uri + "/fence", b"second") is False
    assert store.get(uri + "/fence") == b"first"


def test_a_listing_is_by_prefix_and_in_order(place: Place) -> None:
    store, uri = place
    names = ["a/2", "a/10", "a-b/1", "ab/x", "b", "a/sub/deep/1"]
    for name in names:
        store.put(f"{uri}/{name}", name.encode())
    assert [info.uri for info in store.list(uri + "/")] == [f"{uri}/{name}" for name in sorted(names)]
    assert [info.uri for info in store.list(uri + "/a/")] == [f"{uri}/a/10", f"{uri}/a/2", f"{uri}/a/sub/deep/1"]
    assert [info.uri for info in store.list(uri + "/a/1")] == [f"{uri}/a/10"]
    assert [info.size for info in store.list(uri + "/a/10")] == [4]
    assert store.head(uri + "/a/10") == next(store.list(uri + "/a/10"))
    assert [info.uri for info in store.list(uri + "/a/", after=uri + "/a/10")] == [f"{uri}/a/2", f"{uri}/a/sub/deep/1"]
    assert [info.uri for info in store.list(uri + "/a/", after=uri + "/a/3")] == [f"{uri}/a/sub/deep/1"]
    assert list(store.list(uri + "/a/", after=uri + "/b")) == []


def test_a_listing_passes_the_size_of_a_page(place: Place) -> None:
    store, uri = place
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: store.put(f"{uri}/many/{n:04}", b"."), range(1100)))
    assert [info.uri for info in store.list(uri + "/many/")] == [f"{uri}/many/{n:04}" for n in range(1100)]
    later = [info.uri for info in store.list(uri + "/many/", after=f"{uri}/many/0007")]
    assert later == [f"{uri}/many/{n:04}" for n in range(8, 1100)]


def test_nothing_listed_is_no_error(place: Place) -> None:
    store, uri = place
    assert list(store.list(uri + "/nowhere/")) == []


def test_what_is_deleted_is_gone_and_deleting_again_is_no_error(place: Place) -> None:
    store, uri = place
    store.put(uri + "/x", b"x")
    store.delete(uri + "/x")
    store.delete(uri + "/x")
    with pytest.raises(NotFound):
        store.get(uri + "/x")


def test_many_may_delete_the_same(place: Place) -> None:
    store, uri = place
    for name in [f"{uri}/{number}" for number in range(10)]:
        store.put(name, b"x")
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(store.delete, [name] * 8))
    assert list(store.list(uri + "/")) == []


def test_what_is_listed_may_be_deleted_meanwhile(place: Place) -> None:
    store, uri = place
    names = [f"{uri}/many/{folder}/{n}" for folder in "ab" for n in range(3)]
    for name in names:
        store.put(name, b"")
    for info in store.list(uri + "/many/"):
        for name in (info.uri, names[2], names[4]):
            store.delete(name)
    assert list(store.list(uri + "/many/")) == []


def test_a_missing_object_has_one_error(place: Place) -> None:
    store, uri = place
    store.put(uri + "/folder/x", b"")
    for attempt in (store.head, store.get, lambda u: list(store.stream(u)), lambda u: store.get_range(u, 0, 1)):
        for missing in (uri + "/missing", uri + "/folder"):
            with pytest.raises(NotFound) as caught:
                attempt(missing)
            assert (caught.value.reason, missing in caught.value.message) == (reasons.OBJECT_NOT_FOUND, True)


def test_files_go_up_and_come_down_whole(place: Place, tmp_path: Path) -> None:
    store, uri = place
    source, goal = tmp_path / "source", tmp_path / "new" / "goal"
    source.write_bytes(LARGE)
    store.upload(source, uri + "/large")
    assert max(map(len, store.stream(uri + "/large"))) <= CHUNK
    assert download(store, uri + "/large", goal) == sha256(LARGE).hexdigest()
    assert goal.read_bytes() == LARGE
    assert [path.name for path in goal.parent.iterdir()] == ["goal"]


def test_a_download_that_breaks_leaves_nothing_under_the_name(place: Place, tmp_path: Path) -> None:
    store, uri = place
    with pytest.raises(NotFound):
        download(store, uri + "/missing", tmp_path / "goal")
    assert not (tmp_path / "goal").exists()


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("/logs/a.jsonl", ["logs/a.jsonl"]),
        ("/logs/*.jsonl", ["logs/a.jsonl", "logs/b.jsonl"]),
        ("/logs/**.jsonl", ["logs/a.jsonl", "logs/b.jsonl", "logs/c/d.jsonl"]),
        ("/**/d.jsonl", ["logs/c/d.jsonl"]),
        ("/logs/*", ["logs/a.jsonl", "logs/b.jsonl", "logs/b.txt"]),
        ("/logs/*/*", ["logs/c/d.jsonl"]),
        ("/logs/(*", []),
    ],
)
def test_patterns(place: Place, pattern: str, expected: list[str]) -> None:
    store, uri = place
    for name in ("logs/a.jsonl", "logs/b.jsonl", "logs/b.txt", "logs/c/d.jsonl"):
        store.put(join(uri, name), b"")
    assert [info.uri for info in expand(store, uri + pattern)] == [join(uri, name) for name in expected]


def test_a_name_without_a_star_must_be_there(place: Place) -> None:
    store, uri = place
    with pytest.raises(NotFound):
        list(expand(store, uri + "/missing.jsonl"))


@pytest.mark.parametrize("uri", ["", "x", "http://a/b", "s3://", "s3:///key", "file://relative", "/plain/path"])
def test_other_uris_are_refused(uri: str, place: Place) -> None:
    with pytest.raises(UserError) as caught:
        place[0].head(uri)
    assert caught.value.reason == reasons.INVALID_SPEC
