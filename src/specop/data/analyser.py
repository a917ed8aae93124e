"""Presidio as it is used here: predefined recognisers on a blank pipeline, without network, model or log.

Imported only where something is to be looked at: Presidio and spaCy take seconds to load. The pipeline is spaCy's blank
English one: tokens for the recognisers' context words, no model, nothing that is downloaded. The list of domains is the
bundled one. The log is silenced, because some of its messages quote what is looked at.
"""

import logging
from collections.abc import Iterable
from functools import cache, cached_property
from typing import Any

import spacy
import tldextract
from presidio_analyzer import AnalyzerEngine, RecognizerRegistry, predefined_recognizers
from presidio_analyzer.nlp_engine import NlpArtifacts, SpacyNlpEngine

from specop.data.recognise import PHONE_CONTEXT

LANGUAGE = "en"
_INTERNAL = ("corp", "home", "internal", "intranet", "lan", "local", "localdomain", "private")
_OPTIONS: dict[str, dict[str, Any]] = {
    "PhoneRecognizer": {
        "context": list(PHONE_CONTEXT),
        "supported_regions": ("US", "GB", "DE", "FR", "IL", "IN", "BR"),
    }
}

for _name in ("presidio-analyzer", "presidio_analyzer", "tldextract"):
    logging.getLogger(_name).setLevel(logging.CRITICAL + 1)


class _Email(predefined_recognizers.EmailRecognizer):  # type: ignore[misc]
    """Asks the bundled list of public suffixes, where Presidio's own would ask the network."""

    def validate_result(self, pattern_text: str) -> bool:
        return bool(_domains()(pattern_text).fqdn)


@cache
def _domains() -> Any:
    return tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None, extra_suffixes=_INTERNAL)


class _Words(NlpArtifacts):  # type: ignore[misc]
    """Words of a text, cut when somebody asks: most texts hold nothing whose score depends on the words around it."""

    def __init__(self, text: str, engine: SpacyNlpEngine) -> None:
        self._text, self.nlp_engine = text, engine
        self.entities: list[Any] = []
        self.scores: list[float] = []

    @cached_property
    def tokens(self) -> Any:
        return self.nlp_engine.nlp[LANGUAGE](self._text)

    @cached_property
    def tokens_indices(self) -> list[int]:
        return [token.idx for token in self.tokens]

    @cached_property
    def lemmas(self) -> list[str]:
        return [token.lower_ for token in self.tokens]  # a blank pipeline leaves lemmas empty

    @cached_property
    def keywords(self) -> list[str]:
        found: list[str] = self.set_keywords(self.nlp_engine, self.lemmas, LANGUAGE)
        return found


class _BlankPipeline(SpacyNlpEngine):  # type: ignore[misc]
    """Tokens and nothing else."""

    def load(self) -> None:
        self.nlp = {LANGUAGE: spacy.blank(LANGUAGE)}

    def process_text(self, text: str, _: str) -> _Words:
        return _Words(text, self)


def analyser(recognisers: Iterable[str]) -> Any:
    """Return Presidio's AnalyzerEngine with these of its recognisers, by name of class; at least one."""
    made = [
        _Email(supported_language=LANGUAGE)
        if name == "EmailRecognizer"
        else getattr(predefined_recognizers, name)(supported_language=LANGUAGE, **_OPTIONS.get(name, {}))
        for name in recognisers
    ]
    registry = RecognizerRegistry(made, supported_languages=[LANGUAGE])
    return AnalyzerEngine(registry, _BlankPipeline(), supported_languages=[LANGUAGE])
