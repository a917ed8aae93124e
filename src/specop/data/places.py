"""Where the tokens of a text stand in it: by what the tokenizer says, or, cheaper, by the bytes that each token is.

A byte-level tokenizer only cuts: its tokens, end to end, are the text's bytes. So places follow from lengths, and the
tokenizer need not keep offsets while it merges, which is a quarter of its time. Whether one only cuts is read off its
parts; a text of which something was left out (blanks around a token that takes them along) has lengths that do not add
up, and offsets are asked for. Both ways give the same spans.

Places are in characters. A token may hold some of a character's bytes; as offsets have it, it then reaches over the
whole character.
"""

import json
import unicodedata
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from tokenizers import Encoding, Tokenizer, decoders, models, normalizers

_CUTTING = frozenset({"ByteLevel", "Split", "Digits", "Punctuation", "UnicodeScripts"})
"""Pre-tokenizers that only cut, or leave out."""
_INSIDE = range(0x80, 0xC0)
"""Bytes with which no character begins."""
_NEVER = 1 << 40
"""A length that adds up to no text's."""


class Placed(Protocol):
    """A text as tokens."""

    @property
    def ids(self) -> list[int]:
        """Of the whole text."""
        ...

    def first_from(self, place: int, *, across: bool = False) -> int:
        """Index of the first token that begins at a place or behind it; with `across`, that ends behind it."""
        ...


class ByOffsets:
    """Places as the tokenizer tells them; characters that no token covers (it took them out) are passed over."""

    def __init__(self, encoded: Encoding, length: int) -> None:
        """Take a text of so many characters."""
        self._encoded, self._length = encoded, length

    @property
    def ids(self) -> list[int]:
        """Of the whole text."""
        found: list[int] = self._encoded.ids
        return found

    def first_from(self, place: int, *, across: bool = False) -> int:
        """As `Placed.first_from`."""
        while place < self._length:
            token: int | None = self._encoded.char_to_token(place)
            if token is None:
                place += 1
                continue
            covered = self._encoded.token_to_chars(token)
            if across or covered is None or covered[0] >= place:
                return token
            place = covered[1]
        return len(self._encoded)


class ByBytes:
    """Places by how many bytes each token is."""

    def __init__(self, text: str, data: bytes, ids: list[int], ends: np.ndarray) -> None:
        """Take a text, its UTF-8, its tokens, and behind which byte each of them ends."""
        self.ids = ids
        self._text, self._data, self._ends = text, data, ends

    def first_from(self, place: int, *, across: bool = False) -> int:
        """As `Placed.first_from`."""
        data = self._data
        at = place if len(data) == len(self._text) else len(self._text[:place].encode())
        while at < len(data):
            token = int(self._ends.searchsorted(at, side="right"))
            if across or at == (self._ends[token - 1] if token else 0):
                return token
            at = int(self._ends[token])
            while at < len(data) and data[at] in _INSIDE:
                at += 1
        return len(self.ids)


class Lengths:
    """How many bytes each token of a byte-level tokenizer is."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Measure the tokens of one that `only_cuts`."""
        added = tokenizer.get_added_tokens_decoder()
        lengths = np.zeros(1 + max(*added, *tokenizer.get_vocab(with_added_tokens=False).values()), np.int64)
        for token, index in tokenizer.get_vocab(with_added_tokens=False).items():
            lengths[index] = len(token)  # one character stands for each byte
        for index, special in added.items():
            lengths[index] = len(special.content.encode())
        if (unknown := tokenizer.model.unk_token) is not None:  # stands for a byte that has no token
            lengths[tokenizer.token_to_id(unknown)] = _NEVER
        self._lengths = lengths
        self._normalizes = tokenizer.normalizer is not None

    def place(self, text: str, encoded: Encoding) -> ByBytes | None:
        """Place the tokens of a text; None: by bytes they cannot be."""
        if self._normalizes and not unicodedata.is_normalized("NFC", text):
            return None
        data, ids = text.encode(), encoded.ids
        ends = self._lengths[np.array(ids, np.int64)].cumsum()
        return ByBytes(text, data, ids, ends) if (ends[-1] if ids else 0) == len(data) else None


def lengths_of(tokenizer: Tokenizer) -> Lengths | None:
    """Return the lengths of the tokens of a tokenizer that only cuts."""
    model, normalizer = tokenizer.model, tokenizer.normalizer
    parts = list(_parts(tokenizer.pre_tokenizer))
    cuts = (
        isinstance(model, models.BPE)
        and not (model.continuing_subword_prefix or model.end_of_word_suffix or model.byte_fallback)
        and isinstance(tokenizer.decoder, decoders.ByteLevel)
        and any(part["type"] == "ByteLevel" for part in parts)
        and all(part["type"] in _CUTTING and not part.get("add_prefix_space") for part in parts)
        and (normalizer is None or isinstance(normalizer, normalizers.NFC))
        and all(unicodedata.is_normalized("NFC", of.content) for of in tokenizer.get_added_tokens_decoder().values())
    )
    return Lengths(tokenizer) if cuts else None


def _parts(pre_tokenizer: Any) -> Iterator[dict[str, Any]]:
    if pre_tokenizer is not None:
        state = json.loads(pre_tokenizer.__getstate__())
        yield from state["pretokenizers"] if state["type"] == "Sequence" else [state]
