"""What `benchmarks.quality` trains and compares: arms, rows of the table, and how much at each size. Data only."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to train."""

    name: str
    corpus: str = "own"
    judged_on: str = "own"
    knobs: Json = field(default_factory=dict)
    """What differs from the size's hyperparameters."""
    peer: bool = False
    tokens_of: str | None = None
    """Arm whose tokens are taken as the budget, instead of the time."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A comparison of two arms: how much better `arm` is than `than`."""

    name: str
    arm: str
    than: str


@dataclass(frozen=True, slots=True)
class Size:
    """How much is trained."""

    seconds: float
    """Of training, each run."""
    rates: tuple[str, ...]
    seeds: int
    knobs: Json
    arms: Sequence[Arm]
    rows: Sequence[Comparison]
    served: Sequence[str] = ()
    """Rows that a real engine confirms."""


def loss(*terms: tuple[str, str]) -> Json:
    """Hyperparameters with this weighted sum of losses."""
    return {"loss": [{"name": name, "weight": weight} for name, weight in terms]}


UNMASKED = {"constrained": "Unmasked"}
MASKED_KL = loss(("KL", "1"))
KL, HYBRID = {**MASKED_KL, **UNMASKED}, {**loss(("LKHybrid", "1")), **UNMASKED}
MIXED = {**loss(("CE", "0.7"), ("KL", "0.3")), **UNMASKED}
SERVED = {**MASKED_KL, "constrained": "Served"}
SAMPLED = {"draftSampleMethod": "Probabilistic"}
AGAINST_PEER = [
    Arm("ours"),
    Arm("peer", peer=True),
    Arm("ours, tokens of peer", tokens_of="peer"),
]
PEER_ROWS = [
    Comparison("ratio_equal_time", "ours", "peer"),
    Comparison("ratio_equal_tokens", "ours, tokens of peer", "peer"),
]
SIZES = {
    "tiny": Size(
        seconds=1,
        rates=("0.001", "0.004"),
        seeds=2,
        knobs={"batchTokens": 512, "draftVocabSize": 128, "computeDtype": "Float32", "evaluations": 1},
        arms=[*AGAINST_PEER, Arm("LKHybrid", knobs=HYBRID)],
        rows=[*PEER_ROWS, Comparison("LKHybrid vs default", "LKHybrid", "ours")],
        served=["ratio_equal_time"],
    ),
    "demo": Size(
        seconds=90,  # about the passes of the preset `balanced`
        rates=("0.0003", "0.0007", "0.0015"),
        seeds=3,
        # A step is one pack of 1,024 tokens: with packs of 2,048 the peer is a quarter slower, and we a quarter faster.
        knobs={"batchTokens": 1024, "draftVocabSize": 4096, "maxLength": 1024, "evaluations": 1},
        arms=[
            *AGAINST_PEER,
            Arm("KL, T=0", knobs=KL),
            Arm("LKHybrid, T=0", knobs=HYBRID),
            Arm("KL, T=1", "own-sampled", "own-sampled", {**KL, **SAMPLED}),
            Arm("LKHybrid, T=1", "own-sampled", "own-sampled", {**HYBRID, **SAMPLED}),
            Arm("CE and KL", knobs=MIXED),
            Arm("Eagle3", knobs={"architecture": "Eagle3", **MIXED}),
            Arm("teacher Served", knobs=SERVED),
            Arm("general text", "general", knobs=MIXED),
            Arm("CE and KL, T=1", "own-sampled", "own-sampled", {**MIXED, **SAMPLED}),
            Arm("ours, T=1", "own-sampled", "own-sampled", SAMPLED),
            Arm("masked KL, T=1", "own-sampled", "own-sampled", {**MASKED_KL, **SAMPLED}),
            Arm("prose, CE and KL, T=1", "prose-sampled", "prose-sampled", {**MIXED, **SAMPLED}),
            Arm("prose, KL, T=1", "prose-sampled", "prose-sampled", {**KL, **SAMPLED}),
            Arm("prose, CE and KL, T=0", "prose", "prose", MIXED),
            Arm("prose, KL, T=0", "prose", "prose", KL),
            Arm("prose, LKHybrid, T=1", "prose-sampled", "prose-sampled", {**HYBRID, **SAMPLED}),
        ],
        rows=[
            *PEER_ROWS,
            Comparison("equal time, both KL", "KL, T=0", "peer"),
            Comparison("LKHybrid vs KL, T=0", "LKHybrid, T=0", "KL, T=0"),
            Comparison("LKHybrid vs KL, T=1", "LKHybrid, T=1", "KL, T=1"),
            Comparison("Eagle31 vs Eagle3", "CE and KL", "Eagle3"),
            Comparison("teacher: masked vs unmasked", "ours", "KL, T=0"),
            Comparison("teacher: served vs unmasked", "teacher Served", "KL, T=0"),
            Comparison("custom vs general", "ours", "general text"),
            Comparison("default vs CE and KL, T=0", "ours", "CE and KL"),
            Comparison("default vs CE and KL, T=1", "ours, T=1", "CE and KL, T=1"),
            Comparison("default vs KL, T=1", "ours, T=1", "masked KL, T=1"),
            Comparison("teacher: masked vs unmasked, T=1", "ours, T=1", "LKHybrid, T=1"),
            # Nothing holds prose, so no teacher is masked there, and the default is KL or, at T=1, LKHybrid.
            Comparison("prose: default vs CE and KL, T=0", "prose, KL, T=0", "prose, CE and KL, T=0"),
            Comparison("prose: default vs CE and KL, T=1", "prose, LKHybrid, T=1", "prose, CE and KL, T=1"),
            Comparison("prose: default vs KL, T=1", "prose, LKHybrid, T=1", "prose, KL, T=1"),
        ],
        served=["ratio_equal_time", "custom vs general"],
    ),
}
