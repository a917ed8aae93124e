"""A row of each format, as what writes it would write it: all of one weather question that calls a tool.

OpenAI's types make completions and requests where they can; the others follow the shapes that their products document
(`specop.data.gateways` names the pages).
"""

import base64
import json
from typing import Any

from openai.types.chat import ChatCompletion, ChatCompletionMessage
from openai.types.chat.chat_completion import Choice

Json = dict[str, Any]

PROMPT, ANSWER, SYSTEM = "Is it warm in Bonn?", "It is 21 degrees in Bonn.", "You know the weather."
ARGUMENTS = '{"city": "Bonn"}'
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ARGUMENTS}}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "now",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]
MESSAGES: list[Json] = [
    {"role": "system", "content": SYSTEM},
    {"role": "user", "content": PROMPT},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_1", "content": '{"celsius": 21}'},
]
BODY: Json = {"model": "agent", "messages": MESSAGES, "tools": TOOLS, "temperature": 0.5}
COMPLETION: Json = ChatCompletion(
    id="chatcmpl-1",
    object="chat.completion",
    created=1767225600,
    model="agent",
    choices=[
        Choice(index=0, finish_reason="stop", message=ChatCompletionMessage(role="assistant", content=ANSWER)),
    ],
).model_dump()


def converse() -> Json:
    """Bedrock's log of a Converse request."""
    return {
        "schemaType": "ModelInvocationLog",
        "schemaVersion": "1.0",
        "timestamp": "2026-01-01T00:00:00Z",
        "accountId": "123456789012",
        "region": "eu-central-1",
        "requestId": "r-1",
        "operation": "Converse",
        "modelId": "agent",
        "requestMetadata": {"tenant": "team-a"},
        "input": {
            "inputContentType": "application/json",
            "inputBodyJson": {
                "system": [{"text": SYSTEM}],
                "messages": [
                    {"role": "user", "content": [{"text": PROMPT}]},
                    {
                        "role": "assistant",
                        "content": [{"toolUse": {"toolUseId": "call_1", "name": "weather", "input": {"city": "Bonn"}}}],
                    },
                    {
                        "role": "user",
                        "content": [{"toolResult": {"toolUseId": "call_1", "content": [{"json": {"celsius": 21}}]}}],
                    },
                ],
                "inferenceConfig": {"temperature": 0.5},
                "toolConfig": {
                    "tools": [
                        {
                            "toolSpec": {
                                "name": "weather",
                                "description": "now",
                                "inputSchema": {"json": TOOLS[0]["function"]["parameters"]},  # type: ignore[index]
                            }
                        }
                    ]
                },
            },
            "inputTokenCount": 40,
        },
        "output": {
            "outputContentType": "application/json",
            "outputBodyJson": {
                "output": {"message": {"role": "assistant", "content": [{"text": ANSWER}]}},
                "stopReason": "end_turn",
                "usage": {"inputTokens": 40, "outputTokens": 10, "totalTokens": 50},
            },
            "outputTokenCount": 10,
        },
    }


def _side(data: str, encoding: str) -> Json:
    return {"observedContentType": "application/json", "mode": "INPUT", "data": data, "encoding": encoding}


def sagemaker(encoding: str = "JSON") -> Json:
    request, response = json.dumps(BODY), json.dumps(COMPLETION)
    if encoding == "BASE64":
        request, response = (base64.b64encode(side.encode()).decode() for side in (request, response))
    return {
        "captureData": {"endpointInput": _side(request, encoding), "endpointOutput": _side(response, encoding)},
        "eventMetadata": {"eventId": "e-1", "inferenceTime": "2026-01-01T00:00:00Z"},
        "eventVersion": "0",
    }


def litellm() -> Json:
    return {
        "id": "chatcmpl-1",
        "trace_id": "t-1",
        "call_type": "acompletion",
        "cache_hit": False,
        "stream": None,
        "status": "success",
        "model_map_information": {},
        "model": "hosted_vllm/agent",
        "model_group": "agent",
        "startTime": 1767225598.5,
        "endTime": 1767225600.0,
        "response_time": 1.5,
        "messages": MESSAGES,
        "response": COMPLETION,
        "model_parameters": {"temperature": 0.5, "tools": TOOLS},
        "metadata": {"user_api_key_team_alias": "team-a", "requester_metadata": None},
        "request_tags": [],
        "end_user": "",
        "error_str": None,
    }


def langfuse(*, blob: bool = False) -> Json:
    row: Json = {
        "id": "o-1",
        "traceId": "t-1",
        "type": "GENERATION",
        "name": "chat",
        "startTime": "2025-12-31T23:59:58.500Z",
        "endTime": "2026-01-01T00:00:00.000Z",
        "model": "agent",
        "modelParameters": {"temperature": 0.5},
        "input": {"messages": MESSAGES, "tools": TOOLS},
        "output": {"role": "assistant", "content": ANSWER},
        "level": "DEFAULT",
        "userId": "team-a",
    }
    if not blob:
        return row
    names = {"traceId": "trace_id", "startTime": "start_time", "endTime": "end_time", "userId": "user_id"}
    row = {names.get(key, key): value for key, value in row.items()}
    row["model_parameters"] = json.dumps(row.pop("modelParameters"))
    return {**row, "input": json.dumps(row["input"]), "output": json.dumps(row["output"])}


def sharegpt() -> Json:
    call = json.dumps({"name": "weather", "arguments": {"city": "Bonn"}})
    turns = [("human", PROMPT), ("function_call", call), ("observation", '{"celsius": 21}'), ("gpt", ANSWER)]
    return {
        "system": SYSTEM,
        "tools": json.dumps(TOOLS),
        "conversations": [{"from": who, "value": value} for who, value in turns],
    }


ROWS: list[tuple[str, Json]] = [
    ("OpenAIChat", {**BODY, "messages": [*MESSAGES, {"role": "assistant", "content": ANSWER}], "created": 1767225600}),
    (
        "Capture",
        {"v": 1, "time": "2026-01-01T00:00:00Z", "model": "agent", "status": 200, "latency": 1.5, "tenant": "team-a"}
        | {"request": BODY, "response": COMPLETION},
    ),
    ("RequestResponse", {"request": BODY, "response": COMPLETION, "timestamp": 1767225600}),
    ("RequestResponse", {"request": json.dumps(BODY), "response": json.dumps(COMPLETION), "time": 1767225600}),
    ("RequestResponse", {"request": BODY, "response": ANSWER, "time": "2026-01-01T01:00:00+01:00"}),
    (
        "OpenAIBatch",
        {
            "id": "batch_req_1",
            "custom_id": "c-1",
            "response": {"status_code": 200, "request_id": "r-1", "body": COMPLETION},
            "error": None,
            "body": BODY,
        },
    ),
    ("ShareGPT", sharegpt()),
    ("LiteLLM", litellm()),
    ("Langfuse", langfuse()),
    ("Langfuse", langfuse(blob=True)),
    ("SageMakerCapture", sagemaker()),
    ("SageMakerCapture", sagemaker("BASE64")),
    ("BedrockInvocation", converse()),
    (
        "PromptCompletion",
        {"prompt": MESSAGES, "completion": [{"role": "assistant", "content": ANSWER}], "tools": TOOLS},
    ),
    ("PromptCompletion", {"prompt": PROMPT, "completion": ANSWER}),
    ("Text", {"id": 1, "text": f"{PROMPT} {ANSWER}"}),
    ("Tokens", {"input_ids": [5, 6, 7, 8], "labels": [-100, 6, -100, 8]}),
    ("Tokens", {"input_ids": [5, 6, 7, 8], "loss_mask": [0, 1, 0, 1], "attention_mask": [1, 1, 1, 1]}),
]
