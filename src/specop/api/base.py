"""Bases of all models: camelCase in JSON, strict and frozen for what users write, lenient for what is read back."""

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler
from pydantic.alias_generators import to_camel
from pydantic_core import CoreSchema

from specop.api.markers import EXTENSION, Cel, ListMap, Worded
from specop.common.names import API_VERSION

Uri = Annotated[
    str,
    Field(
        min_length=6,
        max_length=1024,
        pattern=r"^(s3://[A-Za-z0-9][-A-Za-z0-9._]*(/[^\s*]*)?|file:///[^\s*]+)$",
    ),
    Worded("must be s3://bucket/key, or file:///path on one machine; without spaces or patterns"),
]
"""Where something lies: `s3://bucket/key…`, or `file:///path` for one machine."""

UriPattern = Annotated[
    str,
    Field(
        min_length=6,
        max_length=1024,
        pattern=r"^(s3://[A-Za-z0-9][-A-Za-z0-9._]*/[^\s/][^\s]*|file:///[^\s]+)$",
    ),
    Worded("must name objects in a bucket, such as s3://bucket/folder/*.jsonl, or files, as file:///path/*.jsonl"),
]
"""One object, or, with `*` in the key, several."""

Digest = Annotated[
    str,
    Field(pattern=r"^sha256:[0-9a-f]{64}$", max_length=71),
    Worded("must be a whole digest: sha256: and 64 hex digits, as in the drafter's status.digest"),
]
"""A content digest."""

NAME_PATTERN = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
MAX_OBJECT_NAME = 40

ObjectName = Annotated[
    str,
    Field(min_length=1, max_length=MAX_OBJECT_NAME, pattern=NAME_PATTERN),
    Worded("must be the name of an object: lower-case letters, digits and -, beginning with a letter"),
]
"""Name of one of our objects: DNS-1035, at most 40 characters, because child names are made from it."""

Decimal = Annotated[
    str,
    Field(pattern=r"^[0-9]+(\.[0-9]+)?([eE]-?[0-9]+)?$", max_length=16),
    Worded('must be a number in quotes that is not negative, such as "0.001" or "1e-3"'),
]
"""A non-negative number as a string: objects carry no floats."""

Time = Annotated[str, Field(json_schema_extra={"format": "date-time"}, max_length=64)]
"""RFC 3339, as users write it; the API server reads it as a time."""

ObservedTime = Annotated[str, Field(max_length=64)]
"""RFC 3339 in status; empty while it is not known."""


class Model(BaseModel):
    """camelCase outside, snake_case inside."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        serialize_by_alias=True,
        frozen=True,
        extra="forbid",
    )

    RULES: ClassVar[tuple[Cel, ...]] = ()
    """What the API server checks on every value of this model, beyond types."""

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Let the rules travel with the model's own definition, not with one use of it."""
        reference = handler(core)
        if cls.RULES:
            handler.resolve_ref_schema(reference)[EXTENSION] = [rule.entry() for rule in cls.RULES]
        return reference

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready dict with the names that the API server knows; what is unset stays out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class Observed(Model):
    """What we read back: a field that a newer version wrote must not crash an older one."""

    model_config = ConfigDict(extra="ignore")


class Ref(Model):
    """A reference to an object in the same namespace."""

    name: ObjectName = Field(description="Name of the object, in the same namespace. It may not exist yet.")


class OwnerRef(Observed):
    """The part of an owner reference that we read."""

    api_version: str = ""
    kind: str = ""
    name: str = ""
    uid: str = ""
    controller: bool = False


class Meta(Observed):
    """The part of an object's metadata that we read."""

    name: str
    namespace: str = ""
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    owner_references: tuple[OwnerRef, ...] = ()


class Condition(Observed):
    """One aspect of an object's state (Kubernetes API conventions)."""

    type: str = Field(max_length=64, description="Which aspect, in one CamelCase word.")
    status: str = Field(max_length=8, description="True, False or Unknown.")
    reason: str = Field(default="", max_length=128, description="Why, in one CamelCase word.")
    message: str = Field(default="", max_length=1024, description="Why, for a person, and what to do.")
    last_transition_time: ObservedTime = Field(default="", description="When the status last changed.")
    observed_generation: int = Field(default=0, description="The generation that this speaks of.")


Conditions = Annotated[
    list[Condition],
    Field(max_length=16, description="State of the object, one entry an aspect."),
    ListMap(("type",)),
]

ObservedGeneration = Annotated[
    int, Field(description="Newest generation that the operator has seen; -1 before the first.")
]


ShortDigest = Annotated[str, Field(max_length=16, description="The first twelve hex digits of the digest, for people.")]


class Resource(Observed):
    """An object of ours as read from the API server."""

    KIND: ClassVar[str]
    PLURAL: ClassVar[str]

    api_version: str = API_VERSION
    kind: str = ""
    metadata: Meta


def exactly_one(*fields: str) -> Cel:
    """Union rule: of these optional blocks exactly one is present."""
    parts = " + ".join(f"(has(self.{field}) ? 1 : 0)" for field in fields)
    return Cel(f"{parts} == 1", f"set exactly one of: {', '.join(fields)}")
