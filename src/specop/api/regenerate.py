"""Answers asked anew of the target: `spec.regenerate` of a SpeculatorDataset, and where it asks."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from specop.api.base import Model, Observed, Ref, exactly_one
from specop.api.engine import Engine
from specop.api.markers import Cel, ListSet, Worded
from specop.api.shared import SecretRef

KEY_ENV = "SPECOP_TARGET_KEY"
"""Name in the Secret, and environment variable of the Job: bearer token of `url`."""

ENGINE_URL, ENGINE_MODEL = "http://127.0.0.1:8000/v1", "target"
"""Where a Job finds the engine of its own, and by which name."""

ServedName = Annotated[str, Field(min_length=1, max_length=256)]


class Regenerate(Model):
    """Which answers the target gives anew, and who asks it: a drafter learns what the target says, and nothing else."""

    RULES: ClassVar[tuple[Cel, ...]] = (
        exactly_one("endpointRef", "url", "engine"),
        Cel("!has(self.url) || has(self.model)", "with a url, say by which name the target is served there", ".model"),
        Cel("has(self.url) || !has(self.model)", "endpoints and engines know it: it goes with url alone", ".model"),
        Cel(
            "has(self.url) || !has(self.keySecretRef)",
            "endpoints and engines ask for no key: it goes with url alone",
            ".keySecretRef",
        ),
    )

    mode: Literal["Never", "IfTargetDiffers", "Always"] = Field(
        default="IfTargetDiffers",
        description="IfTargetDiffers: answers of which the log names another model. Prompts without an answer are "
        "always asked.",
    )
    endpoint_ref: Ref | None = Field(
        default=None,
        description="A DraftedEndpoint with the dataset's target. It does not capture these requests, but it has to "
        "bear them: better not the one that serves users.",
    )
    url: (
        Annotated[
            str,
            Field(max_length=512, pattern=r"^https?://[^\s?#]+$"),
            Worded("must be the base of an OpenAI API, such as http://host:8000/v1"),
        ]
        | None
    ) = Field(
        default=None, description="Base of an OpenAI API that serves the target with vLLM, such as http://host:8000/v1."
    )
    engine: Engine | None = Field(
        default=None,
        description="A vLLM of the dataset's own, beside its Job and gone with it; {} is one with the operator's "
        "defaults.",
    )
    model: ServedName | None = Field(default=None, description="Name of the target at url.")
    key_secret_ref: SecretRef | None = Field(
        default=None, description=f"Secret with the bearer token for url, under {KEY_ENV}."
    )
    target_names: Annotated[list[ServedName], Field(max_length=32), ListSet()] = Field(
        default_factory=list, description="Further names under which logs call the target."
    )
    concurrency: Annotated[int, Field(ge=1, le=1024)] = Field(default=16, description="Requests under way at a time.")
    max_tokens: Annotated[int, Field(ge=1, le=1_048_576)] = Field(
        default=2048, description="Most tokens of an answer, where the request itself asks for no fewer."
    )


class ResolvedRegenerate(Observed):
    """Where answers are asked anew, frozen before the Job is made."""

    url: Annotated[str, Field(max_length=512)] = Field(description="Base of the API.")
    model: Annotated[str, Field(max_length=256)] = Field(description="Name of the target there.")
    target_names: Annotated[list[ServedName], Field(max_length=128)] = Field(
        default_factory=list, description="All names under which logs call the target."
    )
