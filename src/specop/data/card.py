"""A dataset on one page: HTML that needs nothing else, for whoever has to say what a drafter was trained on.

Numbers of `report.json` and nothing of any row. Names of sources are the user's own and are escaped.
"""

from collections.abc import Iterable
from html import escape
from typing import Any

from specop.data.formats import Json

_STYLE = """
:root{color-scheme:light dark;font:15px/1.5 system-ui,sans-serif}body{max-width:60rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.4rem}h2{font-size:1.05rem;margin-top:2rem}table{border-collapse:collapse;width:100%}
th,td{padding:.3rem .6rem;text-align:right;border-bottom:1px solid #8884;font-variant-numeric:tabular-nums}
th:first-child,td:first-child{text-align:left}code{font-size:.85em;word-break:break-all}
.bar{display:inline-block;height:.7rem;background:#3b82c4;border-radius:2px;vertical-align:middle}
td.wide{width:45%;text-align:left}.left{background:#8888}
"""
_DROPPED = {
    "setAside": "malformed",
    "failedResponses": "failed or aborted answers",
    "unsupervised": "without a generated token",
    "filtered": "left out by SQL",
    "noConsent": "marked as not for training",
    "unanswered": "refused by the target, asked anew",
    "private": "with personal data, dropped by policy",
    "duplicates": "exact duplicates",
    "outweighed": "beyond the source's share",
}


def card(report: Json, digest: str, target: str) -> str:
    """Return the page of one dataset."""
    counts, rows = report["counts"], report["rows"]
    title = f"Dataset {escape(report['name'])}"
    facts = [
        ("Digest", f"<code>{escape(digest)}</code>"),
        ("Target", f"<code>{escape(target)}</code>"),
        ("Rows", f"{rows['train']:,} to train on, {rows['holdout']:,} held out"),
        ("Tokens", f"{rows['tokens']:,}, of which {rows['supervisedTokens']:,} are learnt"),
        ("Constrained by a grammar", f"{rows['constrained']:,} rows"),
    ]
    if rows["respelled"]:
        words = "rows whose tokens may not be those that were generated: their log has none"
        facts.append(("Constrained, and tokenised from text", f"{rows['respelled']:,} {words}"))
    parts = [
        f"<h1>{title}</h1>",
        _table((), ((name, value) for name, value in facts)),
        "<h2>From lines to rows</h2>",
        _bars(_funnel(counts), counts["read"]),
        "<h2>Mix</h2>",
        _table(
            ("source", "objects", "conversations", "share", "repeated", "learnt tokens", "share", "oldest", "newest"),
            (
                (
                    *(escape(of["name"]), f"{of['objects']:,}", f"{of['conversations']:,}"),
                    *(f"{of['conversationPercent']} %", f"{of['repeated']:,}", f"{of['supervisedTokens']:,}"),
                    *(f"{of['supervisedPercent']} %", of["oldest"] or "-", of["newest"] or "-"),
                )
                for of in report["sources"]
            ),
        ),
        "<h2>Tokens of a row to train on</h2>",
        _lengths(report["lengths"]["tokens"]),
        "<h2>Learnt tokens of a row</h2>",
        _lengths(report["lengths"]["supervisedTokens"]),
    ]
    privacy = report["privacy"]
    if privacy["altered"]:
        words = f"{privacy['altered']:,} conversations, by what was found"
        parts += [
            "<h2>Personal data and secrets that were replaced</h2>",
            _table((words, ""), _sorted(privacy["entities"])),
        ]
    if "languages" in report:
        parts += ["<h2>Languages</h2>", _table(("language", "lines that may be used"), _sorted(report["languages"]))]
    if report["unused"]:
        parts += ["<h2>Why lines became no rows</h2>", _table(("reason", "lines"), _sorted(report["unused"]))]
    head = f'<meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'


def _funnel(counts: Json) -> Iterable[tuple[str, int]]:
    yield "read", counts["read"]
    known = 0
    for name, words in _DROPPED.items():
        known += counts[name]
        yield f"less {words}", counts[name]
    yield "less unsupported or refused by the template", counts["dropped"] + counts["setAside"] - known
    yield "kept", counts["kept"]
    if counts["regenerated"]:
        yield "kept with a new answer of the target's", counts["regenerated"]


def _lengths(buckets: list[Json]) -> str:
    most = max((of["rows"] for of in buckets), default=1)
    return _bars(((f"up to {of['upTo']:,}", of["rows"]) for of in buckets), most)


def _bars(lines: Iterable[tuple[str, int]], most: int) -> str:
    def bar(name: str, count: int) -> str:
        kind = "bar left" if name.startswith("less ") else "bar"
        return f'<span class="{kind}" style="width:{100 * count / max(most, 1):.1f}%"></span>'

    rows = (
        f'<tr><td>{escape(name)}</td><td>{count:,}</td><td class="wide">{bar(name, count)}</td></tr>'
        for name, count in lines
    )
    return f"<table>{''.join(rows)}</table>"


def _table(head: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> str:
    top = f"<tr>{''.join(f'<th>{escape(name)}</th>' for name in head)}</tr>" if head else ""
    lines = ("<tr>" + "".join(f"<td>{value}</td>" for value in row) + "</tr>" for row in rows)
    return f"<table>{top}{''.join(lines)}</table>"


def _sorted(counts: dict[str, int]) -> Iterable[tuple[str, str]]:
    for reason, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        yield escape(reason), f"{count:,}"
