"""One request of a chat completion and its answer, whole and in chunks."""

import json
from typing import Any

REQUEST = {"model": "agent", "messages": [{"role": "user", "content": "Grüße"}]}
ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 7,
    "model": "agent",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hallo Welt"},
            "finish_reason": "stop",
            "token_ids": [1, 2],
        }
    ],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2},
}


def encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


def sse(*chunks: Any) -> bytes:
    return b"".join(b"data: " + encoded(chunk) + b"\n\n" for chunk in chunks) + b"data: [DONE]\n\n"


def chunk(*choices: dict[str, Any], **more: Any) -> dict[str, Any]:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 7, "model": "agent"}
    return {**head, "choices": list(choices), **more}


def delta(
    finish: str | None = None, index: int = 0, token_ids: list[int] | None = None, **fields: Any
) -> dict[str, Any]:
    return {"index": index, "delta": fields, "finish_reason": finish, "token_ids": token_ids}


STREAM = sse(
    chunk(delta(role="assistant", content="")),
    chunk(delta(content="Hallo", token_ids=[1])),
    chunk(delta(content=" Welt", token_ids=[2], finish="stop")),
    chunk(usage={"prompt_tokens": 3, "completion_tokens": 2}),
)
