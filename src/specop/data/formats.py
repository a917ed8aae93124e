"""The one shape that all lines become, a request and the answer it got, and the two formats nearest to it.

OpenAI chat is `{"messages": […]}`, a whole conversation whose assistant turns were all produced by the target; what
specop captures (`docs/contracts.md`) is one request with its response: the assistant turns in the request were captured
with requests of their own, so only the response is learned from. The other formats, and how all are told apart, are in
`corpora`, `gateways` and `detect`.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import Any

Json = dict[str, Any]
Span = tuple[int, int]
"""Half-open."""
CHAT_ROUTE = "/v1/chat/completions"
_ENDED = ("stop", "tool_calls", "function_call")
_CUT = "length"
_HTTP_ERROR = 400
_GRAMMARS = ("structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar")
_OPTION_TYPES = (
    ("tools", list | None),
    ("chat_template_kwargs", dict | None),
    ("response_format", dict | None),
    ("reasoning_effort", str | None),
    ("temperature", int | float | None),
)
_MAX_TEMPERATURE = 100.0
_MAX_SECONDS = 1e6
_LAST_SECOND = 1 << 34
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Fate(IntEnum):
    """What becomes of a line."""

    TRAIN = 0
    HOLDOUT = 1
    DUPLICATE = 2
    OUTWEIGHED = 3
    FAILED = 4
    """The request failed or was aborted; an answer cut by max_tokens is a good one, without an end of turn."""
    UNSUPERVISED = 5
    """There is no generated token."""
    UNSUPPORTED = 6
    """A route, a part of content or an option that no row of tokens can be made of."""
    REFUSED = 7
    """The chat template raised an error, or there are tokens that the target does not have."""
    SET_ASIDE = 8
    """Malformed."""
    PRIVATE = 9
    """Personal data or a secret is in it, and the policy is to drop it."""
    NO_CONSENT = 10
    """Marked as not for training, or logged without its content."""
    EXCLUDED = 11
    """Of an excluded period, or not what its source asks for."""
    UNFIT = 12
    """Beyond the limits of `quality`."""
    NEAR_DUPLICATE = 13
    """Like an older one, where these are dropped, or over the cap of its shape."""
    UNANSWERED = 15
    """To be asked anew, and the target refused."""
    FILTERED = 20
    """`transform.sql` leaves it out."""
    OUTSIDE = 255
    """Outside the window of a source: not read."""


DROPPED = (
    Fate.DUPLICATE,
    Fate.OUTWEIGHED,
    Fate.FAILED,
    Fate.UNSUPERVISED,
    Fate.UNSUPPORTED,
    Fate.REFUSED,
    Fate.PRIVATE,
    Fate.NO_CONSENT,
    Fate.EXCLUDED,
    Fate.UNFIT,
    Fate.NEAR_DUPLICATE,
    Fate.UNANSWERED,
    Fate.FILTERED,
)


class Unusable(Exception):
    """A line that becomes no row; the reason never quotes it."""

    def __init__(self, fate: Fate, reason: str) -> None:
        super().__init__(reason)
        self.fate = fate
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Written:
    """What a row of another dataset says of the exchange that it was made of, and that is not there any more."""

    source: str
    """Of that dataset."""
    conversation: bytes
    content: bytes
    """As `specop.data.normalise.identify` found them."""
    likeness: tuple[int, ...]
    """As `specop.data.alike.signature` found it."""
    constrained: bool
    grammar: str | None
    """As `specop.data.grammar` found it."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request and the answer it got."""

    request: Json
    """Body of a chat completion, with `messages` up to the answer."""
    answer: Json
    """The assistant's message."""
    time: datetime | None = None
    history: bool = False
    """Whether assistant turns inside the request are learned from, too."""
    ended: bool = True
    """Whether the answer ended by itself, so that its end of turn was generated."""
    prompt_token_ids: tuple[int, ...] = ()
    token_ids: tuple[int, ...] = ()
    """Logged by the engine; both or neither."""
    altered: bool = False
    """Whether its text is not what was sent and answered, because personal data was taken out."""
    replaced: tuple[str, ...] = ()
    """What stands in assistants' words in the place of personal data: never generated, never learned from."""
    text: str = ""
    """Plain text instead of a conversation: no template, and all of it is learned from."""
    spans: tuple[Span, ...] = ()
    """Generated ones among `token_ids`, which then are the whole row; without them, all of `token_ids` are."""
    model: str = ""
    """Name of the model that answered, where the log says so."""
    tenant: str = ""
    """Whose request it was, where the log says so."""
    route: str = CHAT_ROUTE
    status: int = 200
    latency: float | None = None
    """Seconds."""
    written: Written | None = None
    """Of a row of another dataset, whose request is not known."""

    @property
    def constrained(self) -> bool:
        """Whether the engine masked the target's distribution by a grammar."""
        if self.written:
            return self.written.constrained
        kind = (self.request.get("response_format") or {}).get("type", "text")
        choice = self.request.get("tool_choice")
        forced = choice == "required" or isinstance(choice, dict)
        return kind != "text" or forced or any(self.request.get(name) for name in _GRAMMARS)

    @property
    def temperature(self) -> float:
        """The sampling temperature; OpenAI's default where the request says nothing."""
        value = self.request.get("temperature")
        return 1.0 if value is None else float(value)


def parse(data: bytes) -> Json:
    """Parse one line; raises Unusable(SET_ASIDE)."""
    try:
        value = json.loads(data.decode())
    except UnicodeDecodeError:
        raise Unusable(Fate.SET_ASIDE, "not UTF-8") from None
    except (ValueError, RecursionError):
        raise Unusable(Fate.SET_ASIDE, "not JSON") from None
    if not isinstance(value, dict):
        raise Unusable(Fate.SET_ASIDE, "not a JSON object")
    return value


def read_chat(row: Json) -> Exchange:
    """Read a conversation: everything up to the last assistant turn. Raises Unusable."""
    return conversation(row, time=_chat_time(row))


def conversation(row: Json, **facts: Any) -> Exchange:
    """Make an exchange of `messages` and options beside them, up to the last assistant turn. Raises Unusable."""
    messages = _messages(row)
    last = max((index for index, message in enumerate(messages) if message["role"] == "assistant"), default=None)
    if last is None:
        raise Unusable(Fate.UNSUPERVISED, "no assistant turn")
    options = {key: value for key, value in row.items() if key not in ("messages", "time", "created", "id")}
    return _checked(Exchange({**options, "messages": messages[:last]}, messages[last], history=True, **facts))


def read_capture(row: Json) -> Exchange:
    """Read a captured request with its response. Raises Unusable."""
    request, response = row.get("request"), row.get("response")
    if not isinstance(request, dict) or not isinstance(response, dict):
        raise Unusable(Fate.SET_ASIDE, "no request or no response")
    time = capture_time(row)
    if row.get("route", CHAT_ROUTE) != CHAT_ROUTE:
        raise Unusable(Fate.UNSUPPORTED, "not a chat completion")
    if not isinstance(status := row.get("status", 200), int) or status >= _HTTP_ERROR:
        raise Unusable(Fate.FAILED, "the request failed")
    facts = {"model": text(row.get("model")), "tenant": text(row.get("tenant")), "latency": seconds(row.get("latency"))}
    return completed(request, response, time=time, status=status, **facts)


def completed(request: Json, response: Json, **facts: Any) -> Exchange:
    """Make an exchange of the body of a chat completion and of its answer. Raises Unusable."""
    if response.get("error"):
        raise Unusable(Fate.FAILED, "the request failed")
    choices = response.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise Unusable(Fate.SET_ASIDE, "a response without choices")
    choice = choices[0]
    if choice.get("finish_reason") not in (*_ENDED, _CUT):
        raise Unusable(Fate.FAILED, "the answer was aborted")
    prompt_ids, ids = token_ids(response.get("prompt_token_ids")), token_ids(choice.get("token_ids"))
    return answered(
        request,
        choice.get("message"),
        ended=choice["finish_reason"] != _CUT,
        prompt_token_ids=prompt_ids if ids else (),
        token_ids=ids if prompt_ids else (),
        **facts,
    )


def answered(request: Json, message: Any, **facts: Any) -> Exchange:
    """Make an exchange of the body of a chat completion and of the assistant's message. Raises Unusable."""
    answer = {**_message(message), "role": "assistant"}
    return _checked(Exchange({**request, "messages": _messages(request)}, answer, **facts))


def asked(request: Json, **facts: Any) -> Exchange:
    """Make an exchange without an answer of the body of a chat completion. Raises Unusable."""
    return _checked_options(Exchange({**request, "messages": _messages(request)}, {}, **facts))


def text(value: Any) -> str:
    """Return a string of a log, or nothing where it is none."""
    return value if isinstance(value, str) else ""


def seconds(value: Any) -> float | None:
    """Return a duration of a log, or None where it is none."""
    return float(value) if type(value) in (int, float) and 0 <= value < _MAX_SECONDS else None


def capture_time(row: Json) -> datetime:
    """When a captured request ended, in UTC; raises Unusable(SET_ASIDE)."""
    try:
        time = datetime.fromisoformat(row["time"])
        if time.tzinfo is None:
            raise Unusable(Fate.SET_ASIDE, "a time without zone")
        return time.astimezone(UTC)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise Unusable(Fate.SET_ASIDE, "no RFC 3339 time") from None


def to_microseconds(time: datetime) -> int:
    """Microseconds since 1970, exact."""
    return (time - _EPOCH) // timedelta(microseconds=1)


def from_microseconds(count: int) -> datetime:
    """Return the moment so many microseconds after 1970 began, in UTC."""
    return _EPOCH + timedelta(microseconds=count)


def flat_content(message: Json) -> str:
    """Text of a message's content, whichever way it is written."""
    content = message.get("content")
    if isinstance(content, list):
        return "\n".join(part["text"] for part in content)
    return content or ""


def _checked(exchange: Exchange) -> Exchange:
    answer = exchange.answer
    if not exchange.token_ids and not (flat_content(answer) or answer.get("tool_calls") or reasoning(answer)):
        raise Unusable(Fate.UNSUPERVISED, "an empty answer")
    return _checked_options(exchange)


def _checked_options(exchange: Exchange) -> Exchange:
    options = exchange.request
    changed = any(options.get(name) for name in ("continue_final_message", "chat_template", "echo"))
    if changed or options.get("add_generation_prompt") is False:
        raise Unusable(Fate.UNSUPPORTED, "an option that changes the template")
    for name, kind in _OPTION_TYPES:
        if not isinstance(options.get(name), kind):
            raise Unusable(Fate.SET_ASIDE, f"{name} of a wrong type")
    if not 0 <= (options.get("temperature") or 0) <= _MAX_TEMPERATURE:
        raise Unusable(Fate.SET_ASIDE, "a temperature that none is")
    return exchange


def reasoning(message: Json) -> str:
    """Return the text of a message's reasoning, under either of its names."""
    return message.get("reasoning") or message.get("reasoning_content") or ""


def _messages(holder: Json) -> list[Json]:
    messages = holder.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Unusable(Fate.SET_ASIDE, "no messages")
    for message in messages:
        if not isinstance(_message(message).get("role"), str):
            raise Unusable(Fate.SET_ASIDE, "a message without role")
    return messages


def _message(message: Any) -> Json:
    if not isinstance(message, dict):
        raise Unusable(Fate.SET_ASIDE, "a message that is not an object")
    content = message.get("content")
    if isinstance(content, list):
        if not all(isinstance(part, dict) and isinstance(part.get("type"), str) for part in content):
            raise Unusable(Fate.SET_ASIDE, "a part of content without type")
        if not all(part["type"] == "text" and isinstance(part.get("text"), str) for part in content):
            raise Unusable(Fate.UNSUPPORTED, "content that is not text")
    elif not isinstance(content, str | None):
        raise Unusable(Fate.SET_ASIDE, "content of a wrong type")
    if not isinstance(reasoning(message), str):
        raise Unusable(Fate.SET_ASIDE, "reasoning of a wrong type")
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list) or not all(map(_is_call, calls)):
        raise Unusable(Fate.SET_ASIDE, "malformed tool_calls")
    return message


def _is_call(call: Any) -> bool:
    function = call.get("function") if isinstance(call, dict) else None
    return isinstance(function, dict) and isinstance(function.get("name"), str)


def token_ids(value: Any) -> tuple[int, ...]:
    """Return ids of tokens, or nothing where these are none."""
    if isinstance(value, list) and all(type(token) is int and 0 <= token < 1 << 31 for token in value):
        return tuple(value)
    return ()


def _chat_time(row: Json) -> datetime | None:
    return capture_time(row) if "time" in row else moment(row.get("created"))


def moment(value: Any) -> datetime | None:
    """Return a time of a log (ISO 8601 with zone, seconds since 1970) in UTC, or None where it is none."""
    if isinstance(value, str):
        try:
            time = datetime.fromisoformat(value)
            return time.astimezone(UTC) if time.tzinfo else None
        except (ValueError, OverflowError):
            return None
    if type(value) in (int, float) and 0 <= value < _LAST_SECOND:
        return datetime.fromtimestamp(value, UTC)
    return None
