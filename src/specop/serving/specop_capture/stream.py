"""A stream of chunks becomes the answer that an unstreamed request would have got."""

import json
from typing import Any


def assemble(stream: bytes) -> dict[str, Any]:
    """Make of a stream of chunks the answer that an unstreamed request would have got.

    Pieces are joined per choice; tool calls, reasoning, token ids, log-probabilities and usage are kept. An error
    inside the stream becomes `{"error": …}`.
    """
    response: dict[str, Any] = {}
    choices = _Indexed()
    for raw in stream.splitlines():
        data = raw.removeprefix(b"data:").strip()
        if not raw.startswith(b"data:") or data == b"[DONE]":
            continue
        chunk = json.loads(data)
        if "error" in chunk:
            return {"error": chunk["error"]}
        choices.merge(chunk.pop("choices", ()))
        response.update({key: value for key, value in chunk.items() if value is not None or key not in response})
    if response.get("object") == "chat.completion.chunk":
        response["object"] = "chat.completion"
    joined = [
        {"message" if key == "delta" else key: value for key, value in choice.items()} for choice in choices.close()
    ]
    return {**response, "choices": joined}


_GIVEN_ONCE = frozenset({"role", "index", "id", "type", "name", "finish_reason", "stop_reason"})
"""Keys whose string comes whole; every other string and list comes in pieces."""


class _Pieces(list[str]):
    """A string that grows; joined once, because adding to a long string each time is quadratic."""


class _Indexed(dict[int, dict[str, Any]]):
    """A list whose items carry an `index` and grow: choices, and tool calls inside them."""

    def merge(self, parts: list[dict[str, Any]]) -> None:
        for part in parts:
            _merge(self.setdefault(part["index"], {}), part)

    def close(self) -> list[dict[str, Any]]:
        return [_closed(self[index]) for index in sorted(self)]


def _merge(whole: dict[str, Any], part: dict[str, Any]) -> None:
    """Join a piece of an answer to what came before it."""
    for key, value in part.items():
        before = whole.get(key)
        if value is None or value == []:
            whole.setdefault(key, None)
        elif key == "tool_calls":
            whole[key] = before or _Indexed()
            whole[key].merge(value)
        elif isinstance(value, dict):
            whole[key] = before or {}
            _merge(whole[key], value)
        elif isinstance(value, list):
            whole[key] = before or []
            whole[key].extend(value)
        elif isinstance(value, str) and key not in _GIVEN_ONCE:
            whole[key] = before or _Pieces()
            whole[key].append(value)
        else:
            whole[key] = value


def _closed(value: Any) -> Any:
    """Make plain JSON of what grew; an unstreamed answer's tool calls have no index."""
    match value:
        case _Pieces():
            return "".join(value)
        case _Indexed():
            return [{key: item for key, item in call.items() if key != "index"} for call in value.close()]
        case dict():
            return {key: _closed(item) for key, item in value.items()}
        case _:
            return value
