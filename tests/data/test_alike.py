"""Likeness by MinHash: who is like whom, who stays, what is held out anew."""

import random
import tempfile
from pathlib import Path

import pyarrow as pa
import pytest

from specop.api.dataset import Holdout
from specop.api.quality import NearDuplicates
from specop.data import alike
from specop.data.decide import Share, Survey
from specop.data.formats import Exchange, Fate
from specop.data.work import SURVEYED
from tests.data.world import Json, World, capture, messages

WORDS = [f"word{number}" for number in range(2000)]


def exchange(asked: str, answer: str = "", system: str = "") -> Exchange:
    return Exchange({"messages": messages(asked, system=system or None)}, {"role": "assistant", "content": answer})


def bits(one: Exchange, other: Exchange) -> int:
    pairs = zip(alike.signature(one)[-2:], alike.signature(other)[-2:], strict=True)
    return sum(((a ^ b) & (1 << 64) - 1).bit_count() for a, b in pairs)


def test_system_prompts_tools_and_earlier_turns_do_not_count() -> None:
    one = exchange("What is the weather in Bonn today?", "It is fine.", system="You are " + " ".join(WORDS))
    other = exchange("what is  the weather\nin Bonn today?", "It is fine.")
    earlier = Exchange(
        {"messages": messages("Hi", "Hello", "What is the weather in Bonn today?"), "tools": [{}]}, one.answer
    )
    assert alike.signature(one) == alike.signature(other) == alike.signature(earlier)
    assert alike.signature(one) != alike.signature(exchange("What is the weather in Cologne today?", "It is fine."))


def test_the_sketch_tells_likeness() -> None:
    chance = random.Random(5)
    base = chance.choices(WORDS, k=400)
    few, half = list(base), list(base)
    few[200] = "changed"  # five of 396 pieces
    half[:200] = chance.choices(WORDS, k=200)
    asked = [exchange(" ".join(words), "ok") for words in (base, few, half)]
    assert bits(asked[0], asked[0]) == 0
    assert bits(asked[0], asked[1]) <= 7
    assert bits(asked[0], asked[2]) > 7


SHAPES = [" ".join(random.Random(seed).choices(WORDS, k=400)) for seed in range(4)]


def rows(count: int) -> list[Json]:
    """Requests of four shapes in turn, each with a number of its own at the end: like their shape, never equal."""
    return [
        capture(number, f"{SHAPES[number % 4]} {number}", f"answer {SHAPES[number % 4]}") for number in range(count)
    ]


@pytest.mark.parametrize(
    ("near", "kept", "dropped"),
    [({}, 24, 0), ({"action": "Drop"}, 6, 18), ({"maxPerShape": 3}, 14, 10)],
    ids=["report", "drop", "cap"],
)
def test_the_oldest_of_a_shape_stay(world: World, near: Json, kept: int, dropped: int) -> None:
    odd = [capture(100 + number, f"quite another thing {number}", str(number) * 9) for number in range(2)]
    world.write("a.jsonl", random.Random(2).sample([*rows(22), *odd], 24))
    facts = world.make(quality={"nearDuplicates": near})
    assert (facts.counts.kept, facts.counts.near_duplicates) == (kept, dropped)
    made = world.read(facts)
    times = sorted(row["time"] for split in ("train", "holdout") for row in made.rows(split))
    if dropped:
        assert times[:-2] == [f"2026-01-01T00:{number:02d}:00Z" for number in range(kept - 2)]
    likeness = made.report["likeness"]
    assert (likeness["nearDuplicates"], likeness["nearDuplicatesDropped"]) == (18, dropped)


def test_a_holdout_says_what_is_novel_in_it(world: World) -> None:
    new = [capture(200 + number, " ".join(random.Random(90 + number).choices(WORDS, k=90))) for number in range(3)]
    again = [capture(300 + number, f"{SHAPES[number]} again", "Fine.") for number in range(2)]
    world.write("a.jsonl", [*rows(20), *new, *again])
    made = world.read(world.make(holdout={"percent": 20}))
    held = {row["time"]: row["novel"] for row in made.rows("holdout")}
    assert held == {
        **{f"2026-01-01T03:2{number}:00Z": True for number in range(3)},
        **{f"2026-01-01T05:0{number}:00Z": False for number in range(2)},
    }
    assert {row["novel"] for row in made.rows("train")} == {False}
    assert made.report["likeness"]["holdoutLikeTrain"] == 2


def test_decisions_do_not_depend_on_the_order_of_reading() -> None:
    lines = []
    for number in range(60):
        signature = alike.signature(exchange(f"{SHAPES[number % 4]} {number}"))
        values = dict(zip([name for name, _ in alike.COLUMNS], signature, strict=True))
        lines.append({"source": 0, "key": number.to_bytes(32), "time": number // 3, "bytes": 1, "fate": 0, **values})
        lines[-1]["clean"] = True
        lines[-1] |= {"conversation": number.to_bytes(16), "content": number.to_bytes(16)}

    def decide(order: list[int]) -> dict[bytes, tuple[Fate, int]]:
        batch = [{**lines[index], "ordinal": ordinal} for ordinal, index in enumerate(order)]
        with tempfile.TemporaryDirectory() as folder, Survey(Path(folder)) as survey:
            survey.add(pa.RecordBatch.from_pylist(batch, SURVEYED))
            survey.decide([Share()], Holdout(percent=20), NearDuplicates(max_per_shape=5))
            fates, _, seen, *_ = survey.decisions()
        return {lines[index]["key"]: (Fate(fates[at]), seen[at]) for at, index in enumerate(order)}

    order = list(range(60))
    expected = decide(order)
    assert sum(fate is Fate.NEAR_DUPLICATE for fate, _ in expected.values()) == 40
    random.Random(3).shuffle(order)
    assert decide(order) == expected
