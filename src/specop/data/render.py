r"""Which tokens of a conversation the target generated: spans by the difference of two renders.

For an assistant turn, the render of everything before it with the generation prompt is what the engine saw; what the
render with the turn adds to that is what the engine wrote, up to and with the token that ended it. Never supervised:
headers, system and user turns, tool results, and what a template puts behind the end of turn.

    … <|im_start|>assistant\n │ The weather is fine.<|im_end|> │ \n<|im_start|>user\n …
        seen before             start                      end   never generated

A conversation is one row with a span per turn, as long as the template leaves earlier turns as they were; a turn that
it rewrites later (reasoning that is dropped from history) becomes a row of its own. Where the engine logged its token
ids, they are the row, and nothing is tokenised again.
"""

import json
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from specop.data.formats import Json, flat_content, reasoning
from specop.data.template import ChatTemplate, TemplateRefused
from specop.data.tokens import Encoded, TargetText

Span = tuple[int, int]
"""Half-open."""


class Turns(NamedTuple):
    """A text and where in it, in characters, the target's own words are."""

    text: str
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Tokens:
    """One row: ids, and where in them the generated tokens are."""

    input_ids: Sequence[int]
    spans: tuple[Span, ...]

    @property
    def supervised(self) -> int:
        """Number of generated tokens."""
        return sum(end - start for start, end in self.spans)

    def cut(self, length: int) -> "Tokens":
        """Keep the first `length` tokens."""
        spans = tuple((start, min(end, length)) for start, end in self.spans if start < length)
        return Tokens(self.input_ids[:length], spans)


def rows_of(batch: Iterable[Json], target: TargetText) -> Iterator[list[Tokens]]:
    """Rows of tokens of each exchange (rows of `normalise.SCHEMA`), in order; empty where the template refuses it."""
    found: list[list[Turns] | Tokens] = []
    for row in batch:
        exchange = {**row, "request": json.loads(row["request"]), "answer": json.loads(row["answer"])}
        try:
            found.append(logged(exchange, target) or turns(exchange, target.template, target.end_tokens))
        except TemplateRefused:
            found.append([])
    texts = [turn.text for item in found if isinstance(item, list) for turn in item]
    encoded = iter(target.encode(texts))
    for item in found:
        yield [item] if isinstance(item, Tokens) else [to_tokens(next(encoded), turn.spans) for turn in item]


def logged(exchange: Json, target: TargetText) -> Tokens | None:
    """Return the row of an exchange by its logged ids, if they are this target's: they must spell the answer."""
    prompt, ids = exchange["prompt_token_ids"], exchange["token_ids"]
    if not prompt or not ids or max(*prompt, *ids) >= target.vocab_size:
        return None
    spelled, answer = target.decode(ids), exchange["answer"]
    names = [call["function"]["name"] for call in answer.get("tool_calls") or []]
    if not all(part in spelled for part in (flat_content(answer).strip(), reasoning(answer).strip(), *names)):
        return None
    return Tokens([*prompt, *ids], ((len(prompt), len(prompt) + len(ids)),))


def turns(exchange: Json, template: ChatTemplate, end_tokens: frozenset[str]) -> list[Turns]:
    """Texts of an exchange: one, or more where the template rewrites history. Raises TemplateRefused."""
    messages = [*exchange["request"]["messages"], exchange["answer"]]
    time = None if exchange["time"] is None else datetime.fromtimestamp(exchange["time"] / 1_000_000, UTC)
    last = len(messages) - 1
    learned = [
        index
        for index, message in enumerate(messages)
        if index == last or (exchange["history"] and message["role"] == "assistant")
    ]
    written: list[tuple[str, Span]] = []
    for index in learned:
        before = template.render(messages[:index], exchange["request"], time, prompt=True)
        after = template.render(messages[: index + 1], exchange["request"], time, prompt=False)
        ended = exchange["ended"] if index == last else True
        span = generated(before, after, messages[index], end_tokens, ended=ended)
        written.append((after[: span[1]], span))
    whole = written[-1][0]
    joint = [span for text, span in written if whole.startswith(text)]
    apart = [Turns(text, (span,)) for text, span in written if not whole.startswith(text)]
    return [*apart, Turns(whole, tuple(joint))]


def generated(before: str, after: str, message: Json, end_tokens: frozenset[str], *, ended: bool) -> Span:
    """Return where in `after` the engine's own words are, given what it saw."""
    content = flat_content(message).strip()
    start = len(before)
    if not after.startswith(before):
        # The template shows this turn behind another header than it prompts with; only the content is certain.
        start = _common_length(before, after)
        if content and not message.get("tool_calls") and not reasoning(message):
            start = max(start, after.find(content, start))
    found = after.rfind(content, start) if content else -1
    content_end = found + len(content) if found >= 0 else start
    beyond = start if message.get("tool_calls") else content_end  # calls may stand before or behind the content
    ends = [(after.find(token, beyond), token) for token in end_tokens]
    first = min(((place, token) for place, token in ends if place >= 0), default=None)
    if first is None:
        return start, len(after) if message.get("tool_calls") else content_end
    return start, first[0] + len(first[1]) * ended


def _common_length(one: str, other: str) -> int:
    pairs = zip(one, other, strict=False)
    return next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def to_tokens(encoded: Encoded, spans: Iterable[Span]) -> Tokens:
    """Turn spans of characters into spans of tokens; a token that reaches across an edge is not supervised."""
    starts = [start for start, _ in encoded.offsets]
    ends = [end for _, end in encoded.offsets]
    inside = ((bisect_left(starts, start), bisect_right(ends, end)) for start, end in spans)
    return Tokens(encoded.ids, tuple((first, last) for first, last in inside if first < last))
