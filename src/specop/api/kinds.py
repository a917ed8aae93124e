"""The kinds of specop in one table: model, scope, short name, and the columns that `kubectl get` shows."""

from dataclasses import dataclass

from specop.api.base import Resource
from specop.api.dataset import SpeculatorDataset
from specop.api.drafter import Drafter
from specop.api.endpoint import DraftedEndpoint
from specop.api.preset import SpeculatorPreset
from specop.api.reasons import READY, SUCCEEDED
from specop.api.training_job import SpeculatorTrainingJob

CATEGORY = "specop"
"""`kubectl get specop` lists all kinds."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of `kubectl get`; `path` is JSONPath from the object's root."""

    name: str
    path: str
    type: str = "string"
    wide: bool = False
    """Shown with `-o wide` alone."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What the API server knows of a kind beside its schema."""

    model: type[Resource]
    short_name: str
    columns: tuple[Column, ...]
    namespaced: bool = True
    scaled: bool = False
    """With the scale subresource: `spec.replicas`, `status.replicas`, `status.selector`."""

    @property
    def has_status(self) -> bool:
        """Whether the kind has the status subresource."""
        return "status" in self.model.model_fields


AGE = Column("Age", ".metadata.creationTimestamp", "date")


def _condition(name: str, condition: str, field: str) -> Column:
    return Column(name, f'.status.conditions[?(@.type=="{condition}")].{field}')


KINDS: tuple[Kind, ...] = (
    Kind(
        SpeculatorDataset,
        "sds",
        (
            _condition("Succeeded", SUCCEEDED, "status"),
            _condition("Reason", SUCCEEDED, "reason"),
            Column("Rows", ".status.result.rows", "integer"),
            Column("Tokens", ".status.result.tokens", "integer"),
            Column("Digest", ".status.shortDigest"),
            AGE,
        ),
    ),
    Kind(
        SpeculatorTrainingJob,
        "stj",
        (
            _condition("Succeeded", SUCCEEDED, "status"),
            _condition("Reason", SUCCEEDED, "reason"),
            Column("Step", ".status.progress.step", "integer"),
            Column("AcceptLen", ".status.progress.acceptanceLength"),
            Column("Drafter", ".status.drafter.name"),
            Column("Steps", ".status.progress.totalSteps", "integer", wide=True),
            Column("Tok/s", ".status.progress.tokensPerSecond", "integer", wide=True),
            Column("MFU%", ".status.progress.mfuPercent", "integer", wide=True),
            Column("MemMiB", ".status.progress.memoryMib", "integer", wide=True),
            Column("Loss", ".status.progress.loss", wide=True),
            Column("ETA", ".status.progress.eta", wide=True),
            AGE,
        ),
    ),
    Kind(
        Drafter,
        "dr",
        (
            _condition("Ready", READY, "status"),
            Column("Target", ".spec.target.uri"),
            Column("AcceptLen", ".status.evaluation.acceptanceLength"),
            Column("Digest", ".status.shortDigest"),
            Column("ApprovedBy", ".status.approvedBy"),
            AGE,
        ),
    ),
    Kind(
        DraftedEndpoint,
        "dre",
        (
            _condition("Ready", READY, "status"),
            _condition("Reason", READY, "reason"),
            Column("Drafter", ".status.drafter.serving.name"),
            Column("AcceptLen", ".status.measured.acceptanceLength"),
            Column("Tok/s", ".status.measured.tokensPerSecond"),
            Column("Candidate", ".status.drafter.candidate.name"),
            AGE,
        ),
        scaled=True,
    ),
    Kind(SpeculatorPreset, "spr", (Column("Description", ".spec.description"), AGE), namespaced=False),
)
