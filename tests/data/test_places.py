"""Places by bytes are those by offsets, whatever the text, for tokenizers that only cut; the others are told apart."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from specop.data.places import ByOffsets, Lengths, lengths_of

TEXTS = st.text("ab€ \n🙂ü\u0301<|end|>", max_size=14)


def byte_level(
    *merges: tuple[str, str],
    normalizer: normalizers.Normalizer | None = None,
    added: AddedToken | None = None,
    without: str = "",
    unknown: str | None = None,
) -> Tokenizer:
    """Make a tokenizer with some merges, and without some bytes."""
    tokens = [*sorted({*pre_tokenizers.ByteLevel.alphabet()} - {*without}), *("".join(pair) for pair in merges)]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges), unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.add_special_tokens([added or AddedToken("<|end|>", normalized=False)])
    return tokenizer


EURO = ("â", "Ĥ")  # the first two bytes of three
CUTTING = {
    "bytes": byte_level(),
    "parts of characters": byte_level(EURO, ("b", "â"), ("¬", "a"), ("Ġ", "a")),
    "NFC": byte_level(("a", "b"), normalizer=normalizers.NFC()),
    "a byte is left out": byte_level(without="b"),
    "a byte is unknown": byte_level(("Ġ", "a"), without="b", unknown="a"),
    "a token that takes blanks along": byte_level(added=AddedToken("<|end|>", lstrip=True, rstrip=True)),
}


@pytest.mark.parametrize("name", CUTTING)
@given(text=TEXTS)
def test_both_ways_agree(name: str, text: str) -> None:
    tokenizer = CUTTING[name]
    lengths = lengths_of(tokenizer)
    assert lengths is not None
    (fast,) = tokenizer.encode_batch_fast([text], add_special_tokens=False)
    slow = ByOffsets(tokenizer.encode(text, add_special_tokens=False), len(text))
    assert fast.ids == slow.ids
    placed = lengths.place(text, fast)
    if placed is None:
        assert name not in {"bytes", "parts of characters"}
        return
    for place in range(len(text) + 1):
        for across in (False, True):
            assert placed.first_from(place, across=across) == slow.first_from(place, across=across)


def test_what_was_left_out_is_noticed() -> None:
    tokenizer = CUTTING["a token that takes blanks along"]
    lengths = Lengths(tokenizer)
    assert lengths.place("a <|end|>", tokenizer.encode("a <|end|>")) is None
    assert lengths.place("a<|end|>", tokenizer.encode("a<|end|>")) is not None
    composed = Lengths(CUTTING["NFC"])
    assert composed.place("u\u0308", CUTTING["NFC"].encode("u\u0308")) is None


def lower(tokenizer: Tokenizer) -> None:
    tokenizer.normalizer = normalizers.Lowercase()


def spaced(tokenizer: Tokenizer) -> None:
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)


def sentences(tokenizer: Tokenizer) -> None:
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()


def words(tokenizer: Tokenizer) -> None:
    tokenizer.model = models.WordLevel({"a": 0}, unk_token="a")


def suffixed(tokenizer: Tokenizer) -> None:
    tokenizer.model = models.BPE(vocab=tokenizer.get_vocab(), merges=[], end_of_word_suffix="</w>")


def decomposed(tokenizer: Tokenizer) -> None:
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_special_tokens([AddedToken("u\u0308")])


@pytest.mark.parametrize("change", [lower, spaced, sentences, words, suffixed, decomposed])
def test_one_that_does_more_is_told(change: Callable[[Tokenizer], None]) -> None:
    tokenizer = byte_level()
    assert lengths_of(tokenizer) is not None
    change(tokenizer)
    assert lengths_of(tokenizer) is None
