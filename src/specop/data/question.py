"""What the target is asked anew, and what its answers make of a conversation. Pure.

Another model's answers teach a drafter what that model says. So they are taken out, and the target is asked with all
that the request had beside them: its messages, its tools, its grammar, its sampling. A whole conversation is asked turn
by turn, each with the target's own earlier answers; where tools were called, only its last turn is, for the results in
it belong to the calls that were made then.

    user ─ (assistant) ─ user ─ (assistant)      question: the answers are blank
    user ─► target ─ user ─► target              answered
"""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from specop.data.formats import Exchange, Fate, Json, Unusable, completed

_UNSENT = frozenset({"model", "n", "stream", "stream_options", "logprobs", "top_logprobs", "max_tokens"})
"""Options that say how an answer travels; how long it may be is the asker's to say."""
_BLANK: Json = {"role": "assistant", "content": ""}

Ask = Callable[[Json], Json]
"""From the body of a chat completion to the response's. Raises Unusable where the target refuses it."""


@dataclass(frozen=True, slots=True)
class Anew:
    """Which rows of a source are asked anew."""

    mode: Literal["Never", "IfTargetDiffers", "Always"] = "Never"
    target_names: frozenset[str] = frozenset()
    """Under which logs call the target."""

    def wants(self, exchange: Exchange) -> bool:
        """Whether this one is. A text and rows of tokens are no conversation, and stay as they are."""
        if not exchange.request["messages"]:
            return False
        if not exchange.answer or self.mode == "Always":
            return True
        return self.mode == "IfTargetDiffers" and exchange.model not in ("", *self.target_names)


@dataclass(frozen=True, slots=True)
class Question:
    """One exchange that is asked anew."""

    ordinal: int
    """Of its line."""
    key: bytes
    """Of its line: the same in another attempt."""
    exchange: Exchange
    """Blank where the target has to answer; privacy has seen it."""


def blanked(exchange: Exchange) -> Exchange:
    """Take out what the target is to say."""
    messages = exchange.request["messages"]
    several = exchange.history and not any(_is_of_tools(message) for message in messages)
    if several:
        messages = [_BLANK if message["role"] == "assistant" else message for message in messages]
    return replace(
        exchange,
        request={**exchange.request, "messages": messages},
        answer={},
        history=several,
        ended=True,
        prompt_token_ids=(),
        token_ids=(),
    )


def answer(question: Exchange, ask: Ask, max_tokens: int) -> Exchange:
    """Let the target fill in the blanks. Raises Unusable, and what `ask` raises.

    Of several turns the conversation ends with the first that does not end by itself. Token ids are kept of a single
    one: they are the prompt and the answer as the engine saw them.
    """
    options = {key: value for key, value in question.request.items() if key not in {"messages", *_UNSENT}}
    most = question.request.get("max_completion_tokens") or question.request.get("max_tokens")
    options |= {"max_tokens": min(most, max_tokens) if type(most) is int and most > 0 else max_tokens}
    options.pop("max_completion_tokens", None)
    messages: list[Json] = []
    for message in [*question.request["messages"], None]:
        if message is not None and not _is_blank(question, message):
            messages.append(message)
            continue
        request = {**options, "messages": messages, "return_token_ids": True}
        said = completed(request, ask(request))
        found = replace(
            question,
            request={**question.request, "messages": list(messages)},
            answer=said.answer,
            ended=said.ended,
            altered=False,
            replaced=(),
        )
        if not said.ended:
            break
        messages.append(said.answer)
    if question.history and any(message["role"] == "assistant" for message in found.request["messages"]):
        return found
    return replace(found, prompt_token_ids=said.prompt_token_ids, token_ids=said.token_ids)


def to_json(answered: Exchange, entities: Counter[str]) -> bytes:
    """Write down what the target said, and what privacy replaced in it: `messages` up to its last answer, and that."""
    return json.dumps(
        {
            "messages": answered.request["messages"],
            "answer": answered.answer,
            "ended": answered.ended,
            "prompt_token_ids": answered.prompt_token_ids,
            "token_ids": answered.token_ids,
            "altered": answered.altered,
            "replaced": answered.replaced,
            "entities": entities,
        },
        ensure_ascii=False,
    ).encode()


def refused(why: Unusable) -> bytes:
    """Write down that there is no answer."""
    return json.dumps({"fate": int(why.fate), "reason": why.reason}).encode()


def from_json(question: Exchange, data: bytes) -> tuple[Exchange, Counter[str]]:
    """Read an answer to a question, and what privacy replaced in it. Raises Unusable where there is none."""
    said = json.loads(data)
    if "fate" in said:
        raise Unusable(Fate(said["fate"]), said["reason"])
    answered = replace(
        question,
        request={**question.request, "messages": said["messages"]},
        answer=said["answer"],
        ended=said["ended"],
        prompt_token_ids=tuple(said["prompt_token_ids"]),
        token_ids=tuple(said["token_ids"]),
        altered=said["altered"],
        replaced=tuple(said["replaced"]),
    )
    return answered, Counter(said["entities"])


def _is_blank(question: Exchange, message: Json) -> bool:
    """Whether the target is to say this, which only of whole conversations is more than the last word."""
    return question.history and message["role"] == "assistant"


def _is_of_tools(message: Json) -> bool:
    return message["role"] in ("tool", "function") or bool(message.get("tool_calls"))
