"""What constrained an answer, against what the engine derives from the same request."""

import json
from typing import Any

import pytest

from specop.data.grammar import grammar

CITY = {
    "type": "object",
    "properties": {"town": {"type": "string"}, "at": {"$ref": "#/$defs/at"}},
    "required": ["town"],
}
AT = {"at": {"type": "integer"}}


def tool(name: str, parameters: Any = None) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


TOOLS = [tool("weather", {**CITY, "$defs": AT}), tool("now")]
NOTHING = {"type": "object", "properties": {}}


def calls(**more: Any) -> dict[str, Any]:
    named = [("weather", CITY), ("now", NOTHING)]
    shown = [
        {
            "properties": {"name": {"type": "string", "enum": [name]}, "parameters": parameters},
            "required": ["name", "parameters"],
        }
        for name, parameters in named
    ]
    return {
        "jsonSchema": {
            "type": "array",
            "minItems": 1,
            "items": {"type": "object", "anyOf": shown},
            **more,
            "$defs": AT,
        }
    }


NAMED = {"type": "function", "function": {"name": "weather"}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "n", "schema": CITY}}


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({}, None),
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, {"jsonObject": True}),
        ({"response_format": FORMAT}, {"jsonSchema": CITY}),
        ({"response_format": {"type": "json_schema"}}, None),
        ({"tools": TOOLS, "tool_choice": "auto"}, None),
        ({"tools": TOOLS, "tool_choice": NAMED}, {"jsonSchema": {**CITY, "$defs": AT}}),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "now"}}}, {"jsonSchema": NOTHING}),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "else"}}}, None),
        ({"tools": TOOLS, "tool_choice": "required"}, calls()),
        ({"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False}, calls(maxItems=1)),
        ({"tools": TOOLS, "tool_choice": NAMED, "response_format": FORMAT}, {"jsonSchema": {**CITY, "$defs": AT}}),
        ({"tool_choice": "required"}, None),
        ({"structured_outputs": {"json": CITY}}, {"jsonSchema": CITY}),
        ({"structured_outputs": {"json": json.dumps(CITY)}}, {"jsonSchema": CITY}),
        ({"structured_outputs": {"json_object": True}}, {"jsonObject": True}),
        ({"structured_outputs": {"regex": "a*"}}, None),
        ({"guided_json": CITY}, {"jsonSchema": CITY}),
        ({"guided_json": "{"}, None),
        ({"tools": ["?", {"function": 7}], "tool_choice": {"function": 7}, "response_format": 7}, None),
    ],
)
def test_grammars(request_: dict[str, Any], expected: Any) -> None:
    found = grammar(request_)
    assert (None if found is None else json.loads(found)) == expected


def test_properties_keep_their_order() -> None:
    schema = {"type": "object", "properties": {"z": {"type": "string"}, "a": {"type": "string"}}}
    found = grammar({"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}})
    assert found == '{"jsonSchema":{"type":"object","properties":{"z":{"type":"string"},"a":{"type":"string"}}}}'


@pytest.mark.engine
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("choice", ["required", NAMED], ids=str)
@pytest.mark.parametrize("parallel", [None, False])
def test_tools_are_what_the_engine_enforces(choice: Any, parallel: bool | None) -> None:
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest  # noqa: PLC0415
    from vllm.tool_parsers.utils import get_json_schema_from_tools  # noqa: PLC0415

    body: dict[str, Any] = {"messages": [{"role": "user", "content": "?"}], "tools": TOOLS, "tool_choice": choice}
    if parallel is not None:
        body["parallel_tool_calls"] = parallel
    parsed = ChatCompletionRequest.model_validate(body)
    expected = get_json_schema_from_tools(parsed.tool_choice, parsed.tools, parsed.parallel_tool_calls)
    found = grammar(body)
    assert found
    assert found == json.dumps({"jsonSchema": expected}, ensure_ascii=False, separators=(",", ":"))
