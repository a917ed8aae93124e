"""SpeculatorDataset: a versioned, digest-named training set. A new window of traffic is a new object."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from specop.api.base import Condition, Digest, Model, Observed, Ref, Resource, Time, Uri, exactly_one
from specop.api.markers import Cel, Immutable, ListMap, ServerDefault
from specop.api.shared import NamedUid, PodTemplate, Storage, TargetFacts, TargetSpec


class ObjectsSource(Model):
    """Files in object storage, read in place."""

    uri: Uri = Field(description="A file, or a pattern with `*` in the key: s3://bucket/folder/*.jsonl")
    format: Literal["Auto", "OpenAIChat", "Capture"] = Field(
        default="Auto", description="Auto looks at each file's first row."
    )


class RequestLogSource(Model):
    """What an endpoint captured. The window becomes absolute before the Job is made and never moves again."""

    endpoint_ref: Ref = Field(description="The DraftedEndpoint whose captured requests are read.")
    last_seconds: Annotated[int, Field(ge=60, le=31_536_000)] | None = Field(
        default=None, description="The window: this many seconds up to what has been shipped."
    )
    since: Time | None = Field(default=None, description="Start of the window instead of lastSeconds.")
    until: Time | None = Field(default=None, description="End of the window; unset means what has been shipped.")
    min_requests: Annotated[int, Field(ge=1, le=100_000_000)] = Field(
        default=100, description="Wait until the endpoint has shipped this many requests."
    )


class Source(Model):
    """One source of conversations."""

    name: Annotated[str, Field(min_length=1, max_length=40, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
    weight: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=1, description="Share of conversations, relative to the other sources; never oversampled."
    )
    objects: ObjectsSource | None = None
    request_log: (
        Annotated[
            RequestLogSource,
            Cel("!(has(self.lastSeconds) && has(self.since))", "set lastSeconds or since, not both"),
        ]
        | None
    ) = None
    storage: Storage | None = Field(default=None, description="Where this source lies, if elsewhere.")


class Holdout(Model):
    """What is kept back to judge drafters: the newest conversations, whole."""

    percent: Annotated[int, Field(ge=1, le=50)] = Field(default=10, description="Share of conversations.")
    max_conversations: Annotated[int, Field(ge=1, le=100_000)] = 1000


class Transform(Model):
    """From conversations to rows of tokens."""

    max_length: Annotated[int, Field(ge=64, le=1_048_576)] = Field(
        default=8192, description="Rows over this many tokens are cut at the right end, and counted."
    )
    max_bad_percent: Annotated[int, Field(ge=0, le=100)] = Field(
        default=5, description="Malformed lines are set aside until they pass this share; then the dataset fails."
    )


class DatasetSpec(Model):
    """What the dataset is made of."""

    target: Annotated[TargetSpec, Immutable()] = Field(description="Its tokenizer and chat template make the rows.")
    sources: Annotated[list[Annotated[Source, exactly_one("objects", "requestLog")]], Field(min_length=1, max_length=32), ListMap(("name",)), Immutable()]
    holdout: Annotated[Holdout, Immutable()] = Field(default_factory=Holdout)
    transform: Annotated[Transform, Immutable()] = Field(default_factory=Transform)
    storage: Annotated[Storage, Immutable()] | None = None
    suspend: Annotated[bool, ServerDefault(False)] = Field(default=False, description="Make no Job while true.")
    pod_template: PodTemplate | None = None


class ResolvedWindow(Observed):
    """A requestLog window made absolute."""

    source: Annotated[str, Field(max_length=40)]
    since: Time
    until: Time
    prefix: Uri = Field(description="Where the captures lie.")


class DatasetResolved(Observed):
    """Frozen before the Job is made."""

    output: Uri
    image: Annotated[str, Field(max_length=512)] = ""
    windows: Annotated[list[ResolvedWindow], Field(max_length=32), ListMap(("source",))] = Field(default_factory=list)


class DatasetProgress(Observed):
    """How far the Job is; written at most every 10 s."""

    stage: Annotated[str, Field(max_length=32)] = ""
    rows: int = 0
    bytes: int = 0
    eta_seconds: int | None = None


class DatasetCounts(Observed):
    """Conversations: read = kept + dropped + setAside."""

    read: int = 0
    kept: int = 0
    dropped: int = 0
    set_aside: int = 0
    duplicates: int = Field(default=0, description="Part of dropped.")
    failed_responses: int = Field(default=0, description="Part of dropped: errors and truncated answers.")
    unsupervised: int = Field(default=0, description="Part of dropped: no generated token.")
    outweighed: int = Field(default=0, description="Part of dropped: beyond the source's share.")
    truncated_rows: int = 0


class DatasetFacts(Observed):
    """A finished dataset, as its Job reports it and as status shows it."""

    digest: Digest
    uri: Uri = Field(description="The manifest.")
    rows: int = Field(description="Rows for training.")
    holdout_rows: int = 0
    tokens: int = 0
    supervised_tokens: int = 0
    counts: DatasetCounts = Field(default_factory=DatasetCounts)
    target: TargetFacts


class DatasetStatus(Observed):
    """What is observed."""

    observed_generation: int = -1
    conditions: Annotated[list[Condition], Field(max_length=16), ListMap(("type",))] = Field(default_factory=list)
    resolved: DatasetResolved | None = None
    job: NamedUid | None = None
    progress: DatasetProgress | None = None
    result: DatasetFacts | None = None


class SpeculatorDataset(Resource):
    """A versioned, digest-named training set made from production traffic and other conversations."""

    KIND: ClassVar[str] = "SpeculatorDataset"
    PLURAL: ClassVar[str] = "speculatordatasets"

    spec: DatasetSpec
    status: DatasetStatus = Field(default_factory=DatasetStatus)
