"""PURE arithmetic on the engine's counters: a page to counters, two of those to a difference, that to figures.

Only counters and histograms are read, never gauges. The time between engine steps rises when drafting works (a step
yields more tokens), so the speed of a stream comes from time per output token.

That time is observed once a step of each request after its first token, so its count is the target's steps, and what is
accepted is counted per step. The engine's own counter of drafts leaves out those that a grammar forbids from the first
token on, which are thrown away unseen: by it a drafter that knows nothing of the grammar looks three times as good.

Reset: an engine that restarted begins at zero. If any counter fell, all of the sample is new since the restart.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from math import inf

from prometheus_client.parser import text_string_to_metric_families

from specop.api.endpoint import Measured

Counters = Mapping[tuple[str, str], float]
"""Value by series and, where one matters, label: draft position, or upper bound of a bucket (cumulative)."""

_SERIES = {
    "vllm:spec_decode_num_drafts_total": ("drafts", None),
    "vllm:spec_decode_num_draft_tokens_total": ("draft_tokens", None),
    "vllm:spec_decode_num_accepted_tokens_total": ("accepted", None),
    "vllm:spec_decode_num_accepted_tokens_per_pos_total": ("accepted_at", "position"),
    "vllm:inter_token_latency_seconds_count": ("steps", None),
    "vllm:generation_tokens_total": ("tokens", None),
    "vllm:request_success_total": ("requests", None),
    "vllm:time_to_first_token_seconds_bucket": ("ttft", "le"),
    "vllm:e2e_request_latency_seconds_bucket": ("e2e", "le"),
    "vllm:request_time_per_output_token_seconds_sum": ("tpot_sum", None),
    "vllm:request_time_per_output_token_seconds_count": ("tpot_count", None),
}
_WANTED = re.compile(rf"^(?:{'|'.join(map(re.escape, _SERIES))})[{{ ]")


def parse(page: str) -> Counters:
    """Counters of one engine from its Prometheus page, summed over other labels; ValueError on nonsense."""
    wanted = "\n".join(line for line in page.splitlines() if _WANTED.match(line))
    counters: defaultdict[tuple[str, str], float] = defaultdict(float)
    for family in text_string_to_metric_families(wanted + "\n"):
        for sample in family.samples:
            name, label = _SERIES[sample.name]
            counters[name, sample.labels[label] if label else ""] += sample.value
    return counters


def difference(before: Counters, after: Counters) -> Counters:
    """Return what was counted between two samples of one engine; all of `after` if it restarted in between."""
    if any(after.get(series, 0.0) < value for series, value in before.items()):
        return dict(after)
    return {series: value - before.get(series, 0.0) for series, value in after.items()}


def total(parts: Iterable[Counters]) -> Counters:
    """Sum over engines, or over times."""
    result: defaultdict[tuple[str, str], float] = defaultdict(float)
    for part in parts:
        for series, value in part.items():
            result[series] += value
    return result


def quantile(buckets: Mapping[float, float], share: float) -> float | None:
    """Value below which `share` of the observations lie, linear inside a bucket; None without observations.

    `buckets`: cumulative counts by upper bound. Above the last finite bound nothing is known but that bound.
    """
    bounds = sorted(buckets)
    if not bounds or buckets[bounds[-1]] <= 0:
        return None
    wanted = share * buckets[bounds[-1]]
    lower, below = 0.0, 0.0
    for bound in bounds:
        count = buckets[bound]
        if count >= wanted and count > below:
            return lower if bound == inf else lower + (bound - lower) * (wanted - below) / (count - below)
        lower, below = (lower if bound == inf else bound), count
    return lower


def measure(window: Counters, seconds: float) -> Measured:
    """Return the figures of a window, rounded to what can be told apart."""

    def get(name: str) -> float:
        return window.get((name, ""), 0.0)

    def milliseconds(name: str, share: float) -> int | None:
        value = quantile({float(label): count for (series, label), count in window.items() if series == name}, share)
        return None if value is None else round(value * 1000)

    steps, tpot = get("steps") if get("drafts") else 0.0, get("tpot_sum")
    positions = sorted((int(label), count) for (series, label), count in window.items() if series == "accepted_at")
    return Measured(
        window_seconds=round(seconds),
        requests=round(get("requests")),
        acceptance_rate=_decimal(get("accepted"), get("draft_tokens"), 3),
        acceptance_length=_decimal(steps + get("accepted"), steps, 2),
        per_position=[f"{count / steps:.3f}" for _, count in positions] if steps and positions else None,
        tokens_per_second=_decimal(get("tpot_count"), tpot, 1),
        throughput=_decimal(get("tokens"), seconds, 1),
        ttft_p50_ms=milliseconds("ttft", 0.5),
        e2e_p50_ms=milliseconds("e2e", 0.5),
        e2e_p90_ms=milliseconds("e2e", 0.9),
    )


def _decimal(numerator: float, denominator: float, digits: int) -> str | None:
    return f"{numerator / denominator:.{digits}f}" if denominator > 0 else None
