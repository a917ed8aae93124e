"""What stands where personal data was: its name in brackets, or another of its kind.

A surrogate has the shape of what it replaces (length, separators, country, check digits), so that a row stays the text
that the target would see; it is drawn by an HMAC of the value under a secret key, so that it is the same throughout one
scope, another in the next, and says nothing to whoever lacks the key. Where somebody could own the surrogate, it comes
from what is set aside for examples (RFC 2606 and 5737, 555-01xx, areas of social security that are never issued).
"""

import hashlib
import hmac
import random
import re
import string
from functools import cache

from faker import Faker

LEAST_KEY = 16
"""Bytes."""
_LUHN_NINE = 9
_EMAIL_DOMAINS = ("example.com", "example.org", "example.net")


def mask(entity: str) -> str:
    """Return the name of an entity as it stands in a text: `UsSsn` becomes `[US_SSN]`."""
    return f"[{re.sub(r'(?<=[a-z])(?=[A-Z])', '_', entity).upper()}]"


class Surrogates:
    """Draws surrogates under one key."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def draw(self, entity: str, value: str, scope: bytes) -> str:
        """Return the surrogate of a value within a scope."""
        same = re.sub(r"[\s().\-]", "", value).lower() if entity != "Secret" else value
        message = b"\0".join((scope, entity.encode(), same.encode(errors="surrogatepass")))
        seed = hmac.digest(self._key, message, "sha256")
        chance = random.Random(seed)  # noqa: S311 - the seed is the secret
        for _ in range(8):
            drawn = _DRAWN.get(entity, _shaped)(value, chance)
            if drawn != value:
                break
        return drawn


def _shaped(value: str, chance: random.Random) -> str:
    """Other letters and digits of the same kinds; a known prefix of a key (`sk-proj-`, `ghp_`) stays."""
    if value.startswith("-----BEGIN"):
        head, _, rest = value[5:].partition("-----")
        body, end, tail = rest.partition("-----END")
        return f"-----{head}-----{_others(body, chance)}{end}{tail}"
    prefix = re.match(r"(?:[a-z]{2,8}[-_](?:[a-z]{2,8}[-_])?|AKIA|ASIA|AIza|eyJ)?", value)
    kept = prefix[0] if prefix else ""
    return kept + _others(value[len(kept) :], chance)


def _others(text: str, chance: random.Random) -> str:
    def other(letter: str) -> str:
        for kind in (string.digits, string.ascii_lowercase, string.ascii_uppercase):
            if letter in kind:
                return chance.choice(kind)
        return letter

    return "".join(map(other, text))


def _email(_: str, chance: random.Random) -> str:
    people = _people()
    people.seed_instance(chance.getrandbits(64))
    name = f"{people.first_name()}.{people.last_name()}".lower()
    return f"{re.sub(r'[^a-z.]', '', name)}{chance.randrange(100)}@{chance.choice(_EMAIL_DOMAINS)}"


@cache
def _people() -> Faker:
    return Faker("en_US")


def _digits(value: str, digits: str) -> str:
    """Put other digits into the places of a value's own."""
    fresh = iter(digits)
    return re.sub(r"\d", lambda _: next(fresh), value)


def _card(value: str, chance: random.Random) -> str:
    own = re.sub(r"\D", "", value)
    body = own[:4] + "".join(chance.choice(string.digits) for _ in own[4:-1])
    return _digits(value, body + str(-_luhn(body + "0") % 10))


def _luhn(digits: str) -> int:
    doubled = (int(digit) * (1 + index % 2) for index, digit in enumerate(reversed(digits)))
    return sum(number - _LUHN_NINE if number > _LUHN_NINE else number for number in doubled)


def _iban(value: str, chance: random.Random) -> str:
    own = re.sub(r"[\s-]", "", value).upper()
    body = _others(own[4:], chance)
    check = 98 - int("".join(str(int(letter, 36)) for letter in body + own[:2] + "00")) % 97
    fresh = iter(f"{own[:2]}{check:02d}{body}")
    return re.sub(r"[A-Za-z0-9]", lambda _: next(fresh), value)


def _phone(value: str, chance: random.Random) -> str:
    own = re.sub(r"\D", "", value)
    american = re.match(r"1?[2-9]\d{9}$", own) and ("+" not in value or own.startswith("1"))
    if american:
        return _digits(value, f"{own[:-7]}55501{chance.randrange(100):02d}")
    kept = min(4 if "+" in value else 3, len(own) - 4)
    return _digits(value, own[:kept] + "".join(chance.choice(string.digits) for _ in own[kept:]))


def _address(value: str, chance: random.Random) -> str:
    _, slash, width = value.partition("/")
    if ":" in value:
        groups = ":".join(f"{chance.randrange(1, 1 << 16):x}" for _ in range(6))
        return f"2001:db8:{groups}{slash}{width}"
    net = chance.choice(("192.0.2", "198.51.100", "203.0.113"))
    return f"{net}.{chance.randrange(1, 255)}{slash}{width}"


def _ssn(value: str, chance: random.Random) -> str:
    return _digits(value, f"9{chance.randrange(100):02d}{chance.randrange(1, 50):02d}{chance.randrange(1, 10_000):04d}")


_DRAWN = {
    "Email": _email,
    "CreditCard": _card,
    "Iban": _iban,
    "Phone": _phone,
    "IpAddress": _address,
    "UsSsn": _ssn,
}


def fingerprint(key: bytes) -> str:
    """Name a key without giving it away: part of a dataset's recipe, for surrogates follow from it."""
    return hashlib.sha256(b"specop.privacy\0" + key).hexdigest()[:16]
