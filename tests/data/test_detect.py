"""Every format is told from the others, and says the same of the same conversation."""

import json
from datetime import UTC, datetime
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specop.api.dataset import RowFormat
from specop.data.detect import SOUGHT, detect, read_row
from specop.data.formats import DROPPED, Exchange, Fate, Unusable, flat_content
from tests.data.rows import ANSWER, ARGUMENTS, BODY, COMPLETION, MESSAGES, ROWS, SYSTEM, TOOLS, langfuse, litellm
from tests.data.test_formats import VALUES, changed
from tests.data.world import Json

IDS = [f"{name}-{index}" for index, (name, _) in enumerate(ROWS)]
CHATS = [
    (name, row) for name, row in ROWS if name not in ("Text", "Tokens") and row.get("prompt") != MESSAGES[1]["content"]
]


def test_there_is_a_row_of_each_format() -> None:
    assert {name for name, _ in ROWS} == set(get_args(RowFormat))
    assert all(name in SOUGHT for name in get_args(RowFormat))


@pytest.mark.parametrize(("name", "row"), ROWS, ids=IDS)
def test_formats_are_told_apart(name: RowFormat, row: Json) -> None:
    assert detect(row) == name


EXTRA = st.dictionaries(st.sampled_from(["id", "metadata", "tags", "source", "note", "usage", "created_at"]), VALUES)


@given(st.sampled_from(ROWS), EXTRA, st.randoms(use_true_random=False))
def test_other_keys_and_another_order_change_nothing(named: tuple[str, Json], extra: Json, chance: Any) -> None:
    name, row = named
    items = list({**extra, **row}.items())
    chance.shuffle(items)
    assert detect(dict(items)) == name


@given(st.dictionaries(st.sampled_from(["messages", "input", "output", "type", "v", "prompt", "data", "id"]), VALUES))
def test_a_row_without_a_formats_keys_has_none(row: Json) -> None:
    if "messages" not in row:
        assert detect(row) is None


@pytest.mark.parametrize(("name", "row"), CHATS, ids=[f"{name}-{index}" for index, (name, _) in enumerate(CHATS)])
def test_each_reads_the_same_conversation(name: RowFormat, row: Json) -> None:
    found = read_row(row, name)
    said = [(message["role"], flat_content(message)) for message in found.request["messages"]]
    expected = [(message["role"], flat_content(message)) for message in MESSAGES]
    assert said == expected
    calls = found.request["messages"][2]["tool_calls"]
    assert [(call["function"]["name"], call["function"]["arguments"]) for call in calls] == [("weather", ARGUMENTS)]
    assert (found.answer["role"], flat_content(found.answer)) == ("assistant", ANSWER)
    assert found.request["tools"] == TOOLS
    assert found.ended
    logs = name not in ("ShareGPT", "PromptCompletion")
    assert found.history is (name in ("OpenAIChat", "ShareGPT", "PromptCompletion"))
    assert found.time == (datetime(2026, 1, 1, tzinfo=UTC) if logs else None)
    assert found.temperature == (0.5 if logs else 1.0)
    assert found.model == ("agent" if logs and name != "OpenAIChat" else "")
    known = name in ("Capture", "LiteLLM", "Langfuse", "BedrockInvocation")
    assert found.tenant == ("team-a" if known else "")
    assert found.latency == (1.5 if name in ("Capture", "LiteLLM", "Langfuse") else None)


def test_texts_of_prompt_and_completion_are_a_turn_and_its_answer() -> None:
    found = read_row({"prompt": "a", "completion": "b"}, "PromptCompletion")
    assert found == Exchange(
        {"messages": [{"role": "user", "content": "a"}]}, {"role": "assistant", "content": "b"}, history=True
    )


def test_text_and_tokens_are_rows_as_they_are() -> None:
    assert read_row({"text": "a b"}, "Text").text == "a b"
    for more in (
        {"labels": [-100, 6, 7, -100]},
        {"loss_mask": [0, 1, 1, 0]},
        {"loss_mask": [False, True, True, False]},
    ):
        found = read_row({"input_ids": [5, 6, 7, 8], **more}, "Tokens")
        assert (found.token_ids, found.spans) == ((5, 6, 7, 8), ((1, 3),))
    assert read_row({"input_ids": [5, 6, 7], "loss_mask": [1, 0, 1]}, "Tokens").spans == ((0, 1), (2, 3))


LITELLM, LANGFUSE = litellm(), langfuse()
BATCH = next(row for name, row in ROWS if name == "OpenAIBatch")
BEDROCK = next(row for name, row in ROWS if name == "BedrockInvocation")
SHAREGPT = next(row for name, row in ROWS if name == "ShareGPT")
LEFT_OUT: list[tuple[RowFormat, Json, Fate, str]] = [
    ("OpenAIBatch", changed(BATCH, "body", ...), Fate.UNSUPPORTED, "a batch's answer without its request"),
    ("OpenAIBatch", changed(BATCH, "error", {"code": "x"}), Fate.FAILED, "the request failed"),
    ("OpenAIBatch", changed(BATCH, "response.status_code", 500), Fate.FAILED, "the request failed"),
    ("LiteLLM", changed(LITELLM, "status", "failure"), Fate.FAILED, "the request failed"),
    ("LiteLLM", changed(LITELLM, "call_type", "aembedding"), Fate.UNSUPPORTED, "not a chat completion"),
    ("LiteLLM", changed(LITELLM, "messages", "redacted-by-litellm"), Fate.NO_CONSENT, "its content was not logged"),
    ("LiteLLM", changed(LITELLM, "messages.1.content", "redacted-by-litellm"), Fate.NO_CONSENT, "its content was not"),
    ("LiteLLM", changed(LITELLM, "messages", "Hi"), Fate.SET_ASIDE, "no messages"),
    ("Langfuse", changed(LANGFUSE, "type", "SPAN"), Fate.UNSUPPORTED, "an observation that is no generation"),
    ("Langfuse", changed(LANGFUSE, "level", "ERROR"), Fate.FAILED, "the request failed"),
    ("Langfuse", changed(LANGFUSE, "output", None), Fate.NO_CONSENT, "its content was not logged"),
    ("BedrockInvocation", changed(BEDROCK, "input.inputBodyJson", ...), Fate.UNSUPPORTED, "a body that lies elsewhere"),
    ("BedrockInvocation", changed(BEDROCK, "operation", "InvokeModel"), Fate.UNSUPPORTED, "a model's own body"),
    (
        "BedrockInvocation",
        changed(BEDROCK, "output.outputBodyJson.stopReason", "guardrail_intervened"),
        Fate.FAILED,
        "the answer",
    ),
    ("BedrockInvocation", changed(BEDROCK, "input.inputBodyJson.messages", 3), Fate.SET_ASIDE, "a malformed body"),
    (
        "ShareGPT",
        changed(SHAREGPT, "conversations.0.from", "narrator"),
        Fate.SET_ASIDE,
        "a turn without from and value",
    ),
    ("ShareGPT", changed(SHAREGPT, "conversations.1.value", "{"), Fate.SET_ASIDE, "JSON inside a string"),
    ("ShareGPT", changed(SHAREGPT, "conversations.1.value", "{}"), Fate.SET_ASIDE, "malformed tool_calls"),
    ("ShareGPT", {"conversations": [{"from": "human", "value": "x"}]}, Fate.UNSUPERVISED, "no assistant turn"),
    ("PromptCompletion", {"prompt": 1, "completion": "x"}, Fate.SET_ASIDE, "prompt or completion of a wrong type"),
    ("PromptCompletion", {"prompt": "x", "completion": ""}, Fate.UNSUPERVISED, "an empty answer"),
    ("Text", {"text": " "}, Fate.UNSUPERVISED, "an empty text"),
    ("Text", {"text": 1}, Fate.SET_ASIDE, "text of a wrong type"),
    ("Tokens", {"input_ids": [1, 2], "labels": [2, -100]}, Fate.SET_ASIDE, "labels that are not the tokens above them"),
    ("Tokens", {"input_ids": [1, 2], "loss_mask": [1]}, Fate.SET_ASIDE, "neither labels nor loss_mask along"),
    ("Tokens", {"input_ids": [1, -2], "loss_mask": [1, 1]}, Fate.SET_ASIDE, "input_ids of a wrong type"),
    ("Tokens", {"input_ids": [1, 2], "loss_mask": [0, 0]}, Fate.UNSUPERVISED, "no token is learned from"),
    ("RequestResponse", {"request": BODY, "response": None}, Fate.FAILED, "there is no answer"),
    ("RequestResponse", {"request": BODY, "response": {"a": 1}}, Fate.SET_ASIDE, "an answer of an unknown shape"),
    ("SageMakerCapture", {"captureData": {}}, Fate.UNSUPPORTED, "a side of the request was not captured"),
]


@pytest.mark.parametrize(
    ("name", "row", "fate", "reason"), LEFT_OUT, ids=[f"{name}: {why}" for name, _, _, why in LEFT_OUT]
)
def test_what_is_left_out_and_why(name: RowFormat, row: Json, fate: Fate, reason: str) -> None:
    with pytest.raises(Unusable) as caught:
        read_row(row, name)
    assert caught.value.fate is fate
    assert caught.value.reason.startswith(reason)


def test_an_answer_that_is_json_stays_text() -> None:
    found = read_row({"request": BODY, "response": '{"content": 1}'}, "RequestResponse")
    assert found.answer["content"] == '{"content": 1}'
    found = read_row(changed(LANGFUSE, "output", '{"content": "x"}'), "Langfuse")
    assert found.answer["content"] == '{"content": "x"}'


def paths(value: Any, at: str = "") -> list[str]:
    """Every place in a row."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    inner = [
        path for key, item in items if "." not in str(key) for path in paths(item, f"{at}.{key}" if at else str(key))
    ]
    return [*([at] if at else []), *inner]


PLACES = [(name, row, path) for name, row in ROWS for path in paths(row)]


@given(st.sampled_from(PLACES), VALUES | st.just(...))
def test_any_value_anywhere_gives_an_exchange_or_a_reason(place: tuple[RowFormat, Json, str], value: Any) -> None:
    name, row, path = place
    fate, reason = outcome(changed(row, path, value), name)
    assert fate in {Fate.TRAIN, *DROPPED, Fate.SET_ASIDE}
    assert SYSTEM not in reason
    assert ANSWER not in reason


def outcome(row: Json, name: RowFormat) -> tuple[Fate, str]:
    """What becomes of a row; anything but a fate is an error."""
    try:
        found = read_row(row, name)
    except Unusable as why:
        return why.fate, why.reason
    json.dumps([found.request, found.answer])
    assert all(isinstance(message["role"], str) for message in found.request["messages"])
    return Fate.TRAIN, ""


def test_completions_come_from_the_real_library() -> None:
    assert COMPLETION["choices"][0]["message"]["content"] == ANSWER
