"""Which language a conversation is written in, where that is certain: `quality.languages`.

Judged is prose alone: the answer's, and with an answer of few words the last question's too. Code, JSON, addresses and
what a model thought to itself say nothing about the language. A conversation is left out only where py3langid is sure
of another language and all but rules the wanted ones out; what is too short, of close kin (Galician where Portuguese is
wanted) or no language at all stays, and is counted as `unknown`.

Pure; one text has one language in every process. Probabilities are sums of 32-bit floats, so that another kind of
processor might differ in the sixth digit, and a text that lies on a bound to that digit fall otherwise there.
"""

import re
from collections.abc import Sequence
from functools import cache
from typing import Final

import regex
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from specop.data.formats import Exchange, Fate, Unusable, flat_content

UNKNOWN: Final = "unknown"
SURE = 0.5
"""Probability from which on a text is of a language."""
RULED_OUT = 0.05
"""Probability of all wanted languages together under which it is of none of them."""
ENOUGH = 40
"""Bytes of UTF-8 that are judged at all: 40 letters in Latin script, 13 in Chinese."""
MOST = 1000
"""Characters that are looked at: further ones change nothing, and cost."""
_MEMBERS = {"ary": "ar", "arz": "ar", "ltg": "lv", "sdh": "ku", "uzs": "uz", "wuu": "zh", "yue": "zh"}
"""Languages that ISO 639-3 counts to another, which users mean by its code."""
_NO_LANGUAGE = "zxx"
_NO_PROSE = re.compile(
    r"""(?:```|~~~).*?(?:```|~~~|\Z) | `[^`\n]*`            # code, fenced and inline
    | </?[A-Za-z!][^<>\n]*> | \b\w+://\S+ | \S{1,64}@\S+  # tags, addresses
    | \b\w*_\w+ | \b[a-z]+[A-Z]\w*                       # snake_case, camelCase
    """,
    re.DOTALL | re.VERBOSE,
)
_JSON = re.compile(r"\s*(?:\{|\[\s*[\[{\"])")
_CODE = re.compile(
    r"""[{}\\]\s*$ | [A-Za-z0-9_)\]"'];\s*$ | \w\([^()]*\)\s*$ | ^\s*[a-z].*[:([]\s*$  # ends of lines
    | [-=!<>+*/|&:]= | [-=]> | :: | && | \|\| | \s=\s | \w=\w  # operators
    | ^\s*(?://|\$\s|>>>|[@#]\w)  # comments, prompts, decorators
    | ^\s*(?:import|from|return|package|use|using|SELECT|FROM|WHERE)\s\S+$
    | ^\s*(["'])[^"']*\1\s*:  # keys of objects
    | ^\s*(?:import\s\S+\sas|from\s\S+\simport)\s
    """,
    re.VERBOSE,
)
_LETTERS = regex.compile(r"[\p{L}\p{M}]+")


class Languages:
    """Tells languages apart for one list of wanted ones."""

    def __init__(self, wanted: Sequence[str]) -> None:
        self._wanted = frozenset(wanted)
        self._model = _model()

    def of(self, exchange: Exchange) -> str:
        """Name the wanted language that an exchange is written in, or `unknown`.

        Raises Unusable where it is certain that it is none of them.
        """
        text = prose(exchange.text or flat_content(exchange.answer))
        if _says_little(text):
            text = f"{prose(_question(exchange))}\n{text}".strip()
        if _says_little(text):
            return UNKNOWN
        found: dict[str, float] = {}
        for label, probability in self._model.rank(text):
            code = _MEMBERS.get(label, label)
            found[code] = found.get(code, 0.0) + probability
        likeliest = max(found, key=found.__getitem__)
        if found[likeliest] < SURE or likeliest == _NO_LANGUAGE:
            return UNKNOWN
        if likeliest in self._wanted:
            return likeliest
        if sum(found[code] for code in self._wanted) >= RULED_OUT:
            return UNKNOWN
        raise Unusable(Fate.UNFIT, f"written in {likeliest}, which is not among quality.languages")


def prose(text: str) -> str:
    """Return what of a text is natural language, up to `MOST` characters; none where a fifth of its lines is code."""
    if _JSON.match(text):
        return ""
    kept, code, size = [], 0, 0
    for line in _NO_PROSE.sub(" ", text[: 4 * MOST]).splitlines():
        if not line.strip():
            continue
        if _CODE.search(line):
            code += 1
        elif 3 * sum(map(len, _LETTERS.findall(line))) >= 2 * len("".join(line.split())):
            kept.append(line)
            size += len(line)
        if size >= MOST:
            break
    return "" if 4 * code > len(kept) else "\n".join(kept)[:MOST]


@cache
def _model() -> LanguageIdentifier:
    """Load the model once a process: 75 MB. Reading it changes nothing, so that threads may share it."""
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def _says_little(text: str) -> bool:
    return len(text.encode()) < ENOUGH


def _question(exchange: Exchange) -> str:
    """Text of the last user turn."""
    turns = (message for message in reversed(exchange.request["messages"]) if message["role"] == "user")
    return next(map(flat_content, turns), "")
