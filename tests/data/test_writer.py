"""Files of a dataset: the schema that others read, row groups and shards that follow from the rows."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from specop.data import writer
from specop.data.writer import ROWS, Requests, Shards
from tests.data.world import Json


def row(number: int, tokens: int = 3) -> Json:
    return {
        "key": f"{number:064x}",
        "source": "log",
        "time": "2026-01-01T00:00:00Z",
        "input_ids": list(range(tokens)),
        "spans": [{"start": 1, "end": tokens}],
        "constrained": False,
        "grammar": None,
        "temperature": 0.5,
        "altered": False,
        "novel": False,
        "conversation": "0a" * 16,
        "content": "0b" * 16,
        "likeness": [1, 2, 3, 4, 5, 6, -7, 8],
    }


def batch(*rows: Json) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(list(rows), ROWS)


def test_the_schema_is_the_contracts(tmp_path: Path) -> None:
    with Shards(tmp_path, "train") as shards:
        shards.write(batch(row(1)))
    (path,) = shards.paths
    assert path.name == "train-00000.parquet"
    found = pq.read_table(path)
    assert {field.name: str(field.type) for field in found.schema} == {
        "key": "string",
        "source": "string",
        "time": "string",
        "input_ids": "list<element: int32>",
        "spans": "list<element: struct<start: int32, end: int32>>",
        "constrained": "bool",
        "grammar": "string",
        "temperature": "float",
        "altered": "bool",
        "novel": "bool",
        "conversation": "string",
        "content": "string",
        "likeness": "list<element: int64>",
    }
    assert found.to_pylist() == [row(1)]


def test_row_groups_and_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "GROUP_ROWS", 4)
    monkeypatch.setattr(writer, "SHARD_ROWS", 8)
    monkeypatch.setattr(writer, "GROUP_TOKENS", 30)
    with Shards(tmp_path, "holdout") as shards:
        for number in range(11):
            shards.write(batch(row(number, tokens=40 if number == 9 else 3)))
    assert (shards.rows, shards.tokens) == (11, 70)
    assert [path.name for path in shards.paths] == ["holdout-00000.parquet", "holdout-00001.parquet"]
    groups = [
        [
            pq.ParquetFile(path).metadata.row_group(index).num_rows
            for index in range(pq.ParquetFile(path).num_row_groups)
        ]
        for path in shards.paths
    ]
    assert groups == [[4, 4], [2, 1]]
    found = pa.concat_tables(map(pq.read_table, shards.paths))
    assert found["key"].to_pylist() == [f"{number:064x}" for number in range(11)]


def test_the_same_rows_are_the_same_bytes(tmp_path: Path) -> None:
    data = []
    for name in "ab":
        (tmp_path / name).mkdir()
        with Shards(tmp_path / name, "train") as shards:
            for number in range(5):
                shards.write(batch(row(number)))
        data.append(shards.paths[0].read_bytes())
    assert data[0] == data[1]


def test_without_rows_there_is_no_shard(tmp_path: Path) -> None:
    with Shards(tmp_path, "train") as shards:
        pass
    assert (shards.paths, list(tmp_path.iterdir())) == ([], [])


def test_requests_are_lines_of_json(tmp_path: Path) -> None:
    with Requests(tmp_path) as requests:
        requests.write("ab", "log", '{"messages": [{"role": "user", "content": "ü\\n\u2028"}]}', altered=False)
        requests.write("cd", "log", "{}", altered=True)
    found = [json.loads(line) for line in requests.path.read_bytes().split(b"\n") if line]
    assert found == [
        {
            "key": "ab",
            "source": "log",
            "altered": False,
            "request": {"messages": [{"role": "user", "content": "ü\n\u2028"}]},
        },
        {"key": "cd", "source": "log", "altered": True, "request": {}},
    ]
