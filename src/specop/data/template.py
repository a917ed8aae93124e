"""The target's chat template, rendered as its serving engine renders it.

The dialect (blocks trimmed, loop controls, `tojson` without HTML escapes, `raise_exception`, the `generation` tag) is
the one that model files are written for. It is rendered here rather than by a library because a template may ask for
today's date: what counts is the date of the request, else the same input would not give the same rows tomorrow.
Templates come from model files, so they run in a sandbox.
"""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from specop.data.formats import Json, flat_content, reasoning

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PROBE = "specop-probe"
_REFUSALS = (
    *(jinja2.TemplateError, TypeError, ValueError, LookupError),
    *(AttributeError, ArithmeticError, RecursionError),
)
"""What a template may raise about values that it does not expect."""


class TemplateRefused(Exception):
    """The template raised an error about a conversation; its text may quote the conversation and is not kept."""


class ChatTemplate:
    """One target's template, or its pair of templates with and without tools."""

    def __init__(self, source: str | dict[str, str], special_tokens: dict[str, str]) -> None:
        named = {"default": source} if isinstance(source, str) else source
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise
        self._templates = {name: environment.from_string(text) for name, text in named.items()}
        self._special = special_tokens
        self._takes_strings = self._shows(_PROBE)
        self._takes_parts = self._shows([{"type": "text", "text": _PROBE}])

    def render(self, messages: list[Json], request: Json, time: datetime | None, *, prompt: bool) -> str:
        """Text of messages, with the generation prompt if `prompt`. Raises TemplateRefused."""
        tools = request.get("tools") or None
        name = "tool_use" if tools and "tool_use" in self._templates else "default"
        template = self._templates.get(name) or next(iter(self._templates.values()))
        try:
            return template.render(
                {
                    **self._special,
                    **_options(request),
                    "messages": [self._message(message) for message in messages],
                    "tools": tools,
                    "add_generation_prompt": prompt,
                    "strftime_now": _clock(time),
                }
            )
        except _REFUSALS as error:
            raise TemplateRefused(type(error).__name__) from None

    def _message(self, message: Json) -> Json:
        """Return a message as engines hand it to templates: content in the form that it takes, arguments parsed."""
        shown: Json = {key: message[key] for key in ("role", "name", "tool_call_id") if message.get(key) is not None}
        content = message.get("content")
        if self._takes_parts and not self._takes_strings:
            shown["content"] = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
        elif not self._takes_parts or content is None:
            shown["content"] = flat_content(message)
        else:
            shown["content"] = content
        if thought := reasoning(message):
            shown |= {"reasoning": thought, "reasoning_content": thought}
        if calls := message.get("tool_calls"):
            shown["tool_calls"] = [
                {**call, "function": {**call["function"], "arguments": _arguments(call["function"])}} for call in calls
            ]
        return shown

    def _shows(self, content: Any) -> bool:
        template = self._templates.get("default") or next(iter(self._templates.values()))
        try:
            text = template.render(
                {
                    **self._special,
                    "messages": [{"role": "user", "content": content}],
                    "tools": None,
                    "add_generation_prompt": True,
                    "strftime_now": _clock(None),
                }
            )
        except _REFUSALS:
            return False
        return _PROBE in text and "'text'" not in text and '"text"' not in text


def _options(request: Json) -> Json:
    """Template variables that a request sets, as engines derive them."""
    effort = request.get("reasoning_effort")
    derived = {"reasoning_effort": effort, "enable_thinking": effort != "none"} if effort is not None else {}
    return {**derived, "documents": request.get("documents"), **(request.get("chat_template_kwargs") or {})}


def _arguments(function: Json) -> Any:
    arguments = function.get("arguments")
    if not isinstance(arguments, str):
        return arguments or {}
    try:
        return json.loads(arguments or "{}")
    except ValueError:
        return arguments


def _clock(time: datetime | None) -> Callable[[str], str]:
    return (time or EPOCH).strftime


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


class _Generation(Extension):
    """`{% generation %}…{% endgeneration %}` marks assistant text in some templates; it renders as what it encloses."""

    tags = {"generation"}  # noqa: RUF012 - as jinja declares it

    def parse(self, parser: Parser) -> list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)
