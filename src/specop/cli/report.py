"""One endpoint on one page: what it serves, where that came from, what it measured. Pure; as JSON and as text."""

from typing import Any

from specop.api import reasons
from specop.api.base import Model
from specop.api.drafter import Drafter
from specop.api.endpoint import DraftedEndpoint
from specop.api.shared import Json
from specop.cli.errors import CliError
from specop.cli.loop import NOTHING, Loop, Table, condition
from specop.common.hashing import short
from specop.domain.lineage import follow


def build(loop: Loop, name: str) -> Json:
    """Collect what is known of an endpoint and of its drafters' lineage; raises CliError when it does not exist.

    `generations` is oldest first: each with its dataset's counts, training figures and held-out evaluation.
    """
    endpoint = next((item for item in loop.endpoints if item.metadata.name == name), None)
    if endpoint is None:
        raise CliError(f"there is no DraftedEndpoint {name} in namespace {loop.namespace}")
    ready, status = condition(endpoint, reasons.READY), endpoint.status
    return {
        "endpoint": name,
        "namespace": loop.namespace,
        "target": endpoint.spec.target.uri,
        "ready": {"status": ready.status, "reason": ready.reason, "message": ready.message},
        "serving": _json(status.drafter.serving, without=("contract",)),
        "candidate": _json(status.drafter.candidate),
        "failed": [item.to_json() for item in status.drafter.failed],
        "capture": _json(status.capture),
        "measured": _json(status.measured),
        "generations": [_generation(loop, drafter) for drafter in _lineage(endpoint, loop)],
    }


def tables(report: Json) -> list[Table]:
    """Lay the page out as tables: facts, figures, generations."""
    serving, measured, capture = report["serving"] or {}, report["measured"] or {}, report["capture"] or {}
    facts = (
        ("target", report["target"]),
        ("ready", f"{report['ready']['status']} {report['ready']['reason']}"),
        ("serving", f"{serving['name']} {serving['digest']}" if serving else "base alone"),
        ("serving since", serving.get("since", NOTHING) or NOTHING),
        ("captured requests", _cell(capture.get("requests"))),
        ("captured until", _cell(capture.get("shippedUntil"))),
    )
    figures = (
        ("acceptance length", _cell(measured.get("acceptanceLength"))),
        ("acceptance rate", _cell(measured.get("acceptanceRate"))),
        ("per position", " ".join(measured.get("perPosition") or ()) or NOTHING),
        ("tokens/s, one stream", _cell(measured.get("tokensPerSecond"))),
        ("time to first token, p50", _milliseconds(measured.get("ttftP50Ms"))),
        (
            "request, p50 / p90",
            f"{_milliseconds(measured.get('e2eP50Ms'))} / {_milliseconds(measured.get('e2eP90Ms'))}",
        ),
        ("requests in window", _cell(measured.get("requests"))),
    )
    generations = tuple(_row(generation) for generation in report["generations"])
    columns = (
        "GENERATION",
        "DIGEST",
        "ACCEPTLEN",
        "PER POSITION",
        "STEPS",
        "SECONDS",
        "ROWS",
        "SUPERVISED",
        "PARENT",
        "APPROVEDBY",
    )
    return [
        Table(("ENDPOINT", f"{report['namespace']}/{report['endpoint']}"), facts),
        Table(("MEASURED", ""), figures),
        *([Table(columns, generations)] if generations else []),
    ]


def _lineage(endpoint: DraftedEndpoint, loop: Loop) -> list[Drafter]:
    """Return the drafters that the endpoint follows, oldest first."""
    origin = endpoint.spec.drafter.from_ if endpoint.spec.drafter else None
    found = follow(loop.drafters, origin) if origin else []
    return sorted(found, key=lambda item: (item.metadata.creation_timestamp or "", item.metadata.name))


def _generation(loop: Loop, drafter: Drafter) -> Json:
    lineage = drafter.spec.lineage
    made_by = lineage.training_job.name if lineage and lineage.training_job else None
    job = next((item for item in loop.jobs if item.metadata.name == made_by), None)
    dataset_name = job.spec.dataset_ref.name if job else None
    dataset = next((item for item in loop.datasets if item.metadata.name == dataset_name), None)
    return {
        "drafter": drafter.metadata.name,
        "digest": drafter.status.digest,
        "parent": lineage.parent.name if lineage and lineage.parent else None,
        "approvedBy": drafter.status.approved_by,
        "evaluation": _json(drafter.status.evaluation),
        "training": _json(job.status.result, without=("evaluation",)) if job else None,
        "dataset": _json(dataset.status.result, without=("target", "uri")) if dataset else None,
    }


def _row(generation: Json) -> tuple[str, ...]:
    evaluation, training, dataset = (generation[part] or {} for part in ("evaluation", "training", "dataset"))
    return (
        generation["drafter"],
        short(generation["digest"] or NOTHING),
        _cell(evaluation.get("acceptanceLength")),
        " ".join(evaluation.get("perPosition", ())) or NOTHING,
        _cell(training.get("steps")),
        _cell(training.get("seconds")),
        _cell(dataset.get("rows")),
        _cell(dataset.get("supervisedTokens")),
        _cell(generation["parent"]),
        _cell(generation["approvedBy"]),
    )


def _json(model: Model | None, without: tuple[str, ...] = ()) -> Json | None:
    if model is None:
        return None
    return {name: value for name, value in model.to_json().items() if name not in without}


def _cell(value: Any) -> str:
    return NOTHING if value is None else str(value)


def _milliseconds(value: int | None) -> str:
    return NOTHING if value is None else f"{value} ms"
