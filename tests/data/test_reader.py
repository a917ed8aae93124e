"""Lines with their places, however an object is packed; what is odd or damaged ends with a reason."""

import gzip
import io
import json
import os
import random
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from specop.api import reasons
from specop.common.errors import Conflict, Retryable, UserError
from specop.data import reader
from specop.data.reader import read_lines
from specop.storage.base import ObjectInfo
from specop.storage.local import LocalStore
from tests.data.world import PACKED

zst = PACKED[".zst"]


class Chunked(LocalStore):
    """Bytes in memory, in chunks of a size; replaced by another version after some of them, if asked."""

    def __init__(self, data: bytes, size: int, replaced_after: int | None = None) -> None:
        self.data = data
        self.size = size
        self.replaced_after = replaced_after

    def stream(self, uri: str, etag: str | None = None) -> Iterator[bytes]:
        for number, start in enumerate(range(0, len(self.data), self.size)):
            if number == self.replaced_after:
                raise Conflict(uri)
            yield self.data[start : start + self.size]


def lines(data: bytes, size: int = 7, replaced_after: int | None = None) -> list[tuple[int, bytes]]:
    passed: list[int] = []
    info = ObjectInfo("s3://b/k", len(data), "e")
    found = [tuple(line) for line in read_lines(Chunked(data, size, replaced_after), info, passed.append)]
    assert sum(passed) == len(data)
    return found


def refusal(data: bytes, size: int = 1 << 20, replaced_after: int | None = None) -> UserError:
    with pytest.raises(UserError) as caught:
        lines(data, size, replaced_after)
    assert "s3://b/k" in caught.value.message
    return caught.value


@pytest.mark.parametrize("pack", PACKED.values(), ids=["plain", "gzip", "zstd"])
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(b"", [], id="nothing"),
        pytest.param(b"\n \n\r\n\t\n", [], id="only blank lines"),
        pytest.param(b"a\nbc\n", [(0, b"a"), (2, b"bc")], id="two"),
        pytest.param(b"a\nbc", [(0, b"a"), (2, b"bc")], id="no end at the end"),
        pytest.param(b"a\r\nbc\r\n", [(0, b"a"), (3, b"bc")], id="CRLF"),
        pytest.param(b"\xef\xbb\xbfa\nb\n", [(0, b"a"), (5, b"b")], id="BOM"),
        pytest.param(b"a\n\xef\xbb\xbfb\n", [(0, b"a"), (2, b"\xef\xbb\xbfb")], id="no BOM inside"),
        pytest.param(b"a\n\n\n b \n", [(0, b"a"), (4, b"b")], id="blank between"),
        pytest.param("ü\u2028\x0b\x85x\n".encode(), [(0, "ü\u2028\x0b\x85x".encode())], id="only \\n ends a line"),
        pytest.param(b"\x00\xff\n", [(0, b"\x00\xff")], id="any bytes"),
    ],
)
def test_lines(pack: type[bytes], data: bytes, expected: list[tuple[int, bytes]]) -> None:
    assert lines(pack(data)) == expected


@given(st.lists(st.binary(max_size=40).map(lambda line: line.replace(b"\n", b"x").strip())), st.integers(5, 50))
def test_offsets_lead_back_to_the_lines(texts: list[bytes], size: int) -> None:
    data = b"x\n" + b"\n".join(texts)
    for pack in PACKED.values():
        found = lines(pack(data), size)
        assert [text for _, text in found] == [b"x", *filter(None, texts)]
        assert all(data[offset : offset + len(text)] == text for offset, text in found)


@pytest.mark.parametrize("pack", [gzip.compress, zst], ids=["gzip", "zstd"])
def test_several_frames_are_one_object(pack: type[bytes]) -> None:
    assert lines(pack(b"a\nb") + pack(b"c\n")) == [(0, b"a"), (2, b"bc")]


@pytest.mark.parametrize("pack", [gzip.compress, zst], ids=["gzip", "zstd"])
@pytest.mark.parametrize("damage", ["cut in half", "last byte missing", "garbage behind"])
def test_damaged_compression_is_no_shorter_object(pack: type[bytes], damage: str) -> None:
    data = pack(b"line\n" + os.urandom(1 << 16).hex().encode())
    cut = {"cut in half": data[: len(data) // 2], "last byte missing": data[:-1], "garbage behind": data + b"garbage"}
    assert refusal(cut[damage]).reason == reasons.SOURCE_FORMAT_UNKNOWN


def test_a_replaced_object_is_never_a_mixture() -> None:
    assert refusal(b"a\n" * 100, size=50, replaced_after=2).reason == reasons.SOURCE_CHANGED


def test_what_is_gone_since_it_was_listed_is_for_another_attempt(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b"a\n")
    info = LocalStore().head(f"file://{path}")
    path.unlink()
    with pytest.raises(Retryable, match=r"log\.jsonl was deleted since it was listed"):
        list(read_lines(LocalStore(), info, lambda _: None))


def test_a_replaced_file(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b"a\n")
    info = LocalStore().head(f"file://{path}")
    path.write_bytes(b"bb\n")
    with pytest.raises(UserError) as caught:
        list(read_lines(LocalStore(), info, lambda _: None))
    assert caught.value.reason == reasons.SOURCE_CHANGED


def test_the_longest_line_and_one_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MAX_LINE", 1000)
    assert lines(b"x\n" + b"a" * 999 + b"\n", size=100)[1] == (2, b"a" * 999)
    error = refusal(b"x\n" + b"a" * 1001 + b"\n")
    assert (error.reason, "at byte 2" in error.message) == (reasons.LINE_TOO_LONG, True)


def test_a_bomb_of_one_line_is_refused_before_it_is_unpacked() -> None:
    assert refusal(zst(b"a" * (reader.MAX_LINE + (1 << 20)))).reason == reasons.LINE_TOO_LONG


def test_a_bomb_of_many_lines_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MAX_LINE", 1 << 22)
    line = b"a" * 999_999 + b"\n"
    packed = io.BytesIO()
    with zstandard.ZstdCompressor(level=19).stream_writer(packed, closefd=False) as file:
        for _ in range(64):
            file.write(line)
    assert reader.MAX_EXPANSION * len(packed.getvalue()) < 64_000_000
    assert "expands" in refusal(packed.getvalue()).message


def test_the_systems_own_errors_are_not_called_damage() -> None:
    class Broken(LocalStore):
        def stream(self, uri: str, etag: str | None = None) -> Iterator[bytes]:
            yield zst(b"a\n")[:-3]
            raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        list(read_lines(Broken(), ObjectInfo("s3://b/k", 9, "e"), lambda _: None))


def parquet(rows: list[dict[str, Any]]) -> bytes:
    data = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), data, row_group_size=100)
    return data.getvalue()


def rows_of(path: Path, store: LocalStore | None = None) -> list[tuple[int, Any]]:
    kept = store or LocalStore()
    passed: list[int] = []
    found = [
        (line.offset, json.loads(line.data)) for line in read_lines(kept, kept.head(f"file://{path}"), passed.append)
    ]
    assert sum(passed) >= path.stat().st_size
    return found


def test_rows_of_parquet_are_what_lines_would_have_said(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "ü\n"}, {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}]
    rows: list[dict[str, Any]] = [
        {"messages": turns, "time": datetime(2026, 1, 1, tzinfo=UTC), "temperature": 0.5, "n": 2**40},
        {"messages": turns[:1], "time": None, "temperature": None, "n": None},
    ]
    path = tmp_path / "a.bin"
    path.write_bytes(parquet(rows))
    assert rows_of(path) == [
        (
            0,
            {
                "messages": [turns[0], {"role": "assistant", "tool_calls": [{"id": "1"}]}],
                "time": "2026-01-01 00:00:00+00:00",
                "temperature": 0.5,
                "n": 2**40,
            },
        ),
        (1, {"messages": [turns[0]]}),
    ]


@pytest.mark.parametrize("number", [pa.int32(), pa.int64(), pa.uint8()])
@pytest.mark.parametrize("missing", [False, True])
def test_lists_of_numbers_are_lists_of_numbers(tmp_path: Path, number: pa.DataType, missing: bool) -> None:
    lists = [None if index % 5 == 0 else list(range(index % 7)) for index in range(700)]
    if missing:
        lists[1] = [None, 1]  # type: ignore[list-item]
    path = tmp_path / "a.parquet"
    table = pa.table({"text": ["x"] * 700, "input_ids": pa.array(lists, pa.list_(number)), "last": range(700)})
    pq.write_table(table, path, row_group_size=300)
    expected = [{"text": "x", "input_ids": ids, "last": index} for index, ids in enumerate(lists)]
    found = [row for _, row in rows_of(path)]
    assert found == [{name: value for name, value in row.items() if value is not None} for row in expected]
    assert {tuple(row) for row in found} == {("text", "input_ids", "last"), ("text", "last")}


def test_json_in_a_column_of_text_is_that_json(tmp_path: Path) -> None:
    rows = [{"request": '{"a": [1]}', "response": "[broken", "content": "{}", "n": number} for number in range(777)]
    path = tmp_path / "a.parquet"
    path.write_bytes(parquet(rows))
    found = rows_of(path)
    assert [offset for offset, _ in found] == list(range(777))
    assert found[776][1] == {"request": {"a": [1]}, "response": "[broken", "content": "{}", "n": 776}


def test_damaged_parquet_ends_with_a_reason(tmp_path: Path) -> None:
    whole = parquet([{"messages": f"{number} {random.Random(number).random()}"} for number in range(999)])
    path = tmp_path / "a.parquet"
    for data in (whole[: len(whole) // 2], whole[:40] + bytes(200) + whole[240:]):
        path.write_bytes(data)
        with pytest.raises(UserError) as caught:
            rows_of(path)
        assert caught.value.reason == reasons.SOURCE_FORMAT_UNKNOWN


def test_parquet_that_is_replaced_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(parquet([{"messages": "a"}]))
    store = LocalStore()
    lines = read_lines(store, store.head(f"file://{path}"), lambda _: None)
    next(lines)
    other = tmp_path / "b"
    other.write_bytes(parquet([{"messages": "b"}]))
    other.replace(path)
    with pytest.raises(UserError) as caught:
        list(lines)
    assert caught.value.reason == reasons.SOURCE_CHANGED
