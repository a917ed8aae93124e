"""How vLLM runs below an endpoint, and which flags of it are not for users because something of ours needs them."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from specop.api.base import Model
from specop.api.markers import Cel, Worded
from specop.api.shared import Resources


def _no_flag(message: str, *flags: str) -> Cel:
    """Refuse flags of the engine in all their spellings: with `_`, `=value`, `.key`, or abbreviated."""
    refused = "".join(f" {flag}" for flag in flags)
    flag = "self.split('=')[0].split('.')[0].replace('_', '-')"
    return Cel(f"!self.startsWith('--') || !'{refused}'.contains(' ' + {flag})", message)


EngineArg = Annotated[
    str,
    Field(min_length=1, max_length=1024),
    Cel(r"!self.matches('^-[^=\\s]*\\s')", "a flag and its value are two items, or one with =: --flag=value"),
    _no_flag(
        "has a field of its own: spec.target, servedName, engine.dtype, engine.maxModelLength, engine.tensorParallel",
        "--model",
        "--served-model-name",
        "--dtype",
        "--max-model-len",
        "--tensor-parallel-size",
    ),
    _no_flag(
        "the drafter is chosen by spec.drafter, and speculativeTokens bounds what it drafts",
        "--speculative-config",
        "--spec-method",
        "--spec-model",
        "--spec-tokens",
    ),
    _no_flag(
        "tokenizer, template and configuration belong to the target: put them into its folder",
        "--tokenizer",
        "--tokenizer-revision",
        "--chat-template",
        "--hf-config-path",
        "--revision",
        "--code-revision",
    ),
    _no_flag(
        "is set by specop: probes, capture, metrics and the Service depend on it",
        "--host",
        "--port",
        "--uds",
        "--middleware",
        "--config",
        "--headless",
        "--ssl-keyfile",
        "--ssl-certfile",
        "--disable-log-stats",
    ),
    _no_flag(
        "keys do not belong in a manifest: put a gateway in front of the endpoint, or a Secret behind it",
        "--api-key",
        "--hf-token",
    ),
    _no_flag(
        "would write what users say into logs: spec.capture keeps requests, in storage",
        "--enable-log-requests",
        "--enable-log-outputs",
    ),
    Cel("!self.matches('^-(tp|sc|q)(=|$)')", "write the flag out: short forms are easily missed"),
]
"""One argument of vLLM's OpenAI server that specop does not set itself."""


class Engine(Model):
    """How vLLM runs. Both arms get the same flags; only the speculative configuration differs."""

    RULES: ClassVar[tuple[Cel, ...]] = (
        Cel("!(has(self.version) && has(self.image))", "set version or image, not both", ".image"),
        Cel(
            "!has(self.resources) || !has(self.resources.limits) || !('nvidia.com/gpu' in self.resources.limits) || "
            "int(string(self.resources.limits['nvidia.com/gpu'])) >= "
            "(has(self.tensorParallel) ? self.tensorParallel : 1)",
            "tensorParallel needs as many GPUs: raise resources.limits of nvidia.com/gpu",
            ".tensorParallel",
        ),
    )

    version: (
        Annotated[
            str,
            Field(max_length=64, pattern=r"^[A-Za-z0-9_][-A-Za-z0-9_.]*$"),
            Worded("must be the tag of an image"),
        ]
        | None
    ) = Field(default=None, description="Tag of the operator's serving image.")
    image: (
        Annotated[
            str, Field(min_length=1, max_length=512, pattern=r"^[^\s]+$"), Worded("must be an image, without spaces")
        ]
        | None
    ) = Field(default=None, description="Another image.")
    args: Annotated[
        list[EngineArg],
        Field(max_length=64),
        Cel("self.size() == 0 || self[0].startsWith('-')", "must begin with a flag"),
    ] = Field(default_factory=list, description="Further flags of vLLM's OpenAI server.")
    tensor_parallel: Annotated[int, Field(ge=1, le=64)] = Field(
        default=1, description="GPUs that hold one copy of the target together."
    )
    dtype: Literal["Auto", "Float32", "Float16", "BFloat16"] = Field(
        default="Auto", description="Dtype of the engine; Auto is the target's own."
    )
    max_model_length: Annotated[int, Field(ge=64, le=16_777_216)] | None = Field(
        default=None, description="Longest request with its answer, in tokens; unset means the target's own."
    )
    resources: Resources | None = Field(default=None, description="Requests and limits of the engine's container.")
