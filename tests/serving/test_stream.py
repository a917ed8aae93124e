"""A stream of chunks becomes the answer that was not streamed."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specop.serving.specop_capture.stream import assemble
from tests.serving.exchange import chunk, delta, sse


@pytest.mark.parametrize(
    ("chunks", "choice"),
    [
        pytest.param(
            [
                delta(role="assistant", content=None),
                delta(tool_calls=[{"index": 0, "id": "a", "type": "function", "function": {"name": "find"}}]),
                delta(tool_calls=[{"index": 0, "function": {"arguments": '{"city": '}}]),
                delta(tool_calls=[{"index": 1, "id": "b", "type": "function", "function": {"name": "book"}}]),
                delta(
                    tool_calls=[
                        {"index": 0, "function": {"arguments": '"Bonn"}'}},
                        {"index": 1, "function": {"arguments": "{}"}},
                    ]
                ),
                delta("tool_calls"),
            ],
            {
                "index": 0,
                "finish_reason": "tool_calls",
                "token_ids": None,
                "message": {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {"id": "a", "type": "function", "function": {"name": "find", "arguments": '{"city": "Bonn"}'}},
                        {"id": "b", "type": "function", "function": {"name": "book", "arguments": "{}"}},
                    ],
                },
            },
            id="tool calls, one growing while the next begins",
        ),
        pytest.param(
            [
                delta(role="assistant", content=""),
                delta(reasoning="The user "),
                delta(reasoning="greets."),
                delta(content="Hi."),
                delta("stop"),
            ],
            {
                "index": 0,
                "finish_reason": "stop",
                "token_ids": None,
                "message": {"role": "assistant", "content": "Hi.", "reasoning": "The user greets."},
            },
            id="reasoning",
        ),
        pytest.param(
            [
                {"index": 0, "delta": {"content": "a"}, "logprobs": {"content": [{"token": "a", "logprob": -1.0}]}},
                {"index": 0, "delta": {"content": "b"}, "logprobs": {"content": [{"token": "b", "logprob": -2.0}]}},
            ],
            {
                "index": 0,
                "logprobs": {"content": [{"token": "a", "logprob": -1.0}, {"token": "b", "logprob": -2.0}]},
                "message": {"content": "ab"},
            },
            id="log-probabilities",
        ),
        pytest.param(
            [delta(role="assistant", content="", tool_calls=[]), delta(content="x", tool_calls=None)],
            {
                "index": 0,
                "finish_reason": None,
                "token_ids": None,
                "message": {"role": "assistant", "content": "x", "tool_calls": None},
            },
            id="empty lists and nulls",
        ),
    ],
)
def test_pieces_are_joined(chunks: list[dict[str, Any]], choice: dict[str, Any]) -> None:
    assert assemble(sse(*map(chunk, chunks)))["choices"] == [choice]


def test_several_choices_and_a_text_completion() -> None:
    head = {"id": "cmpl-1", "object": "text_completion", "model": "agent"}
    stream = sse(
        {**head, "choices": [{"index": 1, "text": "b", "finish_reason": None}]},
        {**head, "choices": [{"index": 0, "text": "a", "finish_reason": "length"}]},
        {**head, "choices": [{"index": 1, "text": "c", "finish_reason": "stop"}]},
    )
    assert assemble(stream) == {
        **head,
        "choices": [
            {"index": 0, "text": "a", "finish_reason": "length"},
            {"index": 1, "text": "bc", "finish_reason": "stop"},
        ],
    }


@given(st.lists(st.text(), min_size=1))
def test_any_split_of_a_text_is_joined(pieces: list[str]) -> None:
    stream = sse(*(chunk(delta(content=piece)) for piece in pieces))
    assert assemble(stream)["choices"][0]["message"]["content"] == "".join(pieces)
