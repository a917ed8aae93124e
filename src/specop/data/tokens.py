"""The target's tokenizer and template, loaded from its files."""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

import jinja2
from tokenizers import Encoding, Tokenizer, processors

from specop.api import reasons
from specop.common.errors import UserError
from specop.data.formats import Json
from specop.data.places import ByOffsets, Placed, lengths_of
from specop.data.template import ChatTemplate

os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")


class TargetText:
    """How the target turns conversations into tokens."""

    def __init__(self, folder: Path) -> None:
        """Load from a folder that holds the target's small files.

        Raises UserError: TargetWithoutTokenizer, TargetWithoutChatTemplate.
        """
        config = _json(folder / "tokenizer_config.json")
        try:
            self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the library raises nothing narrower
            raise UserError(
                reasons.TARGET_WITHOUT_TOKENIZER, "The target's tokenizer.json cannot be read: save it anew."
            ) from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        # The template writes the special tokens itself, and a byte-level one would trim spaces off the offsets.
        self._tokenizer.post_processor = processors.Sequence([])
        self._lengths = lengths_of(self._tokenizer)
        special = _special_tokens({**_json(folder / "special_tokens_map.json"), **config})
        self.template = _template(folder / "chat_template.jinja", config, special)
        self.vocab_size: int = self._tokenizer.get_vocab_size()
        self.end_of_turn = _one_of(self._end_tokens(folder, special))
        """Matches a token that ends a generation, in group 1, and the whitespace before it."""

    def encode(self, texts: list[str]) -> list[Placed]:
        """Tokenise, without adding anything, in order."""
        if self._lengths is None:
            return list(map(self._by_offsets, texts, self._tokenizer.encode_batch(texts, add_special_tokens=False)))
        encoded = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)  # without offsets
        return [self._lengths.place(*pair) or self._by_offsets(pair[0]) for pair in zip(texts, encoded, strict=True)]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, without special tokens."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def _by_offsets(self, text: str, encoded: Encoding | None = None) -> Placed:
        return ByOffsets(encoded or self._tokenizer.encode(text, add_special_tokens=False), len(text))

    def _end_tokens(self, folder: Path, special: dict[str, str]) -> frozenset[str]:
        ids: set[int] = set()
        for name in ("generation_config.json", "config.json"):
            found = _json(folder / name).get("eos_token_id")
            ids.update(found if isinstance(found, list) else [] if found is None else [found])
        texts = {self._tokenizer.id_to_token(index) for index in ids}
        return frozenset(text for text in (*texts, special.get("eos_token")) if text)


def _template(path: Path, config: Json, special: dict[str, str]) -> ChatTemplate:
    source = path.read_text(encoding="utf-8") if path.exists() else config.get("chat_template")
    if isinstance(source, list):  # named ones
        named = [item for item in source if isinstance(item, dict)]
        source = {item.get("name"): item["template"] for item in named if isinstance(item.get("template"), str)}
    if not source or not isinstance(source, str | dict):
        raise UserError(
            reasons.TARGET_WITHOUT_CHAT_TEMPLATE,
            "The target has neither chat_template.jinja nor a chat_template in tokenizer_config.json: rows are made by "
            "it. Put the template beside the tokenizer.",
        )
    try:
        return ChatTemplate(source, special)
    except jinja2.TemplateSyntaxError as error:
        raise UserError(
            reasons.TARGET_WITHOUT_CHAT_TEMPLATE, f"The target's chat template is not valid, line {error.lineno}."
        ) from error


def _special_tokens(config: Json) -> dict[str, str]:
    found = {name: value for name, value in config.items() if name.endswith("_token")}
    texts = {name: value.get("content") if isinstance(value, dict) else value for name, value in found.items()}
    return {name: text for name, text in texts.items() if isinstance(text, str)}


def _one_of(tokens: frozenset[str]) -> re.Pattern[str]:
    longest_first = sorted(tokens, key=len, reverse=True)
    return re.compile(rf"\s*({'|'.join(map(re.escape, longest_first)) or '(?!)'})")


def _json(path: Path) -> Json:
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(
            reasons.TARGET_UNSUPPORTED, f"The target's {path.name} is not JSON: save the model anew."
        ) from error
    return value if isinstance(value, dict) else {}
