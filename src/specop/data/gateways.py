"""Formats of logs: request/response pairs, batches, LiteLLM, Langfuse, SageMaker, Bedrock.

Each is one request with its answer; assistant turns inside the request were logged with requests of their own, so only
the answer is learned from. Shapes are those that the products document:

    OpenAIBatch       platform.openai.com/docs/api-reference/batch/request-output, vLLM's run-batch; the body of the
                      request, which a batch's output lacks, is expected beside it as `body` or `request`
    LiteLLM           docs.litellm.ai/docs/proxy/logging_spec: StandardLoggingPayload
    Langfuse          langfuse.com/docs/api-and-data-platform: observations, as the export of the page or of the blob
                      storage writes them
    SageMakerCapture  docs.aws.amazon.com/sagemaker: Data Capture of an endpoint that speaks OpenAI's API
    BedrockInvocation docs.aws.amazon.com/bedrock: model invocation logs of Converse and of bodies like OpenAI's
"""

import base64
import binascii
import json
from typing import Any

from specop.data.formats import (
    Exchange,
    Fate,
    Json,
    Unusable,
    answered,
    completed,
    moment,
    seconds,
    text,
)

_CUT = "length"
_HTTP_ERROR = 400
_CONVERSE_ENDS = {"end_turn": True, "tool_use": True, "stop_sequence": True, "max_tokens": False}
_NO_REQUEST = "a batch's answer without its request: put the request's body beside it, as body"


def read_pair(row: Json) -> Exchange:
    """Read `{"request": …, "response": …}`, each JSON or JSON in a string. Raises Unusable."""
    request, response = _object(row.get("request"), "request"), row.get("response")
    facts = {
        "time": moment(row.get("time", row.get("timestamp"))),
        "model": text(row.get("model", request.get("model"))),
    }
    return _answer(request, response, facts)


def read_batch(row: Json) -> Exchange:
    """Read a line of a batch's output with the body of its request. Raises Unusable."""
    response = row.get("response")
    if row.get("error") or not isinstance(response, dict):
        raise Unusable(Fate.FAILED, "the request failed")
    status = response.get("status_code", 200)
    if not isinstance(status, int) or status >= _HTTP_ERROR:
        raise Unusable(Fate.FAILED, "the request failed")
    holder = row.get("body", row.get("request"))
    if not isinstance(holder, dict):
        raise Unusable(Fate.UNSUPPORTED, _NO_REQUEST)
    request = holder["body"] if isinstance(holder.get("body"), dict) else holder
    body = _object(response.get("body"), "response")
    facts = {"time": moment(body.get("created")), "model": text(body.get("model")), "status": status}
    return completed(request, body, **facts)


def read_litellm(row: Json) -> Exchange:
    """Read LiteLLM's standard logging payload. Raises Unusable."""
    if row.get("status") == "failure" or row.get("error_str"):
        raise Unusable(Fate.FAILED, "the request failed")
    if row.get("call_type") not in ("completion", "acompletion", None, ""):
        raise Unusable(Fate.UNSUPPORTED, "not a chat completion")
    messages = row.get("messages")
    if messages == "redacted-by-litellm" or row.get("response") == "redacted-by-litellm" or _redacted(messages):
        raise Unusable(Fate.NO_CONSENT, "its content was not logged")
    metadata = row["metadata"] if isinstance(row.get("metadata"), dict) else {}
    parameters = row["model_parameters"] if isinstance(row.get("model_parameters"), dict) else {}
    if isinstance(messages, dict):
        parameters, messages = {**parameters, **messages}, messages.get("messages")
    start, end = moment(row.get("startTime")), moment(row.get("endTime"))
    tenant = next(
        filter(None, (text(metadata.get(f"user_api_key_{name}")) for name in ("team_alias", "team_id", "alias"))), ""
    )
    facts = {
        "time": end,
        "model": text(row.get("model_group")) or text(row.get("model")),
        "tenant": tenant or text(row.get("end_user")),
        "latency": seconds((end - start).total_seconds()) if start and end else None,
    }
    return _answer({**parameters, "messages": messages}, row.get("response"), facts)


def _redacted(messages: Any) -> bool:
    return isinstance(messages, list) and any(
        isinstance(message, dict) and message.get("content") == "redacted-by-litellm" for message in messages
    )


def read_langfuse(row: Json) -> Exchange:
    """Read an observation of Langfuse. Raises Unusable."""
    if row.get("type") != "GENERATION":
        raise Unusable(Fate.UNSUPPORTED, "an observation that is no generation")
    if row.get("level") == "ERROR":
        raise Unusable(Fate.FAILED, "the request failed")
    given, output = _loose(row.get("input")), row.get("output")
    if given is None or output is None:
        raise Unusable(Fate.NO_CONSENT, "its content was not logged")
    parameters = _loose(_first(row, "modelParameters", "model_parameters"))
    request = dict(parameters) if isinstance(parameters, dict) else {}
    if isinstance(given, dict):
        request.update(given)
    elif isinstance(given, list):
        request["messages"] = given
    elif isinstance(given, str):
        request["messages"] = [{"role": "user", "content": given}]
    start, end = (moment(_first(row, f"{name}Time", f"{name}_time")) for name in ("start", "end"))
    facts = {
        "time": end or start,
        "model": text(_first(row, "model", "providedModelName", "provided_model_name")),
        "tenant": text(_first(row, "userId", "user_id")),
        "latency": seconds((end - start).total_seconds()) if start and end else None,
    }
    return _answer(request, output, facts)


def read_sagemaker(row: Json) -> Exchange:
    """Read a record of SageMaker's Data Capture. Raises Unusable."""
    captured, about = row.get("captureData"), row.get("eventMetadata")
    if not isinstance(captured, dict):
        raise Unusable(Fate.SET_ASIDE, "no captureData")
    request, response = (_captured(captured.get(name)) for name in ("endpointInput", "endpointOutput"))
    about = about if isinstance(about, dict) else {}
    facts = {"time": moment(about.get("inferenceTime")), "model": text(request.get("model"))}
    return _answer(request, response, facts)


def _captured(side: Any) -> Json:
    if not isinstance(side, dict) or not isinstance(side.get("data"), str):
        raise Unusable(Fate.UNSUPPORTED, "a side of the request was not captured")
    data = side["data"]
    if side.get("encoding") == "BASE64":
        try:
            data = base64.b64decode(data, validate=True).decode()
        except (binascii.Error, ValueError):
            raise Unusable(Fate.SET_ASIDE, "not Base64 of UTF-8") from None
    elif side.get("encoding") not in ("JSON", None):
        raise Unusable(Fate.UNSUPPORTED, "a capture that is not JSON")
    return _object(data, "captured body")


def read_bedrock(row: Json) -> Exchange:
    """Read a model invocation log of Bedrock. Raises Unusable."""
    if row.get("errorCode"):
        raise Unusable(Fate.FAILED, "the request failed")
    given, output = row.get("input"), row.get("output")
    if not isinstance(given, dict) or not isinstance(output, dict):
        raise Unusable(Fate.NO_CONSENT, "its content was not logged")
    body, answer = given.get("inputBodyJson"), output.get("outputBodyJson")
    if not isinstance(body, dict) or not isinstance(answer, dict):
        raise Unusable(Fate.UNSUPPORTED, "a body that lies elsewhere, or came in a stream of events")
    about = row["requestMetadata"] if isinstance(row.get("requestMetadata"), dict) else {}
    facts = {
        "time": moment(row.get("timestamp")),
        "model": text(row.get("modelId")),
        "tenant": text(about.get("tenant")),
    }
    if str(row.get("operation", "")).startswith("Converse"):
        return _converse(body, answer, facts)
    if "messages" in body and "choices" in answer:
        return completed(body, answer, **facts)
    raise Unusable(Fate.UNSUPPORTED, "a model's own body that is not like OpenAI's")


def _converse(body: Json, answer: Json, facts: Json) -> Exchange:
    reason = text(answer.get("stopReason"))
    if reason not in _CONVERSE_ENDS:
        raise Unusable(Fate.FAILED, "the answer was aborted")
    output = answer.get("output")
    message = output.get("message") if isinstance(output, dict) else None
    try:
        messages = [{"role": "system", "content": part["text"]} for part in body.get("system") or []]
        messages += [made for turn in body["messages"] for made in _converse_turn(turn)]
        (reply,) = _converse_turn(message)
        request: Json = {"messages": messages, **_converse_options(body)}
    except (KeyError, TypeError, ValueError, AttributeError):
        raise Unusable(Fate.SET_ASIDE, "a malformed body of Converse") from None
    return answered(request, reply, ended=_CONVERSE_ENDS[reason], **facts)


def _converse_turn(turn: Any) -> list[Json]:
    """Turn one of Converse's messages into OpenAI's: results of tools become messages of their own."""
    said, thought, calls, made = [], [], [], []
    for part in turn["content"]:
        if "text" in part:
            said.append(part["text"])
        elif "toolUse" in part:
            use = part["toolUse"]
            function = {"name": use["name"], "arguments": json.dumps(use["input"], ensure_ascii=False)}
            calls.append({"id": use["toolUseId"], "type": "function", "function": function})
        elif "toolResult" in part:
            result = part["toolResult"]
            content = "\n".join(
                item["text"] if "text" in item else json.dumps(item["json"], ensure_ascii=False)
                for item in result["content"]
            )
            made.append({"role": "tool", "tool_call_id": result["toolUseId"], "content": content})
        elif "reasoningContent" in part:
            thought.append(part["reasoningContent"]["reasoningText"]["text"])
        else:
            raise Unusable(Fate.UNSUPPORTED, "content that is not text")
    if said or thought or calls or not made:
        message: Json = {"role": turn["role"], "content": "\n".join(said) if said else None}
        message |= {"reasoning": "\n".join(thought)} if thought else {}
        made.append(message | ({"tool_calls": calls} if calls else {}))
    return made


def _converse_options(body: Json) -> Json:
    config = body.get("inferenceConfig") or {}
    names = (("temperature", "temperature"), ("topP", "top_p"), ("maxTokens", "max_tokens"), ("stopSequences", "stop"))
    options = {name: config[theirs] for theirs, name in names if theirs in config}
    tools = [
        {
            "type": "function",
            "function": {
                "name": tool["toolSpec"]["name"],
                "description": tool["toolSpec"].get("description", ""),
                "parameters": tool["toolSpec"]["inputSchema"]["json"],
            },
        }
        for tool in (body.get("toolConfig") or {}).get("tools", [])
    ]
    return options | ({"tools": tools} if tools else {})


def _answer(request: Json, response: Any, facts: Json) -> Exchange:
    """Read an answer however it was logged: a completion, a message, or its text."""
    if isinstance(response, str):
        parsed = _loose(response)  # an answer may be JSON itself
        response = parsed if isinstance(parsed, dict) and ("choices" in parsed or "role" in parsed) else response
    if isinstance(response, dict) and ("choices" in response or response.get("error")):
        return completed(request, response, **facts)
    if isinstance(response, dict) and ("content" in response or "tool_calls" in response):
        return answered(request, response, **facts)
    if isinstance(response, str):
        return answered(request, {"role": "assistant", "content": response}, **facts)
    if response is None:
        raise Unusable(Fate.FAILED, "there is no answer")
    raise Unusable(Fate.SET_ASIDE, "an answer of an unknown shape")


def _object(value: Any, name: str) -> Json:
    found = _loose(value)
    if not isinstance(found, dict):
        raise Unusable(Fate.SET_ASIDE, f"a {name} that is no JSON object")
    return found


def _loose(value: Any) -> Any:
    """Return JSON that was logged as a string, or the value itself."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _first(row: Json, *names: str) -> Any:
    return next((row[name] for name in names if row.get(name) is not None), None)
