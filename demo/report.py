"""What the demo found: `report.json` for programs, a table for people. Pure, but for writing the file."""

import json
from pathlib import Path
from typing import Any

from rich.table import Table

from demo import figures, model
from demo.story import FIRST_REQUESTS, Comparison, Generation

_ROWS = (
    ("tokens/s, one stream", "tokens_per_s", "{:.1f}"),
    ("time to first token, p50 (s)", "ttft_p50", "{:.3f}"),
    ("request, p50 (s)", "e2e_p50", "{:.2f}"),
    ("request, p90 (s)", "e2e_p90", "{:.2f}"),
    ("acceptance rate", "acceptance_rate", "{:.2f}"),
    ("acceptance length", "acceptance_length", "{:.2f}"),
)


def build(first: Generation, own: Comparison) -> dict[str, Any]:
    """Return the report of generation 1 on the traffic that it was made for."""
    evaluation = first.training.evaluation
    return {
        "model": model.NAME,
        "traffic_requests": FIRST_REQUESTS,
        "dataset": {
            "rows": first.dataset.rows,
            "supervised_tokens": first.dataset.supervised_tokens,
            "digest": first.dataset.digest,
        },
        "training": {
            "steps": first.training.steps,
            "seconds": first.training.seconds,
            "tokens_per_s": first.training.tokens_per_second,
            "joint_acceptance_length": float(evaluation.acceptance_length) if evaluation else None,
            "served_acceptance_length": float(evaluation.served_length or 1) if evaluation else None,
        },
        "drafter": {"digest": first.digest},
        "base": figures.summary(own.base),
        "drafted": {**figures.summary(own.drafted), **own.speculation.figures()},
        "speedup": figures.speedup(own.base, own.drafted),
        "lossless_greedy": {"identical": figures.identical(own.base, own.drafted), "total": len(own.base)},
    }


def add_foreign(report: dict[str, Any], foreign: Comparison) -> None:
    """Add what the drafter brings to a workload that it was not made for."""
    report["foreign"] = {"speedup": figures.speedup(foreign.base, foreign.drafted)}


def add_second(report: dict[str, Any], second: Generation, acceptance_length: float) -> None:
    """Add the second generation, with its served acceptance length."""
    report["generation2"] = {"digest": second.digest, "acceptance_length": round(acceptance_length, 3)}


def write(report: dict[str, Any], path: Path) -> None:
    """Write the report."""
    path.write_text(json.dumps(report, indent=2) + "\n")


def table(report: dict[str, Any]) -> Table:
    """Lay the comparison out for a person."""
    shown = Table(title="The held-out requests, greedy, one at a time")
    for column in ("", "base", "drafted"):
        shown.add_column(column, justify="left" if not column else "right")
    for title, name, form in _ROWS:
        cells = (form.format(side[name]) if name in side else "-" for side in (report["base"], report["drafted"]))
        shown.add_row(title, *cells)
    same = report["lossless_greedy"]
    shown.add_section()
    shown.add_row("speed-up", "1.00x", f"{report['speedup']:.2f}x")
    shown.add_row("answers that are the same text", "-", f"{same['identical']} of {same['total']}")
    return shown
