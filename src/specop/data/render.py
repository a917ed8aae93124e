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

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from specop.data.formats import Exchange, Json, flat_content, reasoning
from specop.data.places import Placed
from specop.data.template import ChatTemplate, TemplateRefused
from specop.data.tokens import TargetText

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
    as_generated: bool = False
    """The ids are the engine's own, not those of its text tokenised again."""

    @property
    def supervised(self) -> int:
        """Number of generated tokens."""
        return sum(end - start for start, end in self.spans)

    def cut(self, length: int) -> "Tokens":
        """Keep the first `length` tokens."""
        if len(self.input_ids) <= length:
            return self
        spans = tuple((start, min(end, length)) for start, end in self.spans if start < length)
        return Tokens(self.input_ids[:length], spans, self.as_generated)


def rows_of(batch: Iterable[Exchange], target: TargetText) -> list[list[Tokens]]:
    """Rows of tokens of each exchange, in order; empty where the template refuses it."""
    found: list[list[Turns] | Tokens] = []
    for exchange in batch:
        try:
            found.append(_as_it_is(exchange, target) or logged(exchange, target) or _turns(exchange, target))
        except (TemplateRefused, RecursionError):
            found.append([])
    encoded = iter(target.encode([turn.text for item in found if isinstance(item, list) for turn in item]))
    return [
        [item] if isinstance(item, Tokens) else [to_tokens(next(encoded), turn.spans) for turn in item]
        for item in found
    ]


def _turns(exchange: Exchange, target: TargetText) -> list[Turns]:
    found = turns(exchange, target.template, target.end_of_turn)
    if not exchange.replaced:
        return found
    ours = re.compile("|".join(map(re.escape, sorted(exchange.replaced, key=len, reverse=True))))
    return [Turns(turn.text, tuple(_without(turn, ours))) for turn in found]


def _without(turn: Turns, ours: re.Pattern[str]) -> Iterator[Span]:
    """Yield the spans of a turn around what stands in the place of personal data."""
    for start, end in turn.spans:
        for match in ours.finditer(turn.text, start, end):
            if start < match.start():
                yield start, match.start()
            start = match.end()  # noqa: PLW2901 - what is left of the span
        if start < end:
            yield start, end


def _as_it_is(exchange: Exchange, target: TargetText) -> Tokens | list[Turns] | None:
    """Return what is no conversation: tokens of the target's own, or a text of which all but the first is learned."""
    if exchange.spans:
        known = max(exchange.token_ids) < target.vocab_size
        return Tokens(exchange.token_ids, exchange.spans, as_generated=True) if known else []
    return [Turns(exchange.text, ((1, len(exchange.text)),))] if exchange.text else None


def logged(exchange: Exchange, target: TargetText) -> Tokens | None:
    """Return the row of an exchange by its logged ids, if they are this target's: they must spell the answer."""
    prompt, ids = exchange.prompt_token_ids, exchange.token_ids
    if not prompt or not ids or max(*prompt, *ids) >= target.vocab_size:
        return None
    spelled, answer = target.decode(ids), exchange.answer
    names = [call["function"]["name"] for call in answer.get("tool_calls") or []]
    if not all(part in spelled for part in (flat_content(answer).strip(), reasoning(answer).strip(), *names)):
        return None
    return Tokens([*prompt, *ids], ((len(prompt), len(prompt) + len(ids)),), as_generated=True)


def turns(exchange: Exchange, template: ChatTemplate, end_of_turn: re.Pattern[str]) -> list[Turns]:
    """Texts of an exchange: one, or more where the template rewrites history. Raises TemplateRefused."""
    request, time = exchange.request, exchange.time
    messages = [*request["messages"], exchange.answer]
    last = len(messages) - 1
    earlier = [index for index in range(last) if exchange.history and messages[index]["role"] == "assistant"]

    def turn(index: int, *, ended: bool) -> tuple[str, Span]:
        before = template.render(messages[:index], request, time, prompt=True)
        after = template.render(messages[: index + 1], request, time, prompt=False)
        span = generated(before, after, messages[index], end_of_turn, ended=ended)
        return after[: span[1]], span

    whole, whole_span = turn(last, ended=exchange.ended)
    joint, apart = [], []
    for index in earlier:
        text, span = turn(index, ended=True)
        if whole.startswith(text):
            joint.append(span)
        else:
            apart.append(Turns(text, (span,)))
    return [*apart, Turns(whole, (*joint, whole_span))]


def generated(before: str, after: str, message: Json, end_of_turn: re.Pattern[str], *, ended: bool) -> Span:
    """Return where in `after` the engine's own words are, given what it saw.

    `end_of_turn` matches what may close a turn, in its group 1, with the whitespace before it; of a turn that had not
    `ended`, it is left out.
    """
    content, same = flat_content(message).strip(), after.startswith(before)
    start = len(before) if same else _common_length(before, after)
    thought = reasoning(message).strip()
    place = after.find(thought, start)
    spoken = start if place < 0 else place + len(thought)  # content follows on reasoning, which may quote it
    place, closing = _find_content(after, content, spoken, end_of_turn)
    content_end = spoken if place < 0 else place + len(content)
    if not same:
        start = _first_words(after, message, start, place)
    closing = closing or end_of_turn.search(after, content_end)
    if closing is None:
        return start, len(after) if message.get("tool_calls") else max(start, content_end)
    if ended:
        return start, closing.end(1)
    return start, closing.start(1) if message.get("tool_calls") else max(start, content_end)


def _find_content(
    after: str, content: str, start: int, end_of_turn: re.Pattern[str]
) -> tuple[int, re.Match[str] | None]:
    """Find where the content begins (-1: nowhere), and the end of turn if there is one right behind it."""
    first = place = after.find(content, start) if content else -1
    while place >= 0:
        if closing := end_of_turn.match(after, place + len(content)):
            return place, closing
        place = after.find(content, place + 1)
    return first, None


def _first_words(after: str, message: Json, start: int, content: int) -> int:
    """Return where a turn certainly begins that is shown behind another header than the engine was prompted with."""
    names = [call["function"]["name"] for call in message.get("tool_calls") or []]
    places = [after.find(text, start) for text in (reasoning(message).strip(), *names[:1]) if text]
    return min((place for place in (*places, content) if place >= 0), default=start)


def _common_length(one: str, other: str) -> int:
    pairs = zip(one, other, strict=False)
    return next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def to_tokens(placed: Placed, spans: Iterable[Span]) -> Tokens:
    """Turn spans of characters into spans of tokens; a token that reaches across an edge is not supervised."""
    inside = ((placed.first_from(start), placed.first_from(end, across=True)) for start, end in spans)
    return Tokens(placed.ids, tuple((first, last) for first, last in inside if first < last))
