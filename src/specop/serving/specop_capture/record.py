"""One request while it passes, and the line that it becomes."""

import json
import os
import uuid
from array import array
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .stream import assemble

CHAT_ROUTE = "/v1/chat/completions"
FIRST_CLIENT_ERROR, FIRST_SERVER_ERROR = 400, 500


@dataclass(frozen=True)
class Settings:
    """What the environment says."""

    folder: Path
    percent: float = 100.0
    arm: str = ""
    max_record_bytes: int = 32 << 20
    """Request and response of one record together."""
    max_total_bytes: int = 256 << 20
    """Of all records in flight and queued."""

    @classmethod
    def from_env(cls) -> "Settings":
        """Read `SPECOP_CAPTURE_*` and `SPECOP_ARM`."""
        env = os.environ
        return cls(
            folder=Path(env.get("SPECOP_CAPTURE_DIR", "/capture")),
            percent=float(env.get("SPECOP_CAPTURE_PERCENT", cls.percent)),
            arm=env.get("SPECOP_ARM", cls.arm),
            max_record_bytes=int(env.get("SPECOP_CAPTURE_RECORD_BYTES", cls.max_record_bytes)),
            max_total_bytes=int(env.get("SPECOP_CAPTURE_TOTAL_BYTES", cls.max_total_bytes)),
        )


@dataclass
class Record:
    """One request while it passes, and then in the queue."""

    route: str
    started: float
    """Monotonic seconds."""
    request: list[bytes] = field(default_factory=list)
    response: list[bytes] = field(default_factory=list)
    size: int = 0
    status: int = 0
    streamed: bool = False
    complete: bool = False
    lost: str = ""
    """Why it is not captured; empty while it may be."""
    ended_ms: int = 0
    latency: float = 0.0
    prompts: int = 0
    """That the engine was given; of several, no ids are kept."""
    prompt_ids: "array[int] | None" = None
    """As the engine saw it."""
    answer_ids: "dict[int, array[int]]" = field(default_factory=dict)
    """As the engine wrote them, by index of the choice."""
    ids_lost: bool = False
    """They did not fit, or something about them was odd."""


def captured_line(record: Record, arm: str) -> dict[str, Any]:
    """Make the line of a finished record; raises ValueError and its like on what is not the OpenAI protocol."""
    request = json.loads(b"".join(record.request))
    body = b"".join(record.response)
    response = assemble(body) if record.streamed else json.loads(body)
    if record.prompt_ids is not None and record.prompts == 1 and not record.ids_lost:
        _add_ids(response, record)
    failed_late = "error" in response and record.status < FIRST_CLIENT_ERROR
    ended = datetime.fromtimestamp(record.ended_ms // 1000, UTC)
    return {
        "v": 1,
        "id": response.get("id") or f"req-{uuid.uuid4().hex}",
        "time": f"{ended:%Y-%m-%dT%H:%M:%S}.{record.ended_ms % 1000:03d}Z",
        "model": response.get("model") or request.get("model", ""),
        "route": record.route,
        "status": FIRST_SERVER_ERROR if failed_late else record.status,
        "latency": round(record.latency, 3),
        "arm": arm,
        "request": request,
        "response": response,
    }


def _add_ids(response: dict[str, Any], record: Record) -> None:
    """Say of which tokens prompt and answers are, where the request did not ask for it itself."""
    for choice in response.get("choices") or ():
        if not choice.get("token_ids") and choice.get("index") in record.answer_ids:
            response["prompt_token_ids"] = list(record.prompt_ids or ())
            choice["token_ids"] = list(record.answer_ids[choice["index"]])
