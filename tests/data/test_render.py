"""Exactly the generated tokens are supervised, whatever the template: the answer and its end of turn, nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from specop.data.formats import read_capture, read_chat
from specop.data.places import ByOffsets
from specop.data.render import Tokens, rows_of, to_tokens
from specop.data.tokens import TargetText
from tests.data.templates import FAMILIES
from tests.data.world import Json, capture, chat, messages
from tests.tiny import tiny_tokenizer

CALL = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"city": "Köln", "n": [1]}'}}


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TargetText]:
    return {name: family.text(tmp_path_factory.mktemp("family") / "t") for name, family in FAMILIES.items()}


def rows(target: TargetText, row: Json) -> list[Tokens]:
    exchange = read_capture(row) if "response" in row else read_chat(row)
    (found,) = rows_of([exchange], target)
    return found


def shown(target: TargetText, ids: Any) -> str:
    return str(target._tokenizer.decode(list(ids), skip_special_tokens=False))


def supervised(target: TargetText, row: Tokens) -> list[str]:
    """Text of each span."""
    return [shown(target, row.input_ids[start:end]) for start, end in row.spans]


PIECES = st.sampled_from(
    [
        *("i", "end", "assistant", "record", "a b", "ü", "🙂", "\u0301", "\n", " ", "{", '"', "ASSISTANT:", "user\n"),
        *("<|im_end|>", "<|im_start|>", "<|eot_id|>", "<think>", "</think>", "<tool_call>", "<|im_", "|>", "in the"),
    ]
)
CONTENT = st.lists(PIECES | st.text(max_size=3), min_size=1, max_size=4).map("".join).filter(str.strip)
TURNS = st.lists(CONTENT, min_size=2, max_size=6).filter(lambda turns: len(turns) % 2 == 0)


@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=60, deadline=None)
@given(turns=TURNS, system=st.none() | CONTENT)
@example(turns=["x", "end"], system=None)
@example(turns=["x", "i", "i", "i"], system="i")
@example(turns=["x", "a<|im_end|>b"], system=None)
@example(turns=["x", "assistant (in"], system=None)
def test_of_a_conversation_every_answer_is_supervised(
    texts: dict[str, TargetText], name: str, turns: list[str], system: str | None
) -> None:
    conversation = messages(*turns, system=system)
    expected = [FAMILIES[name].wrote(message) for message in conversation if message["role"] == "assistant"]
    (row,) = rows(texts[name], {"messages": conversation})
    assert [text.strip() for text in supervised(texts[name], row)] == [text.strip() for text in expected]
    end = FAMILIES[name].end
    assert all(text.endswith(end) for text in supervised(texts[name], row)) or name == "no end of turn"


@pytest.mark.parametrize("name", FAMILIES)
def test_of_a_capture_only_the_response_is_supervised(texts: dict[str, TargetText], name: str) -> None:
    request = {"messages": messages("Hi", "Hello, as said before", "And?")}
    (row,) = rows(texts[name], capture(0, answer="Well.", **request))
    assert supervised(texts[name], row) == [FAMILIES[name].wrote({"content": "Well."})]
    (cut,) = rows(texts[name], capture(0, answer="Well.", finish="length", **request))
    assert [text.strip() for text in supervised(texts[name], cut)] == ["Well."]


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "another header than the prompt's"])
def test_what_stands_before_a_span_is_what_the_engine_saw(texts: dict[str, TargetText], name: str) -> None:
    target, request = texts[name], {"messages": messages("Hi")}
    (row,) = rows(target, capture(0, answer="Well.", **request))
    ((start, end),) = row.spans
    assert shown(target, row.input_ids[:start]) == target.template.render(request["messages"], {}, None, prompt=True)
    assert end == len(row.input_ids)


def test_a_turn_whose_reasoning_is_dropped_later_is_a_row_of_its_own(texts: dict[str, TargetText]) -> None:
    target = texts["reasoning dropped from history"]
    thinking = [{"role": "assistant", "content": text, "reasoning_content": f"about {text}"} for text in "AB"]
    plain = {"role": "assistant", "content": "C"}
    users = [{"role": "user", "content": "?"}] * 4
    last = {"role": "assistant", "content": "D", "reasoning": "about D"}
    conversation = [users[0], thinking[0], users[1], plain, users[2], thinking[1], users[3], last]
    found = rows(target, {"messages": conversation})
    assert [supervised(target, row) for row in found] == [
        ["<think>\nabout A\n</think>\n\nA<|im_end|>"],
        ["<think>\nabout B\n</think>\n\nB<|im_end|>"],
        ["C<|im_end|>", "<think>\nabout D\n</think>\n\nD<|im_end|>"],
    ]
    assert "about A" not in shown(target, found[-1].input_ids)


def test_content_that_its_own_reasoning_quotes(texts: dict[str, TargetText]) -> None:
    target = texts["reasoning dropped from history"]
    answer = {"role": "assistant", "content": "end", "reasoning_content": "end it: end<|im_end|> or not"}
    (row,) = rows(target, {"messages": [*messages("Hi"), answer]})
    assert supervised(target, row) == [FAMILIES["reasoning dropped from history"].wrote(answer)]


def test_calls_are_supervised_and_results_are_not(texts: dict[str, TargetText]) -> None:
    target = texts["tool calls"]
    called = {"role": "assistant", "content": None, "tool_calls": [CALL, CALL]}
    both = {"role": "assistant", "content": "Wait.<|im_end|>", "tool_calls": [CALL]}
    result = {"role": "tool", "tool_call_id": "c1", "content": "the result of find"}
    final = {"role": "assistant", "content": "Found."}
    conversation = [*messages("Hi"), called, result, both, result, final]
    (row,) = rows(target, {"messages": conversation, "tools": [{"type": "function", "function": {"name": "find"}}]})
    wrote = FAMILIES["tool calls"].wrote
    assert supervised(target, row) == [wrote(message) for message in (called, both, final)]
    assert shown(target, row.input_ids).count("the result of find") == 2


def test_a_call_that_was_cut_is_supervised_up_to_the_cut(texts: dict[str, TargetText]) -> None:
    answer = {"content": None, "tool_calls": [{"function": {"name": "find", "arguments": '{"city": "K'}}]}
    row = capture(0, finish="length")
    row["response"]["choices"][0]["message"] = answer
    (found,) = rows(texts["tool calls"], row)
    (text,) = supervised(texts["tool calls"], found)
    assert "<tool_call>" in text
    assert "<|im_end|>" not in text


LOGGED = {
    "the answer's own": ("Well.<|im_end|>", "Well.", True),
    "without end of turn": ("Well.", "Well.", True),
    "with reasoning before": ("<think>hm</think>Well.<|im_end|>", "Well.", True),
    "of another answer": ("Badly.<|im_end|>", "Well.", False),
    "beyond the vocabulary": (None, "Well.", False),
}


@pytest.mark.parametrize("case", LOGGED)
def test_logged_ids_win_if_they_are_this_targets(texts: dict[str, TargetText], case: str) -> None:
    target = texts["ChatML"]
    spelled, answer, wins = LOGGED[case]
    prompt = target._tokenizer.encode("a prompt that no template writes: ").ids
    ids = [10**6] if spelled is None else target._tokenizer.encode(spelled).ids
    row = capture(0, answer=answer)
    row["response"]["prompt_token_ids"] = prompt
    row["response"]["choices"][0]["token_ids"] = ids
    (found,) = rows(target, row)
    if wins:
        assert found == Tokens([*prompt, *ids], ((len(prompt), len(prompt) + len(ids)),), as_generated=True)
    else:
        assert supervised(target, found) == ["Well.<|im_end|>"]


def pieces(*texts: str) -> Tokenizer:
    """A tokenizer that cuts exactly so; what is none of its pieces has no token."""
    tokenizer = Tokenizer(models.WordLevel({text: index for index, text in enumerate(texts)}, unk_token="?"))
    cut = Regex("|".join(texts))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(" "), "removed"), pre_tokenizers.Split(cut, "isolated")]
    )
    return tokenizer


@pytest.mark.parametrize(
    ("tokenizer", "text", "spans", "expected"),
    [
        (pieces("ab", "cd", "ef"), "abcdef", [(2, 4)], ((1, 2),)),
        (pieces("ab", "cde", "f"), "abcdef", [(2, 4)], ()),
        (pieces("abc", "d", "ef"), "abcdef", [(2, 4)], ((1, 2),)),
        (tiny_tokenizer(), "a€b", [(1, 2)], ((1, 4),)),
        (pieces("ab", "cd", "ef"), "abcdef", [(0, 2), (4, 6)], ((0, 1), (2, 3))),
        (pieces("ab"), "ab", [(2, 2)], ()),
        (pieces("ab", "cd", "ef"), "ab cd ef ", [(2, 6)], ((1, 2),)),
        (pieces("ab", "cd", "ef"), "ab cd ef ", [(5, 9)], ((2, 3),)),
    ],
    ids=[
        "exact",
        "over the end",
        "over the start",
        "bytes of one character",
        "two spans",
        "empty",
        "gaps",
        "gap at end",
    ],
)
def test_a_token_across_an_edge_is_not_supervised(tokenizer: Tokenizer, text: str, spans: Any, expected: Any) -> None:
    assert to_tokens(ByOffsets(tokenizer.encode(text), len(text)), spans).spans == expected


@given(st.text("ab€ \n<|im_end|>", max_size=12), st.data())
def test_spans_of_tokens_are_those_by_offsets(text: str, data: st.DataObject) -> None:
    start, end = sorted(data.draw(st.tuples(st.integers(0, len(text)), st.integers(0, len(text)))))
    encoded = tiny_tokenizer().encode(text)
    inside = [index for index, (first, last) in enumerate(encoded.offsets) if start <= first and last <= end]
    expected = ((inside[0], inside[-1] + 1),) if inside else ()
    assert to_tokens(ByOffsets(encoded, len(text)), [(start, end)]).spans == expected


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (9, Tokens(range(9), ((1, 3), (5, 9)))),
        (10, Tokens(range(9), ((1, 3), (5, 9)))),
        (6, Tokens(range(6), ((1, 3), (5, 6)))),
        (5, Tokens(range(5), ((1, 3),))),
        (1, Tokens(range(1), ())),
    ],
)
def test_rows_are_cut_at_the_right_end(length: int, expected: Tokens) -> None:
    assert Tokens(range(9), ((1, 3), (5, 9))).cut(length) == expected


def test_rows_are_in_order_of_exchanges_and_a_refused_one_is_empty(tmp_path: Path) -> None:
    family = FAMILIES["ChatML"]
    strict = family.template + "{% if messages[0].content == 'no' %}{{ raise_exception('no: ' ~ messages) }}{% endif %}"
    target = type(family)(strict, family.wrote).text(tmp_path)
    batch = [read_chat(chat(user, "Well.")) for user in ("yes", "no", "yes")]
    found = list(rows_of(batch, target))
    assert [len(rows) for rows in found] == [1, 0, 1]
    assert json.dumps(found[0][0].spans) == json.dumps(found[2][0].spans)
