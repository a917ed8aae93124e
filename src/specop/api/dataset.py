"""SpeculatorDataset: a versioned, digest-named training set. A new window of traffic is a new object."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from specop.api.base import (
    MAX_OBJECT_NAME,
    Conditions,
    Digest,
    Model,
    Observed,
    ObservedGeneration,
    ObservedTime,
    Ref,
    Resource,
    ShortDigest,
    Time,
    Uri,
    UriPattern,
    exactly_one,
)
from specop.api.markers import Cel, Immutable, ListMap, ServerDefault, Worded
from specop.api.privacy import Privacy
from specop.api.quality import Consent, Period, Quality, RowFilter
from specop.api.regenerate import Regenerate, ResolvedRegenerate
from specop.api.shared import NamedUid, NoOutput, PodTemplate, Storage, TargetFacts, TargetSpec

RowFormat = Literal[
    "OpenAIChat",
    "Capture",
    "RequestResponse",
    "OpenAIBatch",
    "ShareGPT",
    "PromptCompletion",
    "Text",
    "Tokens",
    "LiteLLM",
    "Langfuse",
    "SageMakerCapture",
    "BedrockInvocation",
]


class ObjectsSource(Model):
    """Files in object storage, read in place."""

    uri: UriPattern = Field(description="A file, or a pattern with `*` in the key: s3://bucket/folder/*.jsonl")
    format: Literal["Auto", RowFormat] = Field(
        default="Auto", description="Format of the rows; Auto looks at each file's first row that is JSON."
    )


class RequestLogSource(Model):
    """What an endpoint captured. The window becomes absolute before the Job is made and never moves again."""

    RULES: ClassVar[tuple[Cel, ...]] = (
        Cel("!(has(self.lastSeconds) && has(self.since))", "set lastSeconds or since, not both", ".since"),
        Cel(
            "!(has(self.lastSeconds) && has(self.until))",
            "lastSeconds ends at what has been shipped: with until, set since instead",
            ".until",
        ),
        Cel("!(has(self.since) && has(self.until)) || self.since < self.until", "until must be after since", ".until"),
    )

    endpoint_ref: Ref = Field(description="The DraftedEndpoint whose captured requests are read.")
    last_seconds: Annotated[int, Field(ge=60, le=31_536_000)] | None = Field(
        default=None, description="The window: this many seconds up to what has been shipped."
    )
    since: Time | None = Field(default=None, description="Start of the window instead of lastSeconds.")
    until: Time | None = Field(default=None, description="End of the window; unset means what has been shipped.")
    min_requests: Annotated[int, Field(ge=1, le=100_000_000)] = Field(
        default=100, description="Wait until the window holds this many requests; one with an end fails with fewer."
    )


class UploadSource(Model):
    """Files that `specop upload` puts beside the dataset's output, with the user's own credentials."""

    format: Literal["Auto", RowFormat] = Field(
        default="Auto", description="Format of the rows; Auto looks at each file's first row that is JSON."
    )


class SeedsSource(Model):
    """Prompts without answers: the target completes them (spec.regenerate)."""

    RULES: ClassVar[tuple[Cel, ...]] = (exactly_one("set", "uri"),)

    set: Literal["code", "function-calling"] | None = Field(
        default=None, description="A set that comes with specop (docs/datasets.md)."
    )
    uri: UriPattern | None = Field(
        default=None,
        description="Files in object storage, read in place: a line is a prompt (text or messages) or messages, and "
        "options of the request beside it.",
    )


_NO_FILTER = " && ".join(
    f"(!has(self.filter.{field}) || self.filter.{field}.size() == 0)" for field in RowFilter.model_fields
)


class Source(Model):
    """One source of conversations."""

    RULES: ClassVar[tuple[Cel, ...]] = (
        exactly_one("objects", "requestLog", "upload", "seeds", "datasetRef"),
        Cel(
            "!has(self.upload) || !has(self.storage)",
            "uploaded files lie in the dataset's own output: leave storage out",
            ".storage",
        ),
        Cel(
            f"!has(self.datasetRef) || !has(self.filter) || ({_NO_FILTER})",
            "rows of a dataset know no model, status, route or tenant: leave filter out",
            ".filter",
        ),
    )

    name: Annotated[
        str,
        Field(min_length=1, max_length=40, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"),
        Worded("must be lower-case letters, digits and -"),
    ] = Field(description="Name of the source, in counts and in rows.")
    weight: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=1, description="Share of conversations after all filters, relative to the other sources."
    )
    max_conversations: Annotated[int, Field(ge=1, le=1_000_000_000)] | None = Field(
        default=None, description="Never more than this many conversations of this source, before weights."
    )
    repeat: Annotated[int, Field(ge=1, le=10)] = Field(
        default=1, description="How many times a conversation may be repeated to reach the source's share; 1: never."
    )
    objects: ObjectsSource | None = Field(default=None, description="Files in object storage.")
    request_log: RequestLogSource | None = Field(default=None, description="What an endpoint captured.")
    upload: UploadSource | None = Field(
        default=None,
        description="What `specop upload FILE… dataset/NAME` put under OUTPUT/uploads/NAMESPACE/NAME/ before the Job "
        "began; make the dataset with suspend: true, upload, set it to false.",
    )
    seeds: SeedsSource | None = Field(default=None, description="Prompts that the target completes.")
    dataset_ref: Ref | None = Field(
        default=None,
        description="Another SpeculatorDataset of the same tokenizer and chat template: its rows as they are, trained "
        "on or held out, of which all is decided anew.",
    )
    filter: RowFilter = Field(default_factory=RowFilter, description="Which of its rows.")
    exclude_periods: Annotated[list[Period], Field(max_length=32)] = Field(
        default_factory=list, description="Rows of these times, and rows without a time, are left out."
    )
    storage: Annotated[Storage, NoOutput] | None = Field(
        default=None, description="Where this source lies, if elsewhere."
    )


class Holdout(Model):
    """What is kept back to judge drafters: the newest conversations, whole."""

    percent: Annotated[int, Field(ge=1, le=50)] = Field(default=10, description="Share of conversations.")
    max_conversations: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=1000, description="Never more than this many conversations."
    )


class Transform(Model):
    """From conversations to rows of tokens."""

    max_length: Annotated[int, Field(ge=64, le=1_048_576)] = Field(
        default=8192, description="Rows over this many tokens are cut at the right end, and counted."
    )
    max_bad_percent: Annotated[int, Field(ge=0, le=100)] = Field(
        default=5, description="Malformed lines are set aside until they pass this share; then the dataset fails."
    )
    sql: Annotated[str, Field(min_length=1, max_length=4096)] | None = Field(
        default=None,
        description="One SELECT over the view `rows`, a row at a time, that chooses conversations and may rewrite "
        "prompts: docs/sql.md.",
    )


class RayCluster(Model):
    """Ray machines that do what is done to rows. They need the Job's image; no storage credentials go there."""

    address: Annotated[
        str,
        Field(max_length=256, pattern=r"^(local|auto|ray://[A-Za-z0-9.-]+:[0-9]+|[A-Za-z0-9.-]+:[0-9]+)$"),
        Worded("must be ray://host:port"),
    ] = Field(description="Of the head: ray://host:10001. `local` starts Ray in the Job's pod.")
    workers: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        default=None, description="Processes there; unset: as many as the cluster has processors."
    )


class Engine(Model):
    """Where rows are worked on, if not in the Job's pod. It makes no difference to the dataset."""

    ray: RayCluster | None = Field(default=None, description="A Ray cluster.")


class DatasetSpec(Model):
    """What the dataset is made of."""

    RULES: ClassVar[tuple[Cel, ...]] = (
        Cel(
            "!self.sources.exists(source, has(source.seeds)) || has(self.regenerate)",
            "seeds have no answers: say who completes them",
            ".regenerate",
        ),
    )

    target: Annotated[TargetSpec, Immutable()] = Field(
        description="The model whose tokenizer and chat template make the rows."
    )
    sources: Annotated[list[Source], Field(min_length=1, max_length=32), ListMap(("name",)), Immutable()] = Field(
        description="Where conversations come from."
    )
    holdout: Annotated[Holdout, Immutable()] = Field(
        default_factory=Holdout, description="What is kept back to judge drafters: the newest conversations, whole."
    )
    transform: Annotated[Transform, Immutable()] = Field(
        default_factory=Transform, description="How conversations become rows of tokens."
    )
    consent: Annotated[Consent, Immutable()] = Field(
        default_factory=Consent, description="Which rows are not for training."
    )
    privacy: Annotated[Privacy, Immutable()] = Field(
        default_factory=Privacy, description="What becomes of personal data and secrets."
    )
    quality: Annotated[Quality, Immutable()] = Field(
        default_factory=Quality, description="Which conversations the dataset does without."
    )
    regenerate: Annotated[Regenerate, Immutable()] | None = Field(
        default=None, description="Ask the target for answers. Unset: all answers are taken as the target's own."
    )
    engine: Annotated[Engine, Immutable()] = Field(
        default_factory=Engine, description="Where rows are worked on, if not in the Job's pod."
    )
    storage: Annotated[Storage, Immutable()] | None = Field(
        default=None, description="Where the dataset is written, and how sources are reached."
    )
    suspend: Annotated[bool, ServerDefault(False)] = Field(default=False, description="Make no Job while true.")
    pod_template: PodTemplate | None = Field(default=None, description="Where and how the dataset Job's pod runs.")


class ResolvedWindow(Observed):
    """A requestLog window made absolute."""

    source: Annotated[str, Field(max_length=40)] = Field(description="Name of the source.")
    since: ObservedTime = Field(description="Start, inclusive.")
    until: ObservedTime = Field(description="End, exclusive.")
    prefix: Uri = Field(description="Where the captures lie.")


class ResolvedDataset(Observed):
    """The dataset of a datasetRef source, as it was when it was finished."""

    source: Annotated[str, Field(max_length=40)] = Field(description="Name of the source.")
    name: Annotated[str, Field(max_length=MAX_OBJECT_NAME)] = Field(description="Name of the dataset.")
    uid: Annotated[str, Field(max_length=64)] = Field(default="", description="Its uid.")
    uri: Uri = Field(description="Its manifest.")
    digest: Digest = Field(description="Its digest.")


class DatasetResolved(Observed):
    """Frozen before the Job is made."""

    output: Uri = Field(description="Where the dataset is written.")
    image: Annotated[str, Field(max_length=512)] = Field(default="", description="Image of the Job.")
    windows: Annotated[list[ResolvedWindow], Field(max_length=32), ListMap(("source",))] = Field(
        default_factory=list, description="Windows of requestLog sources, made absolute."
    )
    regenerate: ResolvedRegenerate | None = Field(default=None, description="Where answers are asked anew.")
    datasets: Annotated[list[ResolvedDataset], Field(max_length=32), ListMap(("source",))] = Field(
        default_factory=list, description="Datasets of datasetRef sources."
    )


class DatasetProgress(Observed):
    """How far the Job is; written at most every 10 s."""

    stage: Annotated[str, Field(max_length=32)] = Field(default="", description="What it does now.")
    rows: int = Field(default=0, description="Rows so far.")
    bytes: int = Field(default=0, description="Bytes read so far.")
    eta_seconds: int | None = Field(default=None, description="Estimate of the time that is left.")


class DatasetCounts(Observed):
    """Conversations: read = kept + regenerated + dropped + setAside."""

    read: int = Field(default=0, description="Conversations read.")
    kept: int = Field(default=0, description="In the dataset as they were logged, holdout included.")
    regenerated: int = Field(default=0, description="In the dataset with an answer of the target's, asked anew.")
    dropped: int = Field(default=0, description="Left out, for the reasons below.")
    set_aside: int = Field(default=0, description="Malformed lines.")
    duplicates: int = Field(default=0, description="Part of dropped.")
    failed_responses: int = Field(default=0, description="Part of dropped: errors and aborted answers.")
    unsupervised: int = Field(default=0, description="Part of dropped: no generated token.")
    outweighed: int = Field(default=0, description="Part of dropped: beyond the source's share.")
    near_duplicates: int = Field(default=0, description="Part of dropped: like an older conversation, by policy.")
    excluded: int = Field(default=0, description="Part of dropped: of an excluded period, or filtered out.")
    unfit: int = Field(default=0, description="Part of dropped: beyond the limits of quality.")
    no_consent: int = Field(default=0, description="Part of dropped: marked as not for training.")
    unanswered: int = Field(default=0, description="Part of dropped: the target refused to answer anew.")
    private: int = Field(default=0, description="Part of dropped: with personal data or secrets, by policy.")
    altered: int = Field(default=0, description="Part of what is kept: personal data or secrets were replaced.")
    filtered: int = Field(default=0, description="Part of dropped: left out by transform.sql.")
    truncated_rows: int = Field(default=0, description="Rows that were cut to transform.maxLength.")


class DatasetFacts(Observed):
    """A finished dataset, as its Job reports it and as status shows it."""

    digest: Digest = Field(description="Digest of the rows, the recipe and the target.")
    uri: Uri = Field(description="The manifest.")
    rows: int = Field(description="Rows for training.")
    holdout_rows: int = Field(default=0, description="Rows kept back.")
    tokens: int = Field(default=0, description="Tokens of the training rows.")
    supervised_tokens: int = Field(default=0, description="Part of tokens: generated ones, which are learnt.")
    counts: DatasetCounts = Field(default_factory=DatasetCounts, description="What became of every conversation.")
    target: TargetFacts = Field(description="The target whose tokenizer made the rows.")


class DatasetStatus(Observed):
    """What is observed."""

    observed_generation: ObservedGeneration = -1
    conditions: Conditions = Field(default_factory=list)
    resolved: DatasetResolved | None = Field(default=None, description="What was frozen before the Job was made.")
    retry_at_requests: Annotated[int, Field(ge=0)] | None = Field(
        default=None,
        description="The last window held too few requests: it is frozen anew when its endpoints have shipped so many.",
    )
    job: NamedUid | None = Field(default=None, description="The Job that makes the dataset.")
    progress: DatasetProgress | None = Field(default=None, description="How far the Job is.")
    result: DatasetFacts | None = Field(default=None, description="The finished dataset.")
    short_digest: ShortDigest | None = None


class SpeculatorDataset(Resource):
    """A versioned, digest-named training set made from production traffic and other conversations."""

    KIND: ClassVar[str] = "SpeculatorDataset"
    PLURAL: ClassVar[str] = "speculatordatasets"

    RULES: ClassVar[tuple[Cel, ...]] = (
        Cel(
            "self.spec.sources.all(source, !has(source.datasetRef) || source.datasetRef.name != self.metadata.name)",
            "a dataset cannot be made from itself: name another one in datasetRef",
            ".spec.sources",
        ),
    )

    spec: DatasetSpec
    status: DatasetStatus = Field(default_factory=DatasetStatus)
