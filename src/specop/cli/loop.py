"""The loop of one namespace, as tables of text: what exists, how far it is, what waits for whom. Pure.

It is: a reading of `status` and nothing else, so that it can only say what the operator said.
It is not: how it looks in a terminal (`render`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from specop.api import reasons
from specop.api.base import Condition
from specop.api.dataset import SpeculatorDataset
from specop.api.drafter import Drafter
from specop.api.endpoint import DraftedEndpoint
from specop.api.shared import DrafterRefStatus
from specop.api.training_job import SpeculatorTrainingJob
from specop.common.clock import format_duration
from specop.common.hashing import short

Ours = SpeculatorDataset | SpeculatorTrainingJob | Drafter | DraftedEndpoint

NOTHING = "-"


@dataclass(frozen=True, slots=True)
class Loop:
    """Everything of ours in a namespace, each kind by name."""

    namespace: str
    endpoints: Sequence[DraftedEndpoint] = ()
    datasets: Sequence[SpeculatorDataset] = ()
    jobs: Sequence[SpeculatorTrainingJob] = ()
    drafters: Sequence[Drafter] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """Text in columns."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tables(loop: Loop) -> list[Table]:
    """Return one table a kind, in the order of the loop; kinds without objects are left out."""
    found = [
        Table(
            ("ENDPOINT", "READY", "REASON", "SERVING", "ACCEPTLEN", "TOK/S", "CAPTURED", "CANDIDATE"), _endpoints(loop)
        ),
        Table(("DATASET", "SUCCEEDED", "REASON", "ROWS", "HOLDOUT", "TOKENS", "DIGEST"), _datasets(loop)),
        Table(("JOB", "SUCCEEDED", "REASON", "STEP", "TOK/S", "LOSS", "ACCEPTLEN", "ETA", "DRAFTER"), _jobs(loop)),
        Table(("DRAFTER", "READY", "ACCEPTLEN", "DIGEST", "PARENT", "APPROVEDBY"), _drafters(loop)),
    ]
    return [table for table in found if table.rows]


def waits(loop: Loop) -> Table:
    """List what is not finished, what it waits for, and what a person can do."""
    return Table(("WAITS", "REASON", "FOR"), tuple(_waits(loop)))


def condition(resource: Ours, kind: str) -> Condition:
    """Return the condition of that type; Unknown where the operator has not spoken yet."""
    found = (item for item in resource.status.conditions if item.type == kind)
    return next(found, Condition(type=kind, status="Unknown", reason=reasons.PENDING))


def named(drafter: DrafterRefStatus | None) -> str:
    """Name a drafter by name and first digits."""
    return f"{drafter.name} {short(drafter.digest)}" if drafter else NOTHING


def duration(seconds: int | None) -> str:
    """Fill a cell with a duration, or leave a dash."""
    return NOTHING if seconds is None else format_duration(seconds)


def _endpoints(loop: Loop) -> tuple[tuple[str, ...], ...]:
    return tuple(_endpoint(item) for item in loop.endpoints)


def _endpoint(endpoint: DraftedEndpoint) -> tuple[str, ...]:
    status = endpoint.status
    ready = condition(endpoint, reasons.READY)
    candidate = status.drafter.candidate
    return (
        endpoint.metadata.name,
        ready.status,
        ready.reason,
        named(status.drafter.serving) if status.drafter.serving else "base",
        _text(status.measured and status.measured.acceptance_length),
        _text(status.measured and status.measured.tokens_per_second),
        _text(status.capture and f"{status.capture.requests}"),
        f"{named(candidate)} {candidate.state}".rstrip() if candidate else NOTHING,
    )


def _datasets(loop: Loop) -> tuple[tuple[str, ...], ...]:
    def row(dataset: SpeculatorDataset) -> tuple[str, ...]:
        succeeded, made, progress = (
            condition(dataset, reasons.SUCCEEDED),
            dataset.status.result,
            dataset.status.progress,
        )
        rows = made.rows if made else progress.rows if progress else None
        return (
            dataset.metadata.name,
            succeeded.status,
            succeeded.reason,
            _text(rows is not None and f"{rows}"),
            _text(made and f"{made.holdout_rows}"),
            _text(made and f"{made.tokens}"),
            _text(made and short(made.digest)),
        )

    return tuple(row(item) for item in loop.datasets)


def _jobs(loop: Loop) -> tuple[tuple[str, ...], ...]:
    def row(job: SpeculatorTrainingJob) -> tuple[str, ...]:
        succeeded, now, made = condition(job, reasons.SUCCEEDED), job.status.progress, job.status.result
        head = (job.metadata.name, succeeded.status, succeeded.reason)
        if made is not None:
            length = made.evaluation.acceptance_length if made.evaluation else None
            return (
                *head,
                f"{made.steps}",
                f"{made.tokens_per_second}",
                NOTHING,
                _text(length),
                NOTHING,
                named(job.status.drafter),
            )
        if now is not None:
            step = f"{now.step}/{now.total_steps}" if now.total_steps else now.stage
            figures = (
                f"{now.tokens_per_second}",
                _text(now.loss),
                _text(now.acceptance_length),
                duration(now.eta_seconds),
            )
            return (*head, step or NOTHING, *figures, NOTHING)
        return (*head, *(NOTHING for _ in range(6)))

    return tuple(row(item) for item in loop.jobs)


def _drafters(loop: Loop) -> tuple[tuple[str, ...], ...]:
    def row(drafter: Drafter) -> tuple[str, ...]:
        lineage, status = drafter.spec.lineage, drafter.status
        return (
            drafter.metadata.name,
            condition(drafter, reasons.READY).status,
            _text(status.evaluation and status.evaluation.acceptance_length),
            _text(status.digest and short(status.digest)),
            _text(lineage and lineage.parent and lineage.parent.name),
            _text(status.approved_by),
        )

    return tuple(row(item) for item in loop.drafters)


def _waits(loop: Loop) -> Iterator[tuple[str, str, str]]:
    runs: list[Ours] = [*loop.datasets, *loop.jobs]
    serving: list[Ours] = [*loop.drafters, *loop.endpoints]
    tops = [(item, _speaking(item, reasons.SUCCEEDED)) for item in runs]
    tops += [(item, _speaking(item, reasons.READY)) for item in serving]
    for item, top in tops:
        if top.status != "True" or top.type == reasons.STALLED:
            yield f"{item.KIND} {item.metadata.name}", top.reason, top.message or NOTHING
    for endpoint in loop.endpoints:
        candidate = endpoint.status.drafter.candidate
        if candidate is not None and candidate.state == reasons.AWAITING_APPROVAL:
            what = f"{endpoint.KIND} {endpoint.metadata.name}"
            yield what, candidate.state, f"specop approve endpoint/{endpoint.metadata.name} ({named(candidate)})"


def _speaking(item: Ours, top: str) -> Condition:
    """Return the condition that says most: Stalled where a user has to act, else the one at the top."""
    stalled = condition(item, reasons.STALLED)
    return stalled if stalled.status == "True" else condition(item, top)


def _text(value: object) -> str:
    """Fill a cell, or leave a dash where there is nothing to say."""
    return str(value) if value else NOTHING
