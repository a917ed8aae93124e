"""Formats of data sets: ShareGPT, prompt and completion, plain text, rows that are tokens already, our own rows.

Their rows say nothing of when and by whom; what they learn from is what the format marks as an answer.
"""

import json
from typing import Any

from specop.data.formats import Exchange, Fate, Json, Unusable, Written, asked, conversation, moment, token_ids

_ROLES = {
    **dict.fromkeys(("human", "user", "prompter"), "user"),
    **dict.fromkeys(("gpt", "assistant", "model", "chatgpt", "bot", "bing", "bard"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("tool", "function", "observation", "ipython", "tool_response"), "tool"),
    **dict.fromkeys(("function_call", "tool_call"), "function_call"),
}
_NOT_LEARNED = -100
"""Of `labels`: what a loss ignores (PyTorch's `ignore_index`)."""


def read_sharegpt(row: Json) -> Exchange:
    """Read `{"conversations": [{"from": "human", "value": …}, …]}`, with `system` and `tools` beside. Raises Unusable.

    Turns may also be written as `role` and `content`. A `function_call` turn is an assistant's call of a tool.
    """
    turns = row.get("conversations")
    if not isinstance(turns, list) or not turns:
        raise Unusable(Fate.SET_ASIDE, "no conversations")
    messages = [_turn(turn, index) for index, turn in enumerate(turns)]
    if isinstance(row.get("system"), str) and row["system"]:
        messages.insert(0, {"role": "system", "content": row["system"]})
    options: Json = {}
    if tools := row.get("tools"):
        options["tools"] = _json(tools) if isinstance(tools, str) else tools
    return conversation({**options, "messages": messages}, time=moment(row.get("time")))


def _turn(turn: Any, index: int) -> Json:
    if not isinstance(turn, dict):
        raise Unusable(Fate.SET_ASIDE, "a message that is not an object")
    if isinstance(turn.get("role"), str) and "content" in turn:
        return turn
    role = _ROLES.get(str(turn.get("from", turn.get("role"))).lower())
    value = turn.get("value", turn.get("content"))
    if role is None or not isinstance(value, str):
        raise Unusable(Fate.SET_ASIDE, "a turn without from and value")
    if role != "function_call":
        return {"role": role, "content": value}
    call = _json(value)
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        raise Unusable(Fate.SET_ASIDE, "malformed tool_calls")
    arguments = call.get("arguments", {})
    arguments = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    function = {"name": call["name"], "arguments": arguments}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": f"call_{index}", "type": "function", "function": function}],
    }


def _json(value: str) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise Unusable(Fate.SET_ASIDE, "JSON inside a string that is none") from None


def read_prompt_completion(row: Json) -> Exchange:
    """Read `{"prompt": …, "completion": …}`, texts or lists of messages. Raises Unusable.

    Texts are taken as a user's turn and the answer to it, as a chat completion would send them.
    """
    prompt, completion = row.get("prompt"), row.get("completion")
    before = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    after = [{"role": "assistant", "content": completion}] if isinstance(completion, str) else completion
    if not isinstance(before, list) or not isinstance(after, list):
        raise Unusable(Fate.SET_ASIDE, "prompt or completion of a wrong type")
    options = {key: value for key, value in row.items() if key in ("tools", "chat_template_kwargs")}
    exchange = conversation({**options, "messages": [*before, *after]}, time=moment(row.get("time")))
    if len(exchange.request["messages"]) < len(before):
        raise Unusable(Fate.UNSUPERVISED, "no assistant turn")
    return exchange


def read_prompt(row: Json) -> Exchange:
    """Read a prompt without an answer: `{"prompt": …}`, a text or messages, or `{"messages": […]}`. Raises Unusable.

    Options of a request may stand beside it. Answers at its end are left out: the target gives its own.
    """
    prompt = row.get("prompt", row.get("messages"))
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    if not isinstance(messages, list):
        raise Unusable(Fate.SET_ASIDE, "prompt or messages of a wrong type")
    while messages and isinstance(messages[-1], dict) and messages[-1].get("role") == "assistant":
        messages = messages[:-1]
    options = {key: value for key, value in row.items() if key not in ("prompt", "time", "id")}
    return asked({**options, "messages": messages}, time=moment(row.get("time")))


def read_text(row: Json) -> Exchange:
    """Read `{"text": …}`: no conversation; every token but the first is learned from. Raises Unusable."""
    text = row.get("text")
    if not isinstance(text, str):
        raise Unusable(Fate.SET_ASIDE, "text of a wrong type")
    if not text.strip():
        raise Unusable(Fate.UNSUPERVISED, "an empty text")
    return Exchange({"messages": []}, {}, moment(row.get("time")), text=text, ended=False)


def read_tokens(row: Json) -> Exchange:
    """Read `{"input_ids": […], "labels" or "loss_mask": […]}`, of the target's own tokenizer. Raises Unusable.

    `labels` lie under their own tokens (not shifted) and are -100 where nothing is learned.
    """
    ids = token_ids(row.get("input_ids"))
    labels, mask = row.get("labels"), row.get("loss_mask")
    if not ids:
        raise Unusable(Fate.SET_ASIDE, "input_ids of a wrong type")
    if isinstance(labels, list) and len(labels) == len(ids):
        if any(label not in (token, _NOT_LEARNED) for label, token in zip(labels, ids, strict=True)):
            raise Unusable(Fate.SET_ASIDE, "labels that are not the tokens above them")
        learned = [label != _NOT_LEARNED for label in labels]
    elif isinstance(mask, list) and len(mask) == len(ids) and all(value in (0, 1) for value in mask):
        learned = [bool(value) for value in mask]
    else:
        raise Unusable(Fate.SET_ASIDE, "neither labels nor loss_mask along input_ids")
    if not any(learned):
        raise Unusable(Fate.UNSUPERVISED, "no token is learned from")
    return Exchange({"messages": []}, {}, moment(row.get("time")), token_ids=ids, spans=tuple(_runs(learned)))


def read_dataset_row(row: Json) -> Exchange:
    """Read a row of a dataset of ours (`specop.data.writer.ROWS`), which stays as it is. Raises Unusable."""
    try:
        written = Written(
            row["source"],
            bytes.fromhex(row["conversation"]),
            bytes.fromhex(row["content"]),
            tuple(row["likeness"]),
            row["constrained"],
            row.get("grammar"),
        )
        return Exchange(
            {"messages": [], "temperature": row["temperature"]},
            {},
            moment(row["time"]),
            token_ids=tuple(row["input_ids"]),
            spans=tuple((span["start"], span["end"]) for span in row["spans"]),
            altered=row["altered"],
            written=written,
        )
    except (KeyError, TypeError, ValueError):
        raise Unusable(Fate.SET_ASIDE, "no row of a dataset") from None


def _runs(learned: list[bool]) -> list[tuple[int, int]]:
    edges = [
        index for index, (was, now) in enumerate(zip([False, *learned], [*learned, False], strict=True)) if was != now
    ]
    return list(zip(edges[::2], edges[1::2], strict=True))
