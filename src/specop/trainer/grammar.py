"""Grammars: which tokens an engine allowed at each label of a row, by the engine's own grammar library.

An engine that answers under a grammar (`response_format`, a tool that must be called) masks the target's logits before
it samples and before it verifies drafts: its distribution is the target's over the allowed tokens, renormalised. Rows
say which grammar was in force where JSON schema can say it (`Row.grammar`); each distinct one is compiled once. Where
it cannot be compiled, or the text does not follow it (reasoning before the answer, another library), the grammar counts
as unknown. It is in force in the row's last span only: earlier turns are of other requests.

Masks are bits, 32 tokens a word. Equal ones are kept once, compressed: most allow a single token, or nearly all. So a
row keeps 4 bytes a label, and words of a pack's masks live as long as the pack; nothing is of the size of tokens times
vocabulary.

Not here: what a mask does to a distribution (`losses.py`, `evaluate.py`, `teacher.py` apply it block by block).
"""

import json
import logging
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import xgrammar
from torch import Tensor
from transformers import AutoTokenizer, GenerationConfig

from specop.trainer.batches import FREE, WORD, Row

log = logging.getLogger(__name__)

Constrained = Literal["Unmasked", "Masked", "Served"]


def taught(rows: Sequence[Row], mode: Constrained) -> list[Row]:
    """Rows as the trainer learns from them: at temperature 1, with the grammars that the mode wants.

    A row that stays constrained without a grammar is taught by its served tokens alone.
    """
    rows = [replace(row, temperature=1.0) for row in rows]  # soft labels: drafts follow any temperature then
    if mode == "Masked":
        return rows
    return [replace(row, grammar=None, constrained=row.constrained and mode == "Served") for row in rows]


class Grammars:
    """Grammars of one target's tokens."""

    def __init__(self, folder: Path, vocab_size: int) -> None:
        """`folder`: the target's, with its tokenizer; `vocab_size`: rows of its head."""
        self._folder = folder
        self._words = -(-vocab_size // WORD)
        self._vocab_size = vocab_size
        self._numbers: dict[bytes, int] = {}
        self._distinct: list[bytes] = []
        self._grammars: dict[str, xgrammar.CompiledGrammar | None] = {}
        self._rows: dict[tuple[str, str], np.ndarray] = {}

    def known(self, rows: Sequence[Row], before_each: Callable[[], None] = lambda: None) -> list[Row]:
        """Return the rows, without a grammar where it is not known; `before_each` may raise to stop."""
        found, lost = [], 0
        for row in rows:
            if row.grammar is not None:
                before_each()
                if not self._follow(row, row.grammar):
                    found.append(replace(row, grammar=None))
                    lost += 1
                    continue
            found.append(row)
        if any(row.grammar for row in rows):
            log.info(
                "grammars: %d rows, %d distinct masks; %d rows do not follow theirs",
                len(rows),
                len(self._distinct),
                lost,
            )
        return found

    def masks(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
        """Return the masks of the labels of step 0 of rows out of `known`, as `Pack` has them: mask_A and words_MW."""
        parts = [np.full(row.labels(1)[0], FREE, np.int32) for row in rows]
        for row, part in zip(rows, parts, strict=True):
            if row.grammar is not None:
                mine = self._rows[row.key, row.grammar]
                part[len(part) - len(mine) :] = mine
        distinct_M, index_A = np.unique(np.concatenate(parts), return_inverse=True)
        free = int(distinct_M[0] == FREE)
        words = b"".join(zlib.decompress(self._distinct[mask]) for mask in distinct_M[free:])
        words_MW = torch.from_numpy(np.frombuffer(bytearray(words), np.int32).reshape(-1, self._words))
        return torch.from_numpy(index_A.astype(np.int64) - free), words_MW

    def _follow(self, row: Row, grammar: str) -> bool:
        """Remember the masks of a row's last span; False where its grammar is not known."""
        compiled = self._compiled(grammar)
        if compiled is None or not row.anchors:
            return False
        start, end = row.spans[-1]
        if row.anchors[-1] != (max(start - 1, 0), end - 2):
            return False  # too short to have a label
        matcher = xgrammar.GrammarMatcher(compiled, override_stop_tokens=self._stop_tokens)
        words_1W = xgrammar.allocate_token_bitmask(1, self._vocab_size)
        indices = []
        for position in range(start, end):
            if matcher.is_terminated():
                return False
            if position > max(start, 1):  # the first token of a span is never drafted
                matcher.fill_next_token_bitmask(words_1W)
                indices.append(self._number(words_1W.numpy().tobytes()))
            if not matcher.accept_token(row.ids[position]):
                return False
        self._rows[row.key, grammar] = np.array(indices, np.int32)
        return True

    def _number(self, words: bytes) -> int:
        """Return the number of a mask, which is kept compressed."""
        compressed = zlib.compress(words, 1)
        if compressed not in self._numbers:
            self._numbers[compressed] = len(self._distinct)
            self._distinct.append(compressed)
        return self._numbers[compressed]

    def _compiled(self, grammar: str) -> xgrammar.CompiledGrammar | None:
        """Compile a grammar as the engine does, once; None where that fails."""
        if grammar not in self._grammars:
            stated = json.loads(grammar)
            schema = {"type": "object"} if stated.get("jsonObject") else stated.get("jsonSchema")
            try:
                self._grammars[grammar] = self._compiler.compile_json_schema(json.dumps(schema))
            except RuntimeError:  # what it says quotes the schema
                log.warning("a grammar of the dataset cannot be compiled and counts as unknown")
                self._grammars[grammar] = None
        return self._grammars[grammar]

    @cached_property
    def _compiler(self) -> xgrammar.GrammarCompiler:
        tokenizer = AutoTokenizer.from_pretrained(self._folder, trust_remote_code=False)
        tokens = xgrammar.TokenizerInfo.from_huggingface(
            tokenizer, vocab_size=self._vocab_size, stop_token_ids=self._stop_tokens
        )
        return xgrammar.GrammarCompiler(tokens)

    @cached_property
    def _stop_tokens(self) -> list[int]:
        """What ends an answer: what the generation configuration says, else the tokenizer."""
        try:
            found = GenerationConfig.from_pretrained(self._folder).eos_token_id
        except OSError:
            found = None
        if found is None:
            found = AutoTokenizer.from_pretrained(self._folder, trust_remote_code=False).eos_token_id
        return [found] if isinstance(found, int) else list(found)
