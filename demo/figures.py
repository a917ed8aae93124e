"""Arithmetic of the comparison: from timed answers and counter differences to the figures that are reported. Pure.

Numerics: rates are totals over totals, never means of rates; percentiles are nearest-rank, so that each is a value that
was seen; counters are read before and after on one pod, so that no restart lies between.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Answer:
    """One answered request. Seconds are wall time as the client saw it."""

    text: str
    tokens: int
    first_token_seconds: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Speculation:
    """The engine's counters since its start."""

    steps: int
    """Of the target, after the first token of each answer: drafts that a grammar throws away are no drafts to it."""
    draft_tokens: int
    accepted_tokens: int
    accepted_per_position: tuple[int, ...]

    def since(self, before: "Speculation") -> "Speculation":
        """Return what was counted after `before`; raises ValueError if that was on another engine."""
        if self.steps < before.steps:
            message = f"{self.steps} steps after {before.steps}: these are the counters of two engines"
            raise ValueError(message)
        pairs = zip(self.accepted_per_position, before.accepted_per_position, strict=True)
        return Speculation(
            steps=self.steps - before.steps,
            draft_tokens=self.draft_tokens - before.draft_tokens,
            accepted_tokens=self.accepted_tokens - before.accepted_tokens,
            accepted_per_position=tuple(after - earlier for after, earlier in pairs),
        )

    @property
    def acceptance_length(self) -> float:
        """Mean tokens of one target step, the bonus token included."""
        return 1 + self.accepted_tokens / self.steps

    def figures(self) -> dict[str, Any]:
        """Return what the report says of it."""
        return {
            "acceptance_rate": round(self.accepted_tokens / self.draft_tokens, 3),
            "acceptance_length": round(self.acceptance_length, 3),
            "per_position": [round(count / self.steps, 3) for count in self.accepted_per_position],
        }


def summary(answers: Sequence[Answer]) -> dict[str, float]:
    """Return tokens per second of one stream, and latencies in seconds."""
    return {
        "tokens_per_s": round(tokens_per_second(answers), 2),
        "ttft_p50": round(percentile([answer.first_token_seconds for answer in answers], 50), 4),
        "e2e_p50": round(percentile([answer.seconds for answer in answers], 50), 4),
        "e2e_p90": round(percentile([answer.seconds for answer in answers], 90), 4),
    }


def tokens_per_second(answers: Sequence[Answer]) -> float:
    """Return all tokens over all seconds of requests that were sent one after another."""
    return sum(answer.tokens for answer in answers) / sum(answer.seconds for answer in answers)


def speedup(base: Sequence[Answer], drafted: Sequence[Answer]) -> float:
    """Return how many times faster the same requests were answered."""
    return round(tokens_per_second(drafted) / tokens_per_second(base), 3)


def identical(base: Sequence[Answer], drafted: Sequence[Answer]) -> int:
    """Count the requests whose two answers are the same text."""
    return sum(one.text == other.text for one, other in zip(base, drafted, strict=True))


def percentile(values: Sequence[float], percent: int) -> float:
    """Return the nearest-rank percentile of a non-empty sequence."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def speculation(series: Mapping[str, float]) -> Speculation:
    """Read the engine's counters out of its metrics page, by name of the series without labels but the position."""
    prefix = "vllm:spec_decode_num_"
    positions = sorted(
        int(name.rpartition("/")[2]) for name in series if name.startswith(f"{prefix}accepted_tokens_per_pos_total/")
    )
    return Speculation(
        steps=int(series["vllm:inter_token_latency_seconds_count"]),
        draft_tokens=int(series[f"{prefix}draft_tokens_total"]),
        accepted_tokens=int(series[f"{prefix}accepted_tokens_total"]),
        accepted_per_position=tuple(
            int(series[f"{prefix}accepted_tokens_per_pos_total/{position}"]) for position in positions
        ),
    )
