"""Datasets that are not made: each cause has its reason and its words, and nothing half-written is left."""

import shutil
from typing import Any

import pytest

from specop.api import reasons
from specop.data import reader
from specop.storage.stores import open_store
from tests.data.world import Json, World, capture, captures, chat, failure, jsonl
from tests.storage.server import S3Server


@pytest.mark.parametrize(
    ("rows", "reason", "words"),
    [
        pytest.param(
            [b""], reasons.NO_USABLE_ROWS, "Of 0 conversations 0 are left to train on and 0", id="blank lines"
        ),
        pytest.param(
            [chat("a", "b")], reasons.NO_USABLE_ROWS, "1 are left to train on and 0 to hold out", id="one conversation"
        ),
        pytest.param([chat("a", "b")] * 3, reasons.NO_USABLE_ROWS, "2 duplicates", id="one conversation, thrice"),
        pytest.param([chat("a"), chat("b")], reasons.NO_USABLE_ROWS, "2 without a generated token", id="no answers"),
        pytest.param([capture(1, finish="abort")] * 2, reasons.NO_USABLE_ROWS, "2 failed", id="failed requests"),
        pytest.param([{"prompt": "a"}], reasons.SOURCE_FORMAT_UNKNOWN, "OpenAIChat: messages; ", id="another format"),
        pytest.param([chat("a", "b"), b"?"], reasons.TOO_MANY_BAD_LINES, "1 of 2 lines", id="malformed"),
        pytest.param([b"?"], reasons.TOO_MANY_BAD_LINES, "not JSON", id="all malformed"),
    ],
)
def test_rows_that_make_no_dataset(world: World, rows: list[Any], reason: str, words: str) -> None:
    world.write("a.jsonl", rows)
    error = failure(world)
    assert (error.reason, words in error.message) == (reason, True), error.message


@pytest.mark.parametrize("row", [{"secret": "secret"}, chat("secret", "secret"), b"secret"], ids=str)
def test_an_error_quotes_no_row(world: World, row: Any) -> None:
    world.write("a.jsonl", [row])
    assert "secret" not in failure(world).message


def test_a_row_of_another_format_later_is_malformed(world: World) -> None:
    rows = [*(capture(number) for number in range(30)), chat("a", "b")]
    world.write("a.jsonl", rows)
    assert world.make().counts.set_aside == 1


def test_a_stated_format_is_not_guessed(world: World) -> None:
    uri = world.write("a.jsonl", [chat("a", "b"), chat("c", "d")])
    error = failure(world, {"name": "log", "objects": {"uri": uri, "format": "Capture"}})
    assert (error.reason, "no request or no response" in error.message) == (reasons.TOO_MANY_BAD_LINES, True)


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("in/*.jsonl", reasons.SOURCE_EMPTY),
        ("in/none/**", reasons.SOURCE_EMPTY),
        ("in/a.json", reasons.OBJECT_NOT_FOUND),
    ],
)
def test_objects_that_are_not_there(world: World, uri: str, reason: str) -> None:
    world.write("empty.jsonl", [])
    error = failure(world, {"name": "log", "objects": {"uri": f"file://{world.folder}/{uri}"}})
    assert error.reason == reason


def test_too_few_requests(world: World) -> None:
    source = captures(world, "2026-01-01", [capture(number) for number in range(12)])
    error = failure(world, {**source, "minRequests": 6})
    assert (error.reason, "5 captured requests" in error.message) == (reasons.TOO_FEW_REQUESTS, True)
    assert world.make([{**source, "minRequests": 5}]).counts.read == 5


def test_a_line_without_measure(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MAX_LINE", 1 << 20)
    world.write("a.jsonl.zst", [chat("a", "b" * (1 << 20))])
    assert failure(world).reason == reasons.LINE_TOO_LONG


@pytest.mark.parametrize(
    ("missing", "reason"),
    [
        ("config.json", reasons.TARGET_NOT_FOUND),
        ("tokenizer.json", reasons.TARGET_WITHOUT_TOKENIZER),
        ("chat_template.jinja", reasons.TARGET_WITHOUT_CHAT_TEMPLATE),
        ("model.safetensors", reasons.TARGET_UNSUPPORTED),
    ],
)
def test_an_incomplete_target(world: World, missing: str, reason: str) -> None:
    world.write("a.jsonl", [chat("a", "b"), chat("c", "d")])
    world.target = shutil.copytree(world.target, world.folder / "target")
    (world.target / missing).unlink()
    assert failure(world).reason == reason


def test_no_target(world: World) -> None:
    world.target = world.folder / "nothing"
    assert failure(world).reason == reasons.TARGET_NOT_FOUND


@pytest.fixture
def bucket(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """A bucket with one object of captures."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    name = s3.new_bucket()
    open_store(f"s3://{name}", s3.config).put(f"s3://{name}/in/a.jsonl", jsonl(capture(number) for number in range(9)))
    return name


def of(bucket: str) -> Json:
    return {"name": "log", "objects": {"uri": f"s3://{bucket}/in/*.jsonl"}}


@pytest.mark.control_plane
def test_wherever_it_lies_it_is_the_same_dataset(world: World, s3: S3Server, bucket: str) -> None:
    world.write("b.jsonl", [capture(number) for number in range(9)])
    facts = world.make([of(bucket)], output=f"s3://{bucket}/out", store=s3.config)
    assert facts.uri.startswith(f"s3://{bucket}/out/datasets/")
    assert facts.digest == world.make().digest


@pytest.mark.control_plane
@pytest.mark.parametrize("wrong", [{"AWS_ACCESS_KEY_ID": "nobody"}, {"AWS_SECRET_ACCESS_KEY": "guessed"}], ids=" ".join)
def test_wrong_keys(world: World, s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch, wrong: Json) -> None:
    for name, value in wrong.items():
        monkeypatch.setenv(name, value)
    error = failure(world, of(bucket), store=s3.config)
    assert (error.reason, s3.secret_key in error.message) == (reasons.STORAGE_ACCESS_DENIED, False)


@pytest.mark.control_plane
@pytest.mark.parametrize(("source", "output"), [("nowhere", None), (None, "nowhere")], ids=["source", "output"])
def test_a_missing_bucket(world: World, s3: S3Server, bucket: str, source: str | None, output: str | None) -> None:
    error = failure(world, of(source or bucket), output=f"s3://{output or bucket}/out", store=s3.config)
    assert (error.reason, "'nowhere'" in error.message) == (reasons.BUCKET_NOT_FOUND, True)
