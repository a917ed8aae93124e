"""Blocks that several kinds share: target, storage, pod template, results that travel between objects."""

from typing import Annotated, Any, Literal

from pydantic import Field

from specop.api.base import Digest, Model, ObjectName, Observed, Uri, exactly_one
from specop.api.markers import IntOrString, ListMap

Quantity = Annotated[str, IntOrString()]
Labels = Annotated[dict[str, Annotated[str, Field(max_length=63)]], Field(max_length=16)]
"""At most 16 labels."""


class TargetSpec(Model):
    """The model that is served, for which a drafter drafts."""

    uri: Uri = Field(description="Folder of the model in object storage: config, tokenizer, safetensors.")


class SecretRef(Model):
    """A Secret in the same namespace."""

    name: Annotated[str, Field(min_length=1, max_length=253)] = Field(description="Name of the Secret.")


class KeyRef(Model):
    """A key of a ConfigMap in the same namespace."""

    name: Annotated[str, Field(min_length=1, max_length=253)] = Field(description="Name of the ConfigMap.")
    key: Annotated[str, Field(min_length=1, max_length=253)] = Field(default="ca.crt", description="Key inside it.")


class Credentials(Model):
    """How pods get access to storage; the operator itself never holds it."""

    secret_ref: SecretRef | None = Field(
        default=None, description="Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, given to pods as environment."
    )
    service_account_name: Annotated[str, Field(min_length=1, max_length=63)] | None = Field(
        default=None, description="ServiceAccount of the pods, bound to a cloud identity."
    )


class Storage(Model):
    """Object storage of this object. What is unset comes from the operator's defaults."""

    output: Uri | None = Field(default=None, description="Where datasets, drafters, runs and evidence are written.")
    endpoint_url: Annotated[str, Field(max_length=512, pattern=r"^https?://[^\s]+$")] | None = Field(
        default=None, description="URL of an S3-compatible server; unset means AWS."
    )
    region: Annotated[str, Field(min_length=1, max_length=64)] | None = Field(default=None, description="Region.")
    ca_bundle_ref: KeyRef | None = Field(default=None, description="ConfigMap with the certificates to trust.")
    credentials: Annotated[Credentials, exactly_one("secretRef", "serviceAccountName")] | None = Field(
        default=None, description="Default: the Secret `specop-storage` in this namespace."
    )


class EnvVar(Model):
    """An environment variable with a plain value."""

    name: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
    value: Annotated[str, Field(max_length=4096)] = ""


class Toleration(Model):
    """A toleration, as in a PodSpec."""

    key: Annotated[str, Field(max_length=253)] | None = None
    operator: Literal["Exists", "Equal"] | None = None
    value: Annotated[str, Field(max_length=63)] | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    toleration_seconds: int | None = None


class Resources(Model):
    """Requests and limits of the main container."""

    requests: Annotated[dict[str, Quantity], Field(max_length=16)] | None = None
    limits: Annotated[dict[str, Quantity], Field(max_length=16)] | None = None


class PodTemplate(Model):
    """The few things about pods that users set; everything else is ours."""

    node_selector: Labels | None = Field(default=None, description="Nodes that may run the pods.")
    tolerations: Annotated[list[Toleration], Field(max_length=16)] | None = None
    resources: Resources | None = Field(default=None, description="Requests and limits of the main container.")
    labels: Labels | None = Field(default=None, description="Extra labels on the pods.")
    env: Annotated[list[EnvVar], Field(max_length=64), ListMap(("name",))] | None = Field(
        default=None, description="Extra environment of the main container."
    )
    runtime_class_name: Annotated[str, Field(max_length=253)] | None = None
    priority_class_name: Annotated[str, Field(max_length=253)] | None = None


class NamedUid(Observed):
    """An object by name and identity, without an owner reference."""

    name: Annotated[str, Field(max_length=253)]
    uid: Annotated[str, Field(max_length=64)] = ""


class TargetFacts(Observed):
    """What is known of a target's bytes."""

    fingerprint: Digest = Field(description="Digest over configuration, tokenizer, template and weight files.")
    tokenizer_hash: Digest
    chat_template_hash: Digest
    vocab_size: int
    hidden_size: int
    num_layers: int
    architecture: Annotated[str, Field(max_length=128)] = ""
    quantization: Annotated[str, Field(max_length=64)] = "none"


class Contract(Observed):
    """What binds a drafter to its target. Compared field by field before a GPU is taken, and again before the engine starts."""

    format_version: int = 1
    target: TargetFacts
    algorithm: Literal["eagle3"] = "eagle3"
    architecture: Annotated[str, Field(max_length=64)] = Field(default="Eagle3", description="Eagle3 or Eagle31.")
    draft_vocab_size: int
    aux_layers: Annotated[list[int], Field(max_length=16)] = Field(description="Layers of the target that are captured.")
    decoding_heads: int = Field(description="Draft steps unrolled at training; serving drafts no more tokens.")
    trained_length: int = Field(description="Longest row, in tokens, that it was trained on.")
    draft_sample_method: Literal["greedy", "probabilistic"] = "greedy"
    serving_temperature: Annotated[str, Field(max_length=16)] = "0"
    dtype: Annotated[str, Field(max_length=16)] = "bfloat16"


class Evaluation(Observed):
    """Held-out figures of a drafter; decimal strings."""

    acceptance_length: Annotated[str, Field(max_length=16)] = Field(
        description="Mean tokens per target step, bonus token included, joint over the draft steps."
    )
    per_position: Annotated[list[Annotated[str, Field(max_length=16)]], Field(max_length=32)] = Field(
        default_factory=list, description="Share of drafts whose first k tokens all agree, k = 1…K."
    )
    positions: int = Field(default=0, description="Anchors that were judged.")
    in_vocabulary: Annotated[str, Field(max_length=16)] | None = Field(
        default=None, description="Share of held-out tokens inside the draft vocabulary: the ceiling."
    )


class Weights(Observed):
    """One set of weights, by content."""

    digest: Digest
    uri: Uri = Field(description="The manifest of the weights in object storage.")


class DrafterRefStatus(Weights):
    """A drafter as an endpoint or a job names it in status."""

    name: ObjectName


Json = dict[str, Any]
"""A Kubernetes object or part of one."""
