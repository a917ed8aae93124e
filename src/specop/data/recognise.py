"""Where in a text personal data is: Presidio's recognisers behind cheap anchors.

Presidio costs about a millisecond a kilobyte, so it sees only windows around what could be an entity at all: a text
without an `@`, a long number or the like costs a few regular expressions, and a process that never sees one never
loads it.

Many predefined recognisers take any number of the right length. What has no checksum is checked here once more, so that
code, JSON, dates and versions stay as they are.
"""

import ipaddress
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

_THRESHOLD = 0.4
_IN_CONTEXT = 0.7
"""A weak score that context words have raised passes this."""
_MARGIN = 64
"""Characters around an anchor that are looked at, and on to the next space."""
_REACH = 256


class Found(NamedTuple):
    """One entity: half-open in characters."""

    start: int
    end: int
    entity: str


@dataclass(frozen=True, slots=True)
class _Kind:
    """One kind of entity: what it could be at all, who knows, and what that one does not check."""

    presidio: str
    anchor: re.Pattern[str]
    """Begins with a character of few, and looks back from there: the search passes others over three times as fast."""
    recogniser: str
    """Presidio's class."""
    check: "Callable[[_Seen], bool]" = lambda _: True
    possible: Callable[[str], bool] = lambda _: True
    """Whether what that one finds in a window could pass the check at all: cheaper than to look."""


class _Seen(NamedTuple):
    """What Presidio found, and what stands around it."""

    text: str
    score: float
    before: str
    after: str


_RESERVED_DOMAIN = re.compile(r"(?:^|[@.])example(?:\.(?:com|org|net))?$|\.(?:test|invalid)$", re.IGNORECASE)


def _is_email(seen: _Seen) -> bool:
    """Somebody's: neither an example (RFC 2606), nor the name of a package with its version, nor Git's user."""
    if seen.text.startswith("git@") or _RESERVED_DOMAIN.search(seen.text):
        return False
    return not seen.text[-1].isdigit()


_CARD = re.compile(r"4|5[0-8]|2[2-7]|3[0-9]|6")


def _is_card(seen: _Seen) -> bool:
    """Luhn holds; what begins like no issuer (times in microseconds, ids), or behind a point, is none."""
    different = set(seen.text) - {" ", "-"}
    return _CARD.match(seen.text) is not None and len(different) > 1 and not seen.before.endswith(".")


_EXAMPLES = [
    ipaddress.ip_network(net) for net in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32")
]


def _is_address(seen: _Seen) -> bool:
    """Neither this machine, nor everybody, nor an example (RFC 5737); and no slice, scope or version that looks so."""
    address = ipaddress.ip_interface(seen.text).ip
    if address.is_loopback or address.is_unspecified or address.is_multicast or seen.text.startswith(("255.", "0.")):
        return False
    if any(address in net for net in _EXAMPLES):
        return False
    if address.version == 4:  # noqa: PLR2004
        return not re.match(r"-[A-Za-z]|\.\d", seen.after) and not re.search(r"\d\.$", seen.before)
    groups = [group for group in seen.text.split("/")[0].split(":") if group]
    return any(map(str.isdigit, seen.text)) and (len(groups) > 2 or address.is_link_local)  # noqa: PLR2004 - x[1::2]


_PHONE_SHAPE = re.compile(
    r"\+[\d ().\-/]+ | (?:\+?1[-. ])?\(\d{2,5}\)[\d .\-]+ | (?:\+?1[-. ])?\d{3}([-. ])\d{3}\1\d{4}"
    r"| 0\d{1,5}(?:[- /]\d{2,})+ ",
    re.VERBOSE,
)
PHONE_CONTEXT = ("phone", "telephone", "tel", "cell", "cellphone", "mobile", "call", "fax", "whatsapp")
"""Words before a number that say what it is; also as part of a word."""
_PHONE_BEGINS = re.compile(
    r"\+(?:[ ().\-/]*\d){6}|\(\d{2,5}\)[ .\-]*\d|\d{3}([-. ])\d{3}\1\d{4}|(?<!\d)0(?:[- /]?\d){6}"
)
"""In all that `_PHONE_SHAPE` takes as a whole."""
_FICTION = re.compile(r"555[- .]?01\d\d$")


def _is_phone(seen: _Seen) -> bool:
    """Written as people write numbers, or after a word that says what it is; not one of those kept for films."""
    if _FICTION.search(seen.text):
        return False
    return seen.score >= _IN_CONTEXT or _PHONE_SHAPE.fullmatch(seen.text) is not None


def _may_be_phone(window: str) -> bool:
    """Whether something is written as people write numbers, or one of the words stands there that raise a score."""
    if _PHONE_BEGINS.search(window):
        return True
    lower = window.lower()
    return any(word in lower for word in PHONE_CONTEXT)


def _is_ssn(seen: _Seen) -> bool:
    return "-" in seen.text or seen.score < _THRESHOLD + 0.05 or seen.score >= _IN_CONTEXT


_LONG_NUMBER = re.compile(r"\d(?:[ ().\-/]{0,2}\d){6}")
_NUMBERS = frozenset({"CreditCard", "Phone", "UsSsn"})
"""Nothing of these where there is no such number."""
_NUMBER = r"(?<![\w.])[A-Z]{0,3}\d[\dA-Z./ -]{5,}"
_KINDS: dict[str, _Kind] = {
    "Email": _Kind(
        "EMAIL_ADDRESS",
        re.compile(r"@(?<=[\w!#$%&'*+/=?^`{|}~-]@)[\w-]+\.\w"),
        "EmailRecognizer",
        _is_email,
    ),
    "CreditCard": _Kind(
        "CREDIT_CARD",
        re.compile(r"\d(?<!\d\d)(?:[ -]?\d){11,18}(?!\d)"),
        "CreditCardRecognizer",
        _is_card,
    ),
    "Iban": _Kind(
        "IBAN_CODE",
        re.compile(r"\d(?<=[A-Za-z]{2}\d)(?<![A-Za-z0-9][A-Za-z]{2}\d)\d[ -]?[A-Za-z0-9]{4}[ -]?"),
        "IbanRecognizer",
    ),
    "UsSsn": _Kind(
        "US_SSN",
        re.compile(r"\d(?<![\w.-]\d)\d{2}[- .]?\d{2}[- .]?\d{4}(?![\w-])"),
        "UsSsnRecognizer",
        _is_ssn,
    ),
    "Phone": _Kind(
        "PHONE_NUMBER",
        re.compile(r"[\d+(](?<![\w.][\d+(])(?:(?<=\d)|(?<=[+(])\d)(?:[ ().\-/]{0,2}\d){6,14}(?!\w)"),
        "PhoneRecognizer",
        _is_phone,
        _may_be_phone,
    ),
    "IpAddress": _Kind(
        "IP_ADDRESS",
        re.compile(
            r"\.(?:(?<=[^\w.]\d\.)|(?<=[^\w.]\d{2}\.)|(?<=[^\w.]\d{3}\.)|(?<=^\d\.)|(?<=^\d{2}\.)|(?<=^\d{3}\.))"
            r"\d{1,3}\.\d{1,3}\.\d{1,3}(?![\w.]*\.\d)|:(?<=[0-9A-Fa-f]:)[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:.]"
        ),
        "IpRecognizer",
        _is_address,
    ),
    "CryptoWallet": _Kind(
        "CRYPTO", re.compile(r"[13b](?<!\w[13b])(?:(?<=b)c1|(?<=[13]))[A-Za-z0-9]{25,59}\b"), "CryptoRecognizer"
    ),
    "MacAddress": _Kind("MAC_ADDRESS", re.compile(r"[0-9A-Fa-f]{2,4}[:.-][0-9A-Fa-f]{2}"), "MacAddressRecognizer"),
    "Url": _Kind("URL", re.compile(r"://|www\."), "UrlRecognizer"),
    **{
        name: _Kind(presidio, re.compile(_NUMBER), recogniser)
        for name, presidio, recogniser in (
            ("AuTfn", "AU_TFN", "AuTfnRecognizer"),
            ("CaSin", "CA_SIN", "CaSinRecognizer"),
            ("DeTaxId", "DE_TAX_ID", "DeTaxIdRecognizer"),
            ("EsNif", "ES_NIF", "EsNifRecognizer"),
            ("FiPersonalIdentityCode", "FI_PERSONAL_IDENTITY_CODE", "FiPersonalIdentityCodeRecognizer"),
            ("InAadhaar", "IN_AADHAAR", "InAadhaarRecognizer"),
            ("PlPesel", "PL_PESEL", "PlPeselRecognizer"),
            ("SePersonnummer", "SE_PERSONNUMMER", "SePersonnummerRecognizer"),
            ("SgNric", "SG_NRIC_FIN", "SgFinRecognizer"),
            ("UkNhs", "UK_NHS", "NhsRecognizer"),
            ("UkNino", "UK_NINO", "UkNinoRecognizer"),
            ("UsItin", "US_ITIN", "UsItinRecognizer"),
            ("UsMbi", "US_MBI", "UsMbiRecognizer"),
            ("UsNpi", "US_NPI", "UsNpiRecognizer"),
        )
    },
    "ItFiscalCode": _Kind("IT_FISCAL_CODE", re.compile(r"(?i)\b[A-Z]{6}\d"), "ItFiscalCodeRecognizer"),
}


@contextmanager
def _without(*names: str) -> Iterator[None]:
    """Hide modules: spaCy and Presidio load these where they can, half a gigabyte and seconds for nothing here."""
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


def load() -> Any:
    """Import Presidio, which takes a second; returns what makes an engine of recognisers."""
    with _without("torch", "transformers"):
        from specop.data.analyser import analyser  # noqa: PLC0415 - only where there is something to see

    return analyser


class Recogniser:
    """Finds some kinds of entities."""

    def __init__(self, entities: list[str]) -> None:
        """`entities` are names of `api.privacy`; Secret is not known here."""
        self._kinds = {name: kind for name, kind in _KINDS.items() if name in entities}
        self._names = {kind.presidio: name for name, kind in self._kinds.items()}

    @cached_property
    def _engine(self) -> Any:
        return load()(kind.recogniser for kind in self._kinds.values())

    def find(self, text: str) -> Iterator[Found]:
        """Yield entities; they may overlap."""
        for start, end, names in self._windows(text):
            window = text[start:end]
            kinds = [self._kinds[name].presidio for name in names if self._kinds[name].possible(window)]
            if not kinds:
                continue
            for result in self._engine.analyze(window, "en", kinds, score_threshold=_THRESHOLD):
                name, first = self._names[result.entity_type], result.start
                if "(" in (value := window[first : result.end]) and ")" not in value:  # a whole number in brackets
                    first += value.index("(") + 1
                last = result.end
                seen = _Seen(
                    window[first:last], result.score, window[max(0, first - 2) : first], window[last : last + 2]
                )
                if self._kinds[name].check(seen):
                    yield Found(start + first, start + last, name)

    def _windows(self, text: str) -> Iterator[tuple[int, int, set[str]]]:
        """Yield stretches around anchors, with the kinds that they may hold."""
        long_number = _LONG_NUMBER.search(text) is not None
        spans = sorted(
            (match.start(), match.end(), name)
            for name, kind in self._kinds.items()
            if long_number or name not in _NUMBERS
            for match in kind.anchor.finditer(text)
        )
        start = end = -1
        names: set[str] = set()
        for first, last, name in spans:
            before, after = _outward(text, first, -1), _outward(text, last, 1)
            if before > end:
                if names:
                    yield start, end, names
                start, names = before, set()
            end = max(end, after)
            names.add(name)
        if names:
            yield start, end, names


def _outward(text: str, place: int, step: int) -> int:
    """Go `_MARGIN` characters away from a place, and on to a space if one is near."""
    place = min(max(place + step * _MARGIN, 0), len(text))
    for _ in range(_REACH):
        index = place - 1 if step < 0 else place
        if not 0 <= index < len(text) or text[index].isspace():
            break
        place += step
    return place
