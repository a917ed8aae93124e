"""A run as one HTML file that needs nothing else: figures, curves as inline SVG, the recipe. No scripts, no requests.

Pure: from the run's events (`events.py`) and what is known of it at the end. It holds counts and rates, never content.
"""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

WIDTH, HEIGHT = 560, 200
LEFT, BOTTOM, TOP = 56, 24, 12
TICKS = 4
STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1180px;margin:2rem auto;padding:0 1rem;color:#1c2733}
h1{font-size:1.4rem}h2{font-size:1.05rem;margin-top:2rem}
table{border-collapse:collapse}td,th{padding:.15rem 1.2rem .15rem 0;text-align:left;vertical-align:top}
th{font-weight:500;color:#5b6b7b}
figure{display:inline-block;margin:0 1rem 1rem 0}figcaption{color:#5b6b7b}
svg{display:block}svg text{font:11px system-ui,sans-serif;fill:#5b6b7b}
""".strip()

Point = tuple[float, float]
Facts = Mapping[str, Mapping[str, Any]]
"""Tables of the page, by heading."""


def render(title: str, facts: Facts, events: Sequence[Mapping[str, Any]]) -> str:
    """Return the page."""
    figures = "".join(
        _figure(caption, _points(events, event, field))
        for caption, event, field in (
            ("held-out acceptance length", "evaluation", "acceptanceLength"),
            ("acceptance length as an engine would count it", "evaluation", "expected"),
            ("training loss, smoothed", "training", "loss"),
            ("tokens a second", "training", "tokensPerSecond"),
            ("MFU, %", "training", "mfuPercent"),
        )
    )
    tables = "".join(f"<h2>{escape(heading)}</h2>{_table(rows)}" for heading, rows in facts.items())
    attempts = _table(
        {
            f"{event['time']}": " ".join(
                str(value) for key, value in event.items() if key != "time" and value is not None
            )
            for event in events
            if event["event"] in {"started", "ended"}
        }
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head><body><h1>{escape(title)}</h1>{figures}{tables}"
        f"<h2>Attempts</h2>{attempts}</body></html>\n"
    )


def _points(events: Iterable[Mapping[str, Any]], event: str, field: str) -> list[Point]:
    found = ((known.get("step"), known.get(field)) for known in events if known["event"] == event)
    return [(float(step), float(value)) for step, value in found if step is not None and value is not None]


def _table(rows: Mapping[str, Any]) -> str:
    cells = (f"<tr><th>{escape(str(k))}</th><td>{escape(_text(v))}</td></tr>" for k, v in rows.items())
    return f"<table>{''.join(cells)}</table>"


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_text(item) for item in value)
    if isinstance(value, Mapping):
        return " ".join(f"{key} {_text(item)}" for key, item in value.items())
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _figure(caption: str, points: Sequence[Point]) -> str:
    if not points:
        return ""
    return f"<figure>{_curve(points)}<figcaption>{escape(caption)}</figcaption></figure>"


def _curve(points: Sequence[Point]) -> str:
    """Draw one curve over optimiser steps; the range of values fills the height."""
    last = max(step for step, _ in points) or 1.0
    low, high = min(value for _, value in points), max(value for _, value in points)
    span = (high - low) or abs(high) or 1.0

    def place(step: float, value: float) -> Point:
        x = LEFT + (WIDTH - LEFT - 8) * step / last
        return x, TOP + (HEIGHT - TOP - BOTTOM) * (1 - (value - low) / span)

    lines = []
    for tick in range(TICKS + 1):
        value = low + span * tick / TICKS
        _, y = place(0, value)
        lines.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - 8}" y2="{y:.1f}" stroke="#e3e8ed"/>')
        lines.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.4g}</text>')
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in points))
    dots = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="#1a6fb5"><title>step {step:.0f}: {value:.4g}</title></circle>'
        for step, value in points
        for x, y in (place(step, value),)
    )
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img">{"".join(lines)}'
        f'<polyline points="{path}" fill="none" stroke="#1a6fb5" stroke-width="1.5"/>{dots}'
        f'<text x="{LEFT}" y="{HEIGHT - 6}">0</text>'
        f'<text x="{WIDTH - 8}" y="{HEIGHT - 6}" text-anchor="end">step {last:,.0f}</text></svg>'
    )
