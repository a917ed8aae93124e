"""From a line to an exchange that may be learned from: what a row has to pass, in this order.

    parse ─► consent ─► window ─► format ─► periods, filters ─► blanks ─► quality ─► privacy

Nothing of a row that is not for training is looked at but the marks that say so; nothing leaves here that privacy has
not seen, and answers that are asked anew come through here, too. Pure but for the key of surrogates, which comes from
the environment; one `Intake` serves a whole process.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from specop.api.privacy import Privacy
from specop.api.quality import Consent, Quality
from specop.data import formats
from specop.data.consent import withheld
from specop.data.detect import Format, read_row
from specop.data.formats import Exchange, Fate, Json, Unusable, flat_content, reasoning
from specop.data.languages import Languages
from specop.data.normalise import Moments, check_unicode, identify
from specop.data.privacy import Scrubber
from specop.data.question import Anew, blanked


@dataclass(frozen=True, slots=True)
class Selection:
    """What one source takes of its rows."""

    window: Moments | None = None
    excluded: tuple[Moments, ...] = ()
    models: frozenset[str] = frozenset()
    statuses: frozenset[int] = frozenset()
    routes: frozenset[str] = frozenset()
    tenants: frozenset[str] = frozenset()
    """Empty: all."""
    anew: Anew = field(default_factory=Anew)


@dataclass(frozen=True, slots=True)
class Policy:
    """What all rows have to pass."""

    privacy: Privacy = field(default_factory=Privacy)
    consent: Consent = field(default_factory=Consent)
    quality: Quality = field(default_factory=Quality)


class Taken(NamedTuple):
    """An exchange that may be used."""

    exchange: Exchange
    entities: Counter[str]
    """What privacy replaced in it, by name."""
    anew: bool = False
    """Whether the target is to be asked: its answers are blank."""
    language: str = ""
    """Of its prose, or `unknown`, where languages are looked at."""


class Intake:
    """Reads rows under one policy."""

    def __init__(self, policy: Policy, environment: Mapping[str, str]) -> None:
        """Take up a policy. Raises UserError: InvalidSpec, PrivacyKeyMissing."""
        self._policy = policy
        self._scrubber = Scrubber(policy.privacy, environment)
        wanted = policy.quality.languages
        self._languages = Languages(wanted) if wanted else None

    def read(
        self, line: bytes, row_format: Format, selection: Selection, *, clean: bool = False, kept: bool = False
    ) -> Taken | None:
        """Read one line; None outside the window. Raises Unusable.

        `kept`: it was read before, and is kept: its quality is not looked at again. `clean`: nor what privacy would
        change, because it found nothing.
        """
        row = formats.parse(line)
        if withheld(row, self._policy.consent.no_train_fields):
            raise Unusable(Fate.NO_CONSENT, "marked as not for training")
        check_unicode(line, row)
        if selection.window is not None and formats.capture_time(row) not in selection.window:
            return None
        exchange = read_row(row, row_format)
        _check_period(exchange.time, selection.excluded)
        _check_selected(exchange, selection)
        anew = selection.anew.wants(exchange)
        if anew:
            exchange = blanked(exchange)
        language = "" if kept else self._check_quality(exchange)
        if clean or self._scrubber.idle:
            return Taken(self._scrubber.without_options(exchange), Counter(), anew, language)
        scope = identify(exchange).conversation if self._scrubber.draws else b""
        return self._scrub(exchange, scope)._replace(anew=anew, language=language)

    def answered(self, question: Exchange, answered: Exchange, scope: bytes) -> Taken:
        """Take an answer that was asked anew. Raises Unusable.

        What privacy put into the question, or left there, may come back in the answer.
        """
        self._check_quality(answered)
        return self._scrub(answered, scope, json.dumps(question.request, ensure_ascii=False))

    def finds(self, text: str) -> Counter[str]:
        """Count entities in a text that cannot be changed, such as decoded tokens."""
        return self._scrubber.finds(text)

    def _scrub(self, exchange: Exchange, scope: bytes, known: str = "") -> Taken:
        try:
            scrubbed = self._scrubber.scrub(exchange, scope, known)
        except RecursionError:
            raise Unusable(Fate.SET_ASIDE, "nested too deeply") from None
        if scrubbed.drop:
            raise Unusable(Fate.PRIVATE, "personal data or a secret, which the policy drops")
        return Taken(scrubbed.exchange, scrubbed.found)

    def _check_quality(self, exchange: Exchange) -> str:
        """Refuse what is beyond the limits; name the language, where these are looked at. Raises Unusable."""
        self._check_sizes(exchange)
        return self._languages.of(exchange) if self._languages else ""

    def _check_sizes(self, exchange: Exchange) -> None:
        quality = self._policy.quality
        if quality.truncated_answers == "Drop" and not exchange.ended and not exchange.text:
            raise Unusable(Fate.UNFIT, "the answer was cut by max_tokens")
        if quality.min_answer_characters == 1 and quality.max_characters is None:
            return
        answer = _characters(exchange.answer) + len(exchange.text)
        if exchange.answer and answer < quality.min_answer_characters:
            raise Unusable(Fate.UNFIT, "an answer under minAnswerCharacters")
        whole = answer + sum(map(_characters, exchange.request["messages"]))
        if quality.max_characters is not None and whole > quality.max_characters:
            raise Unusable(Fate.UNFIT, "a conversation over maxCharacters")


def _check_period(time: datetime | None, excluded: tuple[Moments, ...]) -> None:
    if excluded and time is None:
        raise Unusable(Fate.EXCLUDED, "no time, where the source excludes periods")
    if any(time in period for period in excluded if time is not None):
        raise Unusable(Fate.EXCLUDED, "in an excluded period")


def _check_selected(exchange: Exchange, selection: Selection) -> None:
    wanted = (
        ("model", exchange.model, selection.models),
        ("status", exchange.status, selection.statuses),
        ("route", exchange.route, selection.routes),
        ("tenant", exchange.tenant, selection.tenants),
    )
    for name, value, values in wanted:
        if values and value not in values:
            raise Unusable(Fate.EXCLUDED, f"another {name} than the source asks for")


def _characters(message: Json) -> int:
    calls = (call["function"] for call in message.get("tool_calls") or [])
    arguments = sum(len(call.get("arguments") or "") + len(call["name"]) for call in calls)
    return len(flat_content(message)) + len(reasoning(message)) + arguments
