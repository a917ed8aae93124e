"""Blocks that several kinds share: target, storage, pod template, results that travel between objects."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator

from specop.api.base import Digest, Model, ObjectName, Observed, Uri, exactly_one
from specop.api.markers import Cel, IntOrString, ListMap, Worded

Quantity = Annotated[
    str,
    IntOrString(),
    Field(coerce_numbers_to_str=True, max_length=32, pattern=r"^[0-9]+(\.[0-9]+)?([eE]-?[0-9]+|m|k|[KMGTPE]i?)?$"),
    Worded("must be a Kubernetes quantity, such as 500m, 2 or 16Gi"),
]

LabelValue = Annotated[
    str,
    Field(max_length=63, pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"),
    Worded("must be a label value: letters, digits, - _ and . between them"),
]

Labels = Annotated[
    dict[str, LabelValue],
    Field(max_length=16),
    Cel(
        "self.all(key, key.matches('^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?"
        "[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$'))",
        "keys must be label keys: name or domain/name",
    ),
]
"""At most 16 labels."""

SubdomainName = Annotated[
    str,
    Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"),
    Worded("must be the name of an object: lower-case letters, digits, - and ."),
]
"""Name of an object of somebody else's kind (DNS-1123 subdomain)."""


class TargetSpec(Model):
    """The model that is served, for which a drafter drafts."""

    RULES: ClassVar[tuple[Cel, ...]] = (
        Cel(
            r"!self.uri.matches('\\.(safetensors|gguf|json|bin)$')",
            "must be the folder of the model, with config.json, tokenizer and safetensors, not one file of it",
            ".uri",
        ),
    )

    uri: Uri = Field(description="Folder of the model in object storage: config, tokenizer, safetensors.")


class SecretRef(Model):
    """A Secret in the same namespace."""

    name: SubdomainName = Field(description="Name of the Secret.")


class KeyRef(Model):
    """A key of a ConfigMap in the same namespace."""

    name: SubdomainName = Field(description="Name of the ConfigMap.")
    key: Annotated[
        str,
        Field(min_length=1, max_length=253, pattern=r"^[-._A-Za-z0-9]+$"),
        Worded("must be a key of a ConfigMap: letters, digits, - _ and ."),
    ] = Field(default="ca.crt", description="Key inside it.")


class Credentials(Model):
    """How pods get access to storage; the operator itself never holds it."""

    RULES: ClassVar[tuple[Cel, ...]] = (exactly_one("secretRef", "serviceAccountName"),)

    secret_ref: SecretRef | None = Field(
        default=None,
        description="Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, given to pods as environment.",
    )
    service_account_name: SubdomainName | None = Field(
        default=None, description="ServiceAccount of the pods, bound to a cloud identity."
    )


class Storage(Model):
    """Object storage of this object. What is unset comes from the operator's defaults."""

    output: Uri | None = Field(default=None, description="Where datasets, drafters, runs and evidence are written.")
    endpoint_url: (
        Annotated[
            str,
            Field(max_length=512, pattern=r"^https?://[^\s@]+$"),
            Worded("must be an http(s) URL without user or key: credentials go to a Secret"),
        ]
        | None
    ) = Field(default=None, description="URL of an S3-compatible server; unset means AWS.")
    region: (
        Annotated[
            str,
            Field(min_length=1, max_length=64, pattern=r"^[-A-Za-z0-9]+$"),
            Worded("must be the name of a region, such as eu-central-1"),
        ]
        | None
    ) = Field(default=None, description="Region of the storage.")
    ca_bundle_ref: KeyRef | None = Field(default=None, description="ConfigMap with the certificates to trust.")
    credentials: Credentials | None = Field(
        default=None, description="How pods get access. Default: the Secret `specop-storage` in this namespace."
    )


NoOutput = Cel("!has(self.output)", "is read only here: set output in spec.storage", ".output")
"""For storage of a single source or of captures, where nothing of ours is written."""


class EnvVar(Model):
    """An environment variable with a plain value."""

    RULES: ClassVar[tuple[Cel, ...]] = (
        Cel(
            "!self.name.startsWith('SPECOP_') && !self.name.startsWith('AWS_')",
            "SPECOP_* and AWS_* are set by specop: configure storage with spec.storage",
            ".name",
        ),
        Cel("!(self.name in ['HOME', 'TMPDIR'])", "HOME and TMPDIR lie on the pod's scratch volume", ".name"),
        Cel("self.name != 'PYTHONPATH'", "PYTHONPATH is set by specop: add modules to the image", ".name"),
    )

    name: Annotated[
        str,
        Field(min_length=1, max_length=128, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$"),
        Worded("must be the name of an environment variable: letters, digits and _"),
    ] = Field(description="Name of the variable.")
    value: Annotated[str, Field(max_length=4096)] = Field(default="", description="Its value; never a secret.")


class Toleration(Model):
    """A toleration, as in a PodSpec."""

    RULES: ClassVar[tuple[Cel, ...]] = (
        Cel(
            "!(has(self.operator) && self.operator == 'Exists' && has(self.value))",
            "operator Exists takes no value",
            ".value",
        ),
        Cel(
            "has(self.key) || (has(self.operator) && self.operator == 'Exists')",
            "without a key, operator must be Exists",
        ),
        Cel(
            "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            "tolerationSeconds needs effect NoExecute",
            ".tolerationSeconds",
        ),
    )

    key: Annotated[str, Field(min_length=1, max_length=253)] | None = Field(
        default=None, description="Key of the taint; unset, with operator Exists, tolerates all."
    )
    operator: Literal["Exists", "Equal"] | None = Field(default=None, description="Equal when unset.")
    value: Annotated[str, Field(max_length=63)] | None = Field(default=None, description="Value of the taint.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="Effect of the taint; unset tolerates all."
    )
    toleration_seconds: int | None = Field(default=None, description="How long NoExecute is tolerated.")


class Resources(Model):
    """Requests and limits of the main container."""

    RULES: ClassVar[tuple[Cel, ...]] = (
        Cel(
            "!has(self.requests) || !has(self.limits) || self.requests.all(name, !(name in self.limits) || "
            "quantity(string(self.requests[name])).compareTo(quantity(string(self.limits[name]))) <= 0)",
            "a request may not be higher than its limit",
            ".requests",
        ),
        Cel(
            "!has(self.requests) || self.requests.all(name, !name.contains('/') || (has(self.limits) && "
            "name in self.limits && "
            "quantity(string(self.requests[name])).compareTo(quantity(string(self.limits[name]))) == 0))",
            "devices such as nvidia.com/gpu are set as limits; a request must equal the limit",
            ".requests",
        ),
    )

    requests: Annotated[dict[str, Quantity], Field(max_length=16)] | None = Field(
        default=None, description="What the scheduler sets aside, by resource."
    )
    limits: Annotated[dict[str, Quantity], Field(max_length=16)] | None = Field(
        default=None, description="What the container may use at most, by resource; GPUs go here."
    )


class PodTemplate(Model):
    """The few things about pods that users set; everything else is ours."""

    node_selector: Labels | None = Field(default=None, description="Labels of nodes that may run the pods.")
    tolerations: Annotated[list[Toleration], Field(max_length=16)] | None = Field(
        default=None, description="Taints that the pods tolerate."
    )
    resources: Resources | None = Field(default=None, description="Requests and limits of the main container.")
    labels: (
        Annotated[
            Labels,
            Cel(
                "self.all(key, !key.startsWith('specop.dev/') && !key.startsWith('batch.kubernetes.io/') "
                "&& !key.startsWith('kueue.x-k8s.io/') && !(key in ['app.kubernetes.io/managed-by', "
                "'pod-template-hash', 'job-name', 'controller-uid']))",
                "labels by which specop, Kubernetes and Kueue find pods cannot be set",
            ),
        ]
        | None
    ) = Field(default=None, description="Extra labels on the pods.")
    env: Annotated[list[EnvVar], Field(max_length=64), ListMap(("name",))] | None = Field(
        default=None, description="Extra environment of the main container."
    )
    runtime_class_name: SubdomainName | None = Field(default=None, description="RuntimeClass of the pods.")
    priority_class_name: SubdomainName | None = Field(default=None, description="PriorityClass of the pods.")


class NamedUid(Observed):
    """An object by name and identity, without an owner reference."""

    name: Annotated[str, Field(max_length=253)] = Field(description="Name of the object.")
    uid: Annotated[str, Field(max_length=64)] = Field(default="", description="Its uid: a later namesake is another.")


class TargetSizes(Observed):
    """What a target's configuration says of its cost, for estimates; a drafter's layer is as wide as one of its layers.

    Covered by the fingerprint, so no part of what identifies a target: it is neither compared nor in a contract.
    """

    intermediate_size: int = Field(
        description="Width of the feed-forward network; of experts, all that a token passes together."
    )
    num_heads: int = Field(description="Attention heads.")
    num_kv_heads: int = Field(description="Key-value heads.")
    head_dim: int = Field(description="Size of a head.")
    weight_mib: int = Field(description="Size of its weight files in MiB.")


class TargetFacts(Observed):
    """What is known of a target's bytes."""

    fingerprint: Digest = Field(description="Digest over configuration, tokenizer, template and weight files.")
    tokenizer_hash: Digest = Field(description="Digest of the tokenizer's files.")
    chat_template_hash: Digest = Field(description="Digest of the chat template.")
    vocab_size: int = Field(description="Rows of the target's output layer.")
    hidden_size: int = Field(description="Width of its hidden states.")
    num_layers: int = Field(description="Number of its layers.")
    architecture: Annotated[str, Field(max_length=128)] = Field(default="", description="Class named in config.json.")
    quantization: Annotated[str, Field(max_length=64)] = Field(
        default="none", description="Quantisation of its weights."
    )
    sizes: TargetSizes | None = Field(default=None, description="Sizes, where its configuration says them all.")

    @property
    def identity(self) -> Self:
        """What identifies the target, without the sizes."""
        return self.model_copy(update={"sizes": None})


class Contract(Observed):
    """What binds a drafter to its target: compared before a GPU is taken, and again before the engine starts."""

    format_version: int = Field(default=1, description="Version of the drafter's file format.")
    target: TargetFacts = Field(description="The target that it was trained for.")
    algorithm: Literal["eagle3"] = Field(default="eagle3", description="Speculation method.")
    architecture: Annotated[str, Field(max_length=64)] = Field(default="Eagle3", description="Eagle3 or Eagle31.")
    draft_vocab_size: int = Field(description="Tokens that it can propose.")
    aux_layers: Annotated[list[int], Field(max_length=16)] = Field(
        description="Layers of the target that are captured."
    )
    decoding_heads: int = Field(description="Draft steps unrolled at training; serving drafts no more tokens.")
    trained_length: int = Field(description="Longest row, in tokens, that it was trained on.")
    draft_sample_method: Literal["greedy", "probabilistic"] = Field(
        default="greedy", description="How drafts are sampled when served."
    )
    serving_temperature: Annotated[str, Field(max_length=16)] = Field(
        default="0", description="Temperature of the requests that it was trained for."
    )
    dtype: Annotated[str, Field(max_length=16)] = Field(default="bfloat16", description="Dtype of its weights.")

    @field_validator("target")
    @classmethod
    def _identity(cls, target: TargetFacts) -> TargetFacts:
        return target.identity


Figure = Annotated[str, Field(max_length=16)]
"""A decimal string in status."""


class EvaluationSlice(Observed):
    """Held-out figures of a part of the rows."""

    name: Annotated[str, Field(max_length=64)] = Field(
        description="source/NAME; length/1k, length/4k, length/over (tokens of the row); constrained; novel (like "
        "nothing to train on); offPolicy."
    )
    acceptance_length: Figure = Field(description="Mean tokens per target step.")
    positions: int = Field(default=0, description="Anchors that were judged.")


class Evaluation(Observed):
    """Held-out figures of a drafter; decimal strings."""

    acceptance_length: Figure = Field(
        description="Mean tokens per target step, bonus token included, joint over the draft steps."
    )
    served_length: Figure | None = Field(
        default=None,
        description="The same as an engine's counters will show it on this text: easy stretches are drafted in few "
        "steps, so they weigh less than in acceptanceLength.",
    )
    variant: Literal["Greedy", "OneHot", "Probabilistic"] | None = Field(
        default=None,
        description="What acceptanceLength is: tauT0, tauT1OneHot or tauT1Probabilistic, by how the drafter is served.",
    )
    per_position: Annotated[list[Figure], Field(max_length=32)] = Field(
        default_factory=list, description="Share of drafts whose first k tokens are all accepted, k = 1…K."
    )
    positions: int = Field(default=0, description="Anchors that were judged.")
    in_vocabulary: Figure | None = Field(
        default=None, description="Share of held-out tokens inside the draft vocabulary: the ceiling."
    )
    vocabulary_mass: Figure | None = Field(
        default=None, description="The target's probability inside the draft vocabulary: the ceiling where it samples."
    )
    tau_t0: Figure | None = Field(default=None, description="Greedy target: acceptance length over greedy rows.")
    tau_t1_one_hot: Figure | None = Field(
        default=None, description="Sampling target, greedy drafts: acceptance length over sampled rows."
    )
    tau_t1_probabilistic: Figure | None = Field(
        default=None, description="Sampling target, sampled drafts: acceptance length over sampled rows."
    )
    alpha: Annotated[list[Figure], Field(max_length=32)] = Field(
        default_factory=list, description="Mean overlap of the target's and the drafter's distributions at step k."
    )
    argmax_match: Annotated[list[Figure], Field(max_length=32)] = Field(
        default_factory=list, description="Share of step k's drafts that are the target's most likely token."
    )
    slices: Annotated[list[EvaluationSlice], Field(max_length=32), ListMap(("name",))] = Field(
        default_factory=list, description="The same by source, length and grammar; and rows of another model's text."
    )


class Weights(Observed):
    """One set of weights, by content."""

    digest: Digest = Field(description="Digest of the weights and their contract.")
    uri: Uri = Field(description="The manifest of the weights in object storage.")


class DrafterRefStatus(Weights):
    """A drafter as an endpoint or a job names it in status."""

    name: ObjectName = Field(description="Name of the Drafter.")


Json = dict[str, Any]
"""A Kubernetes object or part of one."""
