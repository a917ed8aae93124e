"""Which conversations a dataset does without: `spec.quality` and `spec.consent` of a SpeculatorDataset."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from specop.api.base import Model, Time
from specop.api.markers import Cel, ListSet, Worded

FieldPath = Annotated[
    str,
    Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$"),
    Worded("must be a path of keys, such as metadata.training.optOut"),
]


LANGUAGES = (
    "af am an ar as az ba be bg bn br bs ca cs cy da de dz el en eo es et eu fa fi fo fr fy ga gd gl gu ha he hi hr "
    "ht hu hy id ig is it ja jv ka kk km kn ko ku ky la lb lg ln lo lt lv mg mk ml mn mr ms mt my ne nl nn no oc om "
    "or pa pl ps pt qu ro ru rw sa se si sk sl sn so sq sr st sv sw ta te tg th tk tl tr tt ug uk ur uz vi vo wa xh "
    "yo zh zu"
)
"""Codes of ISO 639-1 that are told apart: what the model of py3langid knows, as a test compares."""

Language = Annotated[
    str,
    Field(max_length=2, pattern=f"^({'|'.join(LANGUAGES.split())})$"),
    Worded("must be a code of ISO 639-1 that is told apart (docs/datasets.md), such as en, ja or uk"),
]


class Consent(Model):
    """Marks of rows that are not for training; they are never read past the mark."""

    no_train_fields: Annotated[list[FieldPath], Field(max_length=16), ListSet()] = Field(
        default_factory=list,
        description="Fields of your own in a row that, where they are true, say so; beside those that are always "
        "looked at (docs/datasets.md).",
    )


class Period(Model):
    """A stretch of time."""

    RULES: ClassVar[tuple[Cel, ...]] = (Cel("self.since < self.until", "until must be after since", ".until"),)

    since: Time = Field(description="Start, inclusive.")
    until: Time = Field(description="End, exclusive.")


class RowFilter(Model):
    """What a source takes of its rows; what is not set takes all."""

    models: Annotated[list[Annotated[str, Field(min_length=1, max_length=256)]], Field(max_length=32), ListSet()] = (
        Field(default_factory=list, description="Names of models that answered, as the log has them.")
    )
    statuses: Annotated[list[Annotated[int, Field(ge=100, le=599)]], Field(max_length=32), ListSet()] = Field(
        default_factory=list, description="HTTP statuses; from 400 on a request is never used."
    )
    routes: Annotated[list[Annotated[str, Field(min_length=1, max_length=256)]], Field(max_length=32), ListSet()] = (
        Field(default_factory=list, description="Routes, such as /v1/chat/completions.")
    )
    tenants: Annotated[list[Annotated[str, Field(min_length=1, max_length=256)]], Field(max_length=128), ListSet()] = (
        Field(default_factory=list, description="Whose requests, as the log names them.")
    )


class NearDuplicates(Model):
    """Conversations whose last question and answer are alike: nine tenths of their five-word pieces are the same."""

    action: Literal["Report", "Drop"] = Field(
        default="Report", description="Report: they are counted, for repetition is what a drafter gains from."
    )
    max_per_shape: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        default=None, description="Keep at most this many that are alike, the oldest; instead of action."
    )


class Quality(Model):
    """Limits on answers and conversations."""

    truncated_answers: Literal["Keep", "Drop"] = Field(
        default="Keep", description="Answers cut by max_tokens; kept ones teach no end of turn."
    )
    min_answer_characters: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=1, description="Shorter answers are left out; reasoning and arguments of tools count."
    )
    max_characters: Annotated[int, Field(ge=1, le=100_000_000)] | None = Field(
        default=None, description="Longer conversations are left out, prompt and answer together."
    )
    languages: Annotated[list[Language], Field(max_length=32), ListSet()] = Field(
        default_factory=list,
        description="Codes of ISO 639-1; conversations that are certainly in none of these languages are left out. "
        "What is too short to tell, and code, stays.",
    )
    near_duplicates: NearDuplicates = Field(default_factory=NearDuplicates, description="Conversations that are alike.")
