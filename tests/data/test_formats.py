"""What lines may look like: each becomes an exchange, or is left out for a reason that quotes nothing."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specop.api.dataset import RowFormat
from specop.data.detect import detect
from specop.data.formats import (
    DROPPED,
    Exchange,
    Fate,
    Unusable,
    from_microseconds,
    parse,
    read_capture,
    read_chat,
    to_microseconds,
)
from specop.data.intake import Intake, Policy, Selection
from specop.data.normalise import identify
from tests.data.world import Json, capture, chat, messages
from tests.serving.asgi import answering, ask, captured
from tests.serving.asgi import capture as middleware_over

INTAKE = Intake(Policy(), {})
CALL = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"city": "Bonn"}'}}
TOOL = {"type": "function", "function": {"name": "find", "parameters": {}}}
NINE = datetime(2026, 1, 1, 9, tzinfo=UTC)


def changed(row: Json, path: str, value: Any) -> Json:
    """A copy of a row with another value at a path such as `response.choices.0.message`; `...` removes it."""
    copy: Json = json.loads(json.dumps(row))
    *parents, last = path.split(".")
    place: Any = copy
    for key in parents:
        place = place[int(key)] if isinstance(place, list) else place[key]
    if value is ...:
        del place[int(last) if isinstance(place, list) else last]
    else:
        place[int(last) if isinstance(place, list) else last] = value
    return copy


def test_a_chat_row_is_everything_up_to_its_last_assistant_turn() -> None:
    row = chat("Hi", "Hello", "Bye", "Ciao", "unanswered", temperature=0.5, tools=[TOOL], id="x", created=0)
    assert read_chat(row) == Exchange(
        request={"messages": messages("Hi", "Hello", "Bye"), "temperature": 0.5, "tools": [TOOL]},
        answer={"role": "assistant", "content": "Ciao"},
        time=datetime(1970, 1, 1, tzinfo=UTC),
        history=True,
    )


def test_a_capture_is_its_request_and_its_answer() -> None:
    row = changed(capture(540, "Hi", "Hello", seed=1), "response.choices.0.message.tool_calls", [])
    row = changed(row, "response.choices.0.token_ids", [7, 8])
    assert read_capture(changed(row, "response.prompt_token_ids", [1, 2])) == Exchange(
        request={"model": "agent", "messages": messages("Hi"), "seed": 1},
        answer={"role": "assistant", "content": "Hello", "tool_calls": []},
        time=NINE,
        prompt_token_ids=(1, 2),
        token_ids=(7, 8),
        model="agent",
        latency=1.5,
    )
    assert read_capture(row).token_ids == ()  # one without the other is nothing


async def test_what_the_middleware_writes_is_a_capture(tmp_path: Path) -> None:
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}
    middleware = middleware_over(answering([json.dumps({"id": "x", "choices": [choice]}).encode()]), tmp_path)
    await ask(middleware, json.dumps({"messages": messages("Hi"), "temperature": 0}).encode())
    (line,), _ = captured(middleware)
    assert detect(line) == "Capture"
    exchange = read_capture(line)
    assert (exchange.request, exchange.answer) == ({"messages": messages("Hi"), "temperature": 0}, choice["message"])
    assert (exchange.ended, exchange.time) == (True, datetime.fromisoformat(line["time"]))


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (chat("a", "b"), "OpenAIChat"),
        (capture(0), "Capture"),
        ({"request": {}, "response": {}, "messages": []}, "RequestResponse"),
        ({"request": {}}, None),
        ({"prompt": "a"}, None),
        ({}, None),
    ],
    ids=["chat", "capture", "both", "no response", "another format", "empty"],
)
def test_formats_are_told_apart_by_a_row(row: Json, expected: str | None) -> None:
    assert detect(row) == expected


@pytest.mark.parametrize(
    ("row", "ended"),
    [
        pytest.param(capture(0), True, id="stop"),
        pytest.param(capture(0, finish="length"), False, id="cut by max_tokens"),
        pytest.param(capture(0, finish="tool_calls"), True, id="tool calls"),
        pytest.param(changed(capture(0), "status", ...), True, id="no status"),
        pytest.param(changed(capture(0), "route", ...), True, id="no route"),
        pytest.param(
            changed(capture(0), "response.choices.0.message", {"content": None, "tool_calls": [CALL]}),
            True,
            id="a call without content",
        ),
        pytest.param(
            changed(capture(0), "response.choices.0.message", {"content": None, "reasoning_content": "Hm"}),
            True,
            id="only reasoning",
        ),
        pytest.param(
            changed(capture(0), "request.messages.0.content", [{"type": "text", "text": "Hi"}]),
            True,
            id="content as a list of parts",
        ),
    ],
)
def test_good_captures(row: Json, ended: bool) -> None:
    assert read_capture(row).ended is ended


PART = {"type": "image_url", "image_url": {"url": "data:,"}}
BAD_CAPTURES = [
    ("status", 500, Fate.FAILED, "the request failed"),
    ("status", "200", Fate.FAILED, "the request failed"),
    ("response.error", {"message": "x"}, Fate.FAILED, "the request failed"),
    ("response.choices.0.finish_reason", "abort", Fate.FAILED, "the answer was aborted"),
    ("response.choices.0.finish_reason", None, Fate.FAILED, "the answer was aborted"),
    ("response.choices.0.finish_reason", ..., Fate.FAILED, "the answer was aborted"),
    ("response.choices.0.message.content", "", Fate.UNSUPERVISED, "an empty answer"),
    ("response.choices.0.message.content", None, Fate.UNSUPERVISED, "an empty answer"),
    ("route", "/v1/completions", Fate.UNSUPPORTED, "not a chat completion"),
    ("request.messages.0.content", [PART], Fate.UNSUPPORTED, "content that is not text"),
    ("request.continue_final_message", True, Fate.UNSUPPORTED, "an option that changes the template"),
    ("request.add_generation_prompt", False, Fate.UNSUPPORTED, "an option that changes the template"),
    ("request.chat_template", "{{ x }}", Fate.UNSUPPORTED, "an option that changes the template"),
    ("request.echo", True, Fate.UNSUPPORTED, "an option that changes the template"),
    ("request", ..., Fate.SET_ASIDE, "no request or no response"),
    ("request", [], Fate.SET_ASIDE, "no request or no response"),
    ("response", ..., Fate.SET_ASIDE, "no request or no response"),
    ("response", None, Fate.SET_ASIDE, "no request or no response"),
    ("response.choices", ..., Fate.SET_ASIDE, "a response without choices"),
    ("response.choices", [], Fate.SET_ASIDE, "a response without choices"),
    ("response.choices.0", "x", Fate.SET_ASIDE, "a response without choices"),
    ("response.choices.0.message", "x", Fate.SET_ASIDE, "a message that is not an object"),
    ("response.choices.0.message.content", 7, Fate.SET_ASIDE, "content of a wrong type"),
    ("response.choices.0.message.content", ["x"], Fate.SET_ASIDE, "a part of content without type"),
    ("response.choices.0.message.tool_calls", [{"name": "f"}], Fate.SET_ASIDE, "malformed tool_calls"),
    ("response.choices.0.message.tool_calls", {"a": 1}, Fate.SET_ASIDE, "malformed tool_calls"),
    ("response.choices.0.message.reasoning", 7, Fate.SET_ASIDE, "reasoning of a wrong type"),
    ("request.messages", ..., Fate.SET_ASIDE, "no messages"),
    ("request.messages", [], Fate.SET_ASIDE, "no messages"),
    ("request.messages", "Hi", Fate.SET_ASIDE, "no messages"),
    ("request.messages.0", "Hi", Fate.SET_ASIDE, "a message that is not an object"),
    ("request.messages.0.role", ..., Fate.SET_ASIDE, "a message without role"),
    ("request.messages.0.role", 1, Fate.SET_ASIDE, "a message without role"),
    ("request.tools", {}, Fate.SET_ASIDE, "tools of a wrong type"),
    ("request.chat_template_kwargs", [], Fate.SET_ASIDE, "chat_template_kwargs of a wrong type"),
    ("request.response_format", "json", Fate.SET_ASIDE, "response_format of a wrong type"),
    ("request.reasoning_effort", 1, Fate.SET_ASIDE, "reasoning_effort of a wrong type"),
    ("request.temperature", "hot", Fate.SET_ASIDE, "temperature of a wrong type"),
    ("request.temperature", -1, Fate.SET_ASIDE, "a temperature that none is"),
    ("request.temperature", float("nan"), Fate.SET_ASIDE, "a temperature that none is"),
    ("request.temperature", 10**400, Fate.SET_ASIDE, "a temperature that none is"),
    ("time", ..., Fate.SET_ASIDE, "no RFC 3339 time"),
    ("time", 1767225600, Fate.SET_ASIDE, "no RFC 3339 time"),
    ("time", "yesterday", Fate.SET_ASIDE, "no RFC 3339 time"),
    ("time", "0001-01-01T00:00:00+14:00", Fate.SET_ASIDE, "no RFC 3339 time"),
    ("time", "2026-01-01T00:00:00", Fate.SET_ASIDE, "a time without zone"),
]


@pytest.mark.parametrize(
    ("path", "value", "fate", "reason"), BAD_CAPTURES, ids=[f"{path}={value}"[:60] for path, value, *_ in BAD_CAPTURES]
)
def test_what_a_capture_is_left_out_for(path: str, value: Any, fate: Fate, reason: str) -> None:
    with pytest.raises(Unusable) as caught:
        read_capture(changed(capture(0, "Hi", "Hello"), path, value))
    assert (caught.value.fate, caught.value.reason) == (fate, reason)


@pytest.mark.parametrize(
    ("row", "fate", "reason"),
    [
        ({}, Fate.SET_ASIDE, "no messages"),
        (chat("Hi"), Fate.UNSUPERVISED, "no assistant turn"),
        (chat("Hi", ""), Fate.UNSUPERVISED, "an empty answer"),
        (chat("Hi", "Hello", time="?"), Fate.SET_ASIDE, "no RFC 3339 time"),
        (chat("Hi", "Hello", tools="find"), Fate.SET_ASIDE, "tools of a wrong type"),
        ({"messages": [{"role": "user", "content": [PART]}]}, Fate.UNSUPPORTED, "content that is not text"),
    ],
    ids=["nothing", "no answer", "empty answer", "time", "tools", "image"],
)
def test_what_a_chat_row_is_left_out_for(row: Json, fate: Fate, reason: str) -> None:
    with pytest.raises(Unusable) as caught:
        read_chat(row)
    assert (caught.value.fate, caught.value.reason) == (fate, reason)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "not JSON"),
        (b'{"a": 1} x', "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[1]", "not a JSON object"),
        (b"null", "not a JSON object"),
    ],
    ids=["half", "more behind", "deep", "a huge number", "another encoding", "list", "null"],
)
def test_malformed_lines(line: bytes, reason: str) -> None:
    with pytest.raises(Unusable) as caught:
        parse(line)
    assert (caught.value.fate, caught.value.reason) == (Fate.SET_ASIDE, reason)


@pytest.mark.parametrize(
    ("options", "constrained", "temperature"),
    [
        ({}, False, 1.0),
        ({"temperature": None, "response_format": None}, False, 1.0),
        ({"temperature": 0}, False, 0.0),
        ({"response_format": {"type": "text"}}, False, 1.0),
        ({"response_format": {"type": "json_object"}}, True, 1.0),
        ({"response_format": {"type": "json_schema", "json_schema": {}}, "temperature": 0.25}, True, 0.25),
        ({"tools": [TOOL]}, False, 1.0),
        ({"tools": [TOOL], "tool_choice": "auto"}, False, 1.0),
        ({"tools": [TOOL], "tool_choice": "required"}, True, 1.0),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "find"}}}, True, 1.0),
        ({"structured_outputs": {"regex": "a*"}}, True, 1.0),
    ],
)
def test_grammar_and_temperature(options: Json, constrained: bool, temperature: float) -> None:
    exchange = read_chat(chat("Hi", "Hello", **options))
    assert (exchange.constrained, exchange.temperature) == (constrained, temperature)


@given(st.datetimes(timezones=st.just(UTC)))
def test_times_are_exact_to_the_microsecond(time: datetime) -> None:
    assert from_microseconds(to_microseconds(time)) == time


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
PATHS = st.sampled_from(sorted({path for path, *_ in BAD_CAPTURES}))


def outcome(format_: RowFormat, line: bytes) -> Fate:
    """What becomes of a line; anything but a fate is an error."""
    try:
        taken = INTAKE.read(line, format_, Selection())
        assert taken
        identify(taken.exchange)
    except Unusable as why:
        return why.fate
    return Fate.TRAIN


@given(PATHS, VALUES)
def test_any_value_anywhere_gives_columns_or_a_reason(path: str, value: Any) -> None:
    row = changed(capture(0, "Hi", "Hello"), path, value)
    lines: list[tuple[RowFormat, Any]] = [("Capture", row), ("OpenAIChat", row.get("request")), ("OpenAIChat", row)]
    for format_, line in lines:
        assert outcome(format_, json.dumps(line).encode()) in {Fate.TRAIN, *DROPPED, Fate.SET_ASIDE}


@pytest.mark.parametrize("depth", range(900, 1000, 3))
def test_any_depth_gives_columns_or_a_reason(depth: int) -> None:
    nested = b"[" * depth + b"]" * depth
    line = json.dumps(chat("Hi", "Hello", tools=["here"])).encode().replace(b'"here"', nested)
    assert outcome("OpenAIChat", line) in {Fate.TRAIN, Fate.SET_ASIDE}
