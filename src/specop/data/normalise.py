"""An exchange says what it is the same as.

Pure functions of one row: the same here, in a worker process and on another machine. Deterministic: both passes see
the same exchange.
"""

import hashlib
import json
import re
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from specop.common.hashing import canonical_json
from specop.data import formats
from specop.data.formats import Exchange, Fate, Json, Unusable

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class Moments(Protocol):
    """A window of time."""

    def __contains__(self, moment: datetime) -> bool: ...


class Identity(NamedTuple):
    """What makes exchanges the same: 16 bytes each."""

    conversation: bytes
    """Hash of everything up to the first user turn: equal in all requests of one conversation."""
    content: bytes
    """Hash of prompt, tools and answer, however their contents are written."""


def identify(exchange: Exchange) -> Identity:
    """Hash what makes an exchange the same as another. Raises Unusable."""
    if exchange.written:
        return Identity(exchange.written.conversation, exchange.written.content)
    try:
        if not exchange.request["messages"]:  # a text, or tokens
            content = _hash([exchange.text, exchange.token_ids, exchange.spans])
            return Identity(content, content)
        return Identity(_hash(_opening(exchange.request)), _hash(_content(exchange)))
    except RecursionError:
        raise Unusable(Fate.SET_ASIDE, "nested too deeply") from None


def check_unicode(line: bytes, row: Json) -> None:
    """Refuse half a surrogate pair, which no text can hold. Raises Unusable."""
    if not _SURROGATE.search(line):
        return
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise Unusable(Fate.SET_ASIDE, "half a surrogate pair") from None
    except RecursionError:
        raise Unusable(Fate.SET_ASIDE, "nested too deeply") from None


def _opening(request: Json) -> list[Json]:
    """Everything up to the first user turn: equal in all requests of one conversation, as each repeats the history."""
    messages = request["messages"]
    first = next((index for index, message in enumerate(messages) if message["role"] == "user"), len(messages))
    return [_essence(message) for message in messages[: first + 1]]


def _content(exchange: Exchange) -> list[Any]:
    """Return what makes two exchanges the same: prompt, tools and answer, however their contents are written."""
    messages = [*exchange.request["messages"], exchange.answer]
    options = [exchange.request.get(name) for name in ("tools", "chat_template_kwargs")]
    return [[_essence(message) for message in messages], options]


def _essence(message: Json) -> Json:
    calls = [call["function"] for call in message.get("tool_calls") or []]
    return {
        "role": message.get("role"),
        "content": formats.flat_content(message),
        "reasoning": formats.reasoning(message),
        "calls": [[call["name"], call.get("arguments")] for call in calls],
    }


def _hash(value: Any) -> bytes:
    return hashlib.sha256(canonical_json(value)).digest()[:16]
