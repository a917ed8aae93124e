"""Which grammar the engine held an answer to, read from its request: `{"jsonSchema": …}` or `{"jsonObject": true}`.

It follows what vLLM derives from a request (`tool_parsers/utils.py`, `extract_structured_outputs`): a call that is
required replaces every other constraint. It is not the grammar of engines whose tool parser has a format of its own,
and regular expressions, choices and grammars in EBNF are not told: a row that they constrained has None.

Keys keep the order that the request has: grammar compilers demand an object's properties in the order of the schema.
"""

import json
from typing import Any

from specop.data.formats import Json

_NO_PARAMETERS: Json = {"type": "object", "properties": {}}


def grammar(request: Json) -> str | None:
    """Return what constrained the answer to a request, as compact JSON, or None."""
    found = _of_tools(request) or _of_format(request) or _of_options(request)
    return None if found is None else json.dumps(found, ensure_ascii=False, separators=(",", ":"))


def _of_tools(request: Json) -> Json | None:
    choice, tools = request.get("tool_choice"), request.get("tools") or []
    functions = [tool["function"] for tool in tools if isinstance(tool, dict) and _named(tool.get("function"))]
    if isinstance(choice, dict):
        chosen = choice.get("function")
        name = chosen.get("name") if isinstance(chosen, dict) else choice.get("name")
        match = next((function for function in functions if function["name"] == name), None)
        return None if match is None else {"jsonSchema": _parameters(match)}
    if choice == "required" and functions:
        return {"jsonSchema": _any_call(functions, parallel=request.get("parallel_tool_calls") is not False)}
    return None


def _any_call(functions: list[Json], *, parallel: bool) -> Json:
    definitions: Json = {}
    calls = []
    for function in functions:
        parameters = dict(_parameters(function))
        own = parameters.pop("$defs", {})
        definitions |= own if isinstance(own, dict) else {}
        name = {"type": "string", "enum": [function["name"]]}
        calls.append({"properties": {"name": name, "parameters": parameters}, "required": ["name", "parameters"]})
    schema: Json = {"type": "array", "minItems": 1, "items": {"type": "object", "anyOf": calls}}
    return {**schema, **({} if parallel else {"maxItems": 1}), **({"$defs": definitions} if definitions else {})}


def _of_format(request: Json) -> Json | None:
    stated = request.get("response_format")
    if not isinstance(stated, dict):
        return None
    if stated.get("type") == "json_object":
        return {"jsonObject": True}
    holder = stated.get("json_schema")
    if stated.get("type") == "json_schema" and isinstance(holder, dict):
        return _schema(holder.get("schema"))
    return None


def _of_options(request: Json) -> Json | None:
    outputs = request.get("structured_outputs")
    if not isinstance(outputs, dict):
        return _schema(request.get("guided_json"))
    return {"jsonObject": True} if outputs.get("json_object") else _schema(outputs.get("json"))


def _schema(value: Any) -> Json | None:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return None
    return {"jsonSchema": value} if isinstance(value, dict) else None


def _named(function: Any) -> bool:
    return isinstance(function, dict) and isinstance(function.get("name"), str)


def _parameters(function: Json) -> Json:
    parameters = function.get("parameters")
    return parameters if isinstance(parameters, dict) and parameters else _NO_PARAMETERS
