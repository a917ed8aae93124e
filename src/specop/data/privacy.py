"""Personal data and secrets leave an exchange before anything of it is stored.

Scanned are the texts of messages and the values inside arguments of tool calls, and of whatever else is text in a
prompt; JSON is scanned value by value and spliced, so that it stays valid and keeps its spaces. Never touched: keys,
names of functions, schemas of tools, ids. Options of a request that neither render nor sample (`user`, `metadata`, …)
are left out.

An exchange whose text changed loses its logged token ids, for they spell what was removed; what stands in assistants'
words instead was never generated, and is listed, so that it is not learned from.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import translate
from functools import lru_cache
from typing import Any, get_args

import regex

from specop.api import reasons
from specop.api.privacy import KEY_ENV, Action, CustomPattern, DefaultEntity, Privacy
from specop.common.errors import UserError
from specop.data.credentials import find_credentials
from specop.data.formats import Exchange, Json
from specop.data.recognise import Found, Recogniser
from specop.data.surrogates import LEAST_KEY, Surrogates, mask

_VERBATIM = frozenset({"role", "type", "id", "tool_call_id"})
_OPTIONS = frozenset(
    [
        "model",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "functions",
        "function_call",
        "response_format",
        "structured_outputs",
        "guided_json",
        "guided_regex",
        "guided_choice",
        "guided_grammar",
        "chat_template_kwargs",
        "reasoning_effort",
        "documents",
        "max_tokens",
        "max_completion_tokens",
        "min_tokens",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "typical_p",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
        "seed",
        "stop",
        "stop_token_ids",
        "ignore_eos",
        "n",
        "stream",
        "stream_options",
        "logprobs",
        "top_logprobs",
        "add_generation_prompt",
        "include_reasoning",
        "thinking_token_budget",
    ]
)
"""Of a request, beside its messages: what makes the prompt, or how it is answered."""
_PROSE_OPTIONS = ("chat_template_kwargs", "documents")
_JSON_VALUE = re.compile(r'"((?:[^"\\]|\\.)*)"(\s*:)?|-?\d[\d.eE+-]*')
_WORDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|[_\-.]")
_LEAST_NUMBER = 9
"""Digits: shorter numbers identify nobody."""
_CACHED = 4096
_CACHED_LENGTH = 16_384
_REGEX_SECONDS = 10.0
_REGEX_TOO_SLOW = "privacy.patterns: the expression of {name} took over {seconds:.0f} s on one text: make it simpler."
_PRECEDENCE: tuple[str, ...] = ("Secret", "CreditCard", "Iban", "UsSsn", "Email", "CryptoWallet", "IpAddress", "Phone")


@dataclass(slots=True)
class Scrubbed:
    """An exchange without what was found in it."""

    exchange: Exchange
    found: Counter[str] = field(default_factory=Counter)
    """Entities that were replaced or that speak for dropping, by name."""
    drop: bool = False
    """By policy the exchange is not to be used."""


class Scrubber:
    """Applies one policy; costs seconds to make, and is meant to be made once a process."""

    def __init__(self, privacy: Privacy, environment: Mapping[str, str]) -> None:
        """Take up a policy. Raises UserError: InvalidSpec (a regular expression), PrivacyKeyMissing."""
        actions: dict[str, Action] = dict.fromkeys(get_args(DefaultEntity), privacy.action)
        actions.update((rule.type, rule.action or privacy.action) for rule in privacy.entities)
        self._actions: dict[str, Action] = {name: action for name, action in actions.items() if action != "Keep"}
        self._patterns = [
            (pattern.name, _compiled(pattern)) for pattern in privacy.patterns if self._takes(pattern, privacy.action)
        ]
        self._allowed = [re.compile(translate(value.lower())) for value in privacy.allow]
        self._recogniser = Recogniser(list(self._actions))
        self._surrogates: Surrogates | None = None
        if "Surrogate" in self._actions.values():
            self._surrogates = Surrogates(_key(environment))
        self._find = lru_cache(_CACHED)(self._find_all)

    def _takes(self, pattern: CustomPattern, default: Action) -> bool:
        action = pattern.action or default
        if action != "Keep":
            self._actions[pattern.name] = action
        return action != "Keep"

    @property
    def idle(self) -> bool:
        """Whether nothing is looked for."""
        return not self._actions

    @property
    def draws(self) -> bool:
        """Whether there are surrogates, which depend on the scope."""
        return self._surrogates is not None

    def scrub(self, exchange: Exchange, scope: bytes, known: str = "") -> Scrubbed:
        """Scrub one exchange; surrogates are the same throughout a scope. What `known` holds as it is stays."""
        if self.idle:
            return Scrubbed(exchange)
        pass_ = _Pass(self, scope, known)
        messages = [pass_.message(message) for message in exchange.request["messages"]]
        answer = pass_.message(exchange.answer)
        text = pass_.learned_text(exchange.text)
        options = {key: value for key, value in exchange.request.items() if key in _OPTIONS}
        for name in _PROSE_OPTIONS:
            if options.get(name):
                options[name] = pass_.value(options[name])
        request = {**options, "messages": messages}
        if not pass_.found:
            return Scrubbed(replace(exchange, request=request))
        scrubbed = replace(
            exchange,
            request=request,
            answer=answer,
            text=text,
            prompt_token_ids=(),
            token_ids=(),
            altered=True,
            replaced=tuple(dict.fromkeys(pass_.replaced)),
        )
        return Scrubbed(scrubbed, pass_.found, drop=any(self._actions[name] == "Drop" for name in pass_.found))

    def without_options(self, exchange: Exchange) -> Exchange:
        """Return an exchange in which nothing was found as `scrub` does: without what neither renders nor samples."""
        if self.idle:
            return exchange
        options = {key: value for key, value in exchange.request.items() if key in _OPTIONS}
        return replace(exchange, request={**options, "messages": exchange.request["messages"]})

    def finds(self, text: str) -> Counter[str]:
        """Count entities in a text that cannot be changed, such as decoded tokens."""
        return Counter(found.entity for found in self.find(text))

    def find(self, text: str) -> tuple[Found, ...]:
        """Entities of one text in order, apart from each other."""
        if len(text) <= _CACHED_LENGTH:  # histories and system prompts come again and again
            return self._find(text)
        return self._find_all(text)

    def replacement(self, entity: str, value: str, scope: bytes) -> str:
        """Return what a value becomes."""
        if self._actions[entity] == "Surrogate" and self._surrogates:
            return self._surrogates.draw(entity, value, scope)
        return mask(entity)

    def _find_all(self, text: str) -> tuple[Found, ...]:
        found = list(self._recogniser.find(text))
        if "Secret" in self._actions:
            found += [Found(start, end, "Secret") for start, end in find_credentials(text)]
        for name, pattern in self._patterns:
            try:
                group = 1 if pattern.groups else 0
                for match in pattern.finditer(text, timeout=_REGEX_SECONDS):
                    found.append(Found(match.start(group), match.end(group), name))
            except TimeoutError:
                message = _REGEX_TOO_SLOW.format(name=name, seconds=_REGEX_SECONDS)
                raise UserError(reasons.INVALID_SPEC, message) from None
        kept = [item for item in found if item.end > item.start and not self._is_allowed(text[item.start : item.end])]
        return tuple(_apart(kept))

    def _is_allowed(self, value: str) -> bool:
        return any(pattern.match(value.lower()) for pattern in self._allowed)


class _Pass:
    """One exchange on its way through."""

    def __init__(self, scrubber: Scrubber, scope: bytes, known: str) -> None:
        self._scrubber = scrubber
        self._scope = scope
        self._known = known
        self._learned = False
        self.found: Counter[str] = Counter()
        self.replaced: list[str] = []

    def message(self, message: Json) -> Json:
        self._learned = message.get("role") == "assistant"
        is_tool = message.get("role") in ("tool", "function")
        kept = _VERBATIM | {"tool_calls"} | ({"name"} if is_tool else set())
        scrubbed = {key: value if key in kept else self.value(value) for key, value in message.items()}
        if calls := message.get("tool_calls"):
            scrubbed["tool_calls"] = [self._call(call) for call in calls]
        return scrubbed

    def learned_text(self, text: str) -> str:
        """Scrub a text that is a whole row."""
        self._learned = True
        return self._text(text) if text else text

    def _call(self, call: Json) -> Json:
        function = {**call["function"]}
        if "arguments" in function:
            function["arguments"] = self.value(function["arguments"])
        return {**call, "function": function}

    def value(self, value: Any, key: str = "") -> Any:
        """Scrub all strings of a JSON value; what is a key stays."""
        if isinstance(value, str):
            return self._text(value, key)
        if isinstance(value, list):
            return [self.value(item, key) for item in value]
        if isinstance(value, dict):
            return {name: item if name == "type" else self.value(item, name) for name, item in value.items()}
        return value

    def _text(self, text: str, key: str = "") -> str:
        if text.lstrip()[:1] in ("{", "[") and _is_json(text):
            return self._json(text)
        return self._plain(text, key)

    def _plain(self, text: str, key: str = "") -> str:
        """Scrub one text; its key, in words, is context that it is read with."""
        before = f"{_WORDS.sub(' ', key)}: " if key else ""
        parts, end = [], 0
        for found in self._scrubber.find(before + text):
            start, last = max(0, found.start - len(before)), found.end - len(before)
            if last <= start or text[start:last] in self._known:
                continue
            new = self._scrubber.replacement(found.entity, text[start:last], self._scope)
            parts += [text[end:start], new]
            end = last
            self.found[found.entity] += 1
            if self._learned:
                self.replaced += [new, json.dumps(new, ensure_ascii=False)[1:-1]]
        return "".join([*parts, text[end:]]) if parts else text

    def _json(self, text: str) -> str:
        """Scrub the values of a JSON text where they stand."""
        key = ""

        def scrubbed(match: re.Match[str]) -> str:
            nonlocal key
            literal, inner, colon = match[0], match[1], match[2]
            if inner is None:
                if sum(map(str.isdigit, literal)) < _LEAST_NUMBER:
                    return literal
                new = self._plain(literal, key)
                return new if new == literal or _is_json(new) else json.dumps(new)
            if colon is not None:
                key = json.loads(f'"{inner}"', strict=False)
                return literal
            value = json.loads(literal, strict=False)
            new = self._text(value, key)
            return literal if new == value else json.dumps(new, ensure_ascii=literal.isascii())

        return _JSON_VALUE.sub(scrubbed, text)


def _apart(found: list[Found]) -> list[Found]:
    """Join what overlaps; the longest part gives its name."""
    joined: list[tuple[Found, int]] = []  # with the length of the part that gave the name
    for item in sorted(found, key=lambda item: (item.start, -item.end, _rank(item.entity))):
        length = item.end - item.start
        if joined and item.start < joined[-1][0].end:
            last, longest = joined[-1]
            name = item.entity if (length, -_rank(item.entity)) > (longest, -_rank(last.entity)) else last.entity
            joined[-1] = Found(last.start, max(last.end, item.end), name), max(longest, length)
        else:
            joined.append((item, length))
    return [item for item, _ in joined]


def _rank(entity: str) -> int:
    return _PRECEDENCE.index(entity) if entity in _PRECEDENCE else -1


def _compiled(pattern: CustomPattern) -> "regex.Pattern[str]":
    try:
        return regex.compile(pattern.regex)
    except regex.error as error:
        raise UserError(
            reasons.INVALID_SPEC, f"privacy.patterns: the expression of {pattern.name} is wrong: {error}. Correct it."
        ) from None


def _key(environment: Mapping[str, str]) -> bytes:
    key = environment.get(KEY_ENV, "").encode()
    if len(key) < LEAST_KEY:
        raise UserError(
            reasons.PRIVACY_KEY_MISSING,
            f"Surrogates need a key: put {LEAST_KEY} random bytes or more under {KEY_ENV} into the Secret that "
            "privacy.keySecretRef names, or use action: Mask.",
        )
    return key


def _is_json(text: str) -> bool:
    try:
        json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return False
    return True
