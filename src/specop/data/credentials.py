"""Secrets and API keys in text: what has a shape of its own, and what stands behind a name such as `password`.

Not Presidio's, which knows no keys. Shapes are those that issuers publish. A value behind a name must look like a
secret (letters and digits, not a word, not an expression), because code is full of `password=get_password()`.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator

Span = tuple[int, int]

_SHAPES = re.compile(
    r"""(?x)
    -----BEGIN\ (?:[A-Z0-9]+\ )*PRIVATE\ KEY(?:\ BLOCK)?-----
        (?: (?:(?!-----BEGIN)[\s\S]){0,16384}?-----END\ (?:[A-Z0-9]+\ )*PRIVATE\ KEY(?:\ BLOCK)?-----
          | (?:\\n|[\sA-Za-z0-9+/=:,-])*)                                  # cut off
    | \b(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}\b                              # AWS
    | \bgh[pousr]_[A-Za-z0-9]{36,255}\b | \bgithub_pat_[A-Za-z0-9_]{22,255}\b
    | \bglpat-[\w-]{20,}
    | \bxox[abeoprs]-[A-Za-z0-9-]{10,} | \bxapp-\d-[A-Za-z0-9-]{10,}        # Slack
    | hooks\.slack\.com/services/[A-Za-z0-9_/]{20,}
    | \bAIza[0-9A-Za-z_-]{35} | \bGOCSPX-[\w-]{20,} | \bya29\.[\w-]{20,}    # Google
    | \b[rsp]k_(?:live|test)_[A-Za-z0-9]{16,} | \bwhsec_[A-Za-z0-9]{24,}    # Stripe
    | \bhf_[A-Za-z0-9]{30,}\b | \bnpm_[A-Za-z0-9]{36}\b | \bpypi-[\w-]{50,}
    | \bSG\.[\w-]{16,32}\.[\w-]{32,64}                                      # SendGrid
    | \beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,}                               # JWT
    """
)
_MIXED = re.compile(r"\bsk-[A-Za-z0-9_-]{20,}")
"""OpenAI's and those of many after it; style sheets have classes that begin so, too."""
_NAME = (
    r"(?:pass(?:word|wd|phrase)|pwd|secret|api[ _-]?key|access[ _-]?key|account[ _-]?key|private[ _-]?key|"
    r"(?:auth|access|refresh|bearer|session|api|id|bot)[ _-]?token|credential|auth(?:orization)?(?![A-Za-z]))"
)
_NAMED = re.compile(
    rf"""(?ix)
    {_NAME}s?[\w-]{{0,32}}\\?["'`]? \s{{0,4}} (?:=>|:=|==?|:|\ is\b|,(?=\s*\\?["'`])) \s{{0,4}} \\?["'`]?
    (?:(?:bearer|basic|token)\s+)?
    ([^\s"'`\\,;(){{}}\[\]<>]{{8,4096}})
    | \bbearer\s+([A-Za-z0-9._~+/=-]{{16,4096}})
    | \btokens?["'`]?\s*[:=]\s*["'`]?([A-Za-z0-9._~+/=-]{{20,4096}})
    | ://[^\s:/@"'<>]{{0,256}}:([^\s@/"'<>]{{1,256}})@
    """
)
_URL_PASSWORD = 4
_EXPRESSION = re.compile(
    r"^[\w$]+(?:(?:\.|::|->)[A-Za-z_$]\w*)+[;,.]?$|^[$%&*!#@]?[A-Z][A-Z0-9_]*$|^\$|^%|[*.]{3}"
    r"|^\d{4}-\d\d-\d\dT"
)
_SHAPE_ANCHORS = (
    "-----begin",
    "akia",
    "asia",
    "abia",
    "acca",
    "ghp_",
    "gho_",
    "ghu_",
    "ghs_",
    "ghr_",
    "github_pat",
    "glpat-",
    "xox",
    "xapp-",
    "hooks.slack",
    "aiza",
    "gocspx",
    "ya29",
    "_live",
    "_test",
    "whsec",
    "hf_",
    "npm_",
    "pypi-",
    "sg.",
    "eyj",
)
_NAME_ANCHORS = (
    "pass",
    "pwd",
    "secret",
    "api",
    "access",
    "account",
    "private",
    "auth",
    "refresh",
    "bearer",
    "session",
    "id",
    "bot",
    "token",
    "credential",
    "://",
)
"""Where names and shapes begin, in lower case: looking for these words is what a text without secrets costs."""
_LEAST_BITS = 2.75
"""Shannon entropy a character: eight different ones have 3."""


def find_credentials(text: str) -> Iterator[Span]:
    """Yield the places of secrets; they may overlap."""
    lower = text.lower()
    if any(anchor in lower for anchor in _SHAPE_ANCHORS):
        yield from (match.span() for match in _SHAPES.finditer(text))
    if "sk-" in lower:
        yield from (match.span() for match in _MIXED.finditer(text) if looks_secret(match[0]))
    for match in _named(text, lower):
        group = match.lastindex or 1
        if group == _URL_PASSWORD or looks_secret(match[group]):
            yield match.span(group)


def _named(text: str, lower: str) -> Iterator[re.Match[str]]:
    if len(lower) != len(text):  # a letter whose small form is two: places differ
        yield from _NAMED.finditer(text)
        return
    for anchor in _NAME_ANCHORS:
        place = lower.find(anchor)
        while place >= 0:
            if match := _NAMED.match(text, place):
                yield match
            place = lower.find(anchor, place + 1)


def looks_secret(value: str) -> bool:
    """Whether a value is mixed enough for a secret and no expression of a programming language."""
    if len(value) < 8 or _EXPRESSION.search(value):  # noqa: PLR2004 - the shortest password that is taken for one
        return False
    if not re.search(r"[A-Za-z]", value) or not re.search(r"\d", value):
        return False
    counts = Counter(value).values()
    bits = -sum(count / len(value) * math.log2(count / len(value)) for count in counts)
    return bits >= _LEAST_BITS
