"""What becomes of each line: against a plain reference, and the same in whatever order lines are read."""

import tempfile
from collections import defaultdict
from pathlib import Path
from random import Random
from typing import NamedTuple
from unittest.mock import patch

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specop.api.dataset import Holdout
from specop.data.decide import Share, Survey, held_out, shares
from specop.data.formats import Fate
from specop.data.work import SURVEYED


class Line(NamedTuple):
    key: int
    source: int = 0
    time: int | None = None
    conversation: int = 0
    content: int = 0
    fate: Fate = Fate.TRAIN


def decide(lines: list[Line], sources: list[Share], holdout: Holdout) -> list[tuple[Fate, int]]:
    """Fates and copies in the order of the lines given."""
    rows = [
        {
            **line._asdict(),
            "ordinal": ordinal,
            "bytes": 1,
            "clean": True,
            "key": line.key.to_bytes(32),
            "conversation": line.conversation.to_bytes(16),
            "content": line.content.to_bytes(16),
        }
        for ordinal, line in enumerate(lines)
    ]
    a_few = patch("specop.data.decide._SLICE", 7)
    with tempfile.TemporaryDirectory() as folder, Survey(Path(folder)) as survey, a_few:
        survey.add(pa.RecordBatch.from_pylist(rows, SURVEYED))
        survey.decide(sources, holdout)
        fates, copies, *_ = survey.decisions()
        assert sum(survey.counts().values()) == len(lines)
    return [(Fate(fate), copies[index] if copies else 1) for index, fate in enumerate(fates)]


def weigh(kept: list[Line], sources: list[Share], fates: dict[int, Fate]) -> dict[int, int]:
    """Leave out what is beyond the caps and shares of sources; return copies of what is repeated."""
    smallest: dict[int, dict[int, int]] = defaultdict(dict)
    for line in sorted(kept, key=lambda line: line.key):
        smallest[line.source].setdefault(line.conversation, line.key)
    chosen = {of: sorted(found, key=found.__getitem__)[: sources[of].most] for of, found in smallest.items()}
    copies: dict[int, int] = {}
    wanted = shares({source: len(of) for source, of in chosen.items()}, sources)
    for line in kept:
        order = chosen[line.source]
        if line.conversation not in order[: wanted[line.source]]:
            fates[line.key] = Fate.OUTWEIGHED
        elif wanted[line.source] > len(order):
            base, extra = divmod(wanted[line.source], len(order))
            copies[line.key] = base + (order.index(line.conversation) < extra)
    return copies


def reference(lines: list[Line], sources: list[Share], holdout: Holdout) -> list[tuple[Fate, int]]:
    """The same, said plainly."""

    def age(line: Line) -> tuple[bool, int, int]:
        return line.time is None, line.time or 0, line.key

    fates = {line.key: line.fate for line in lines}
    usable = sorted((line for line in lines if line.fate is Fate.TRAIN), key=age)
    seen: set[int] = set()
    for line in usable:
        if line.content in seen:
            fates[line.key] = Fate.DUPLICATE
        seen.add(line.content)

    copies = weigh([line for line in usable if fates[line.key] is Fate.TRAIN], sources, fates)
    kept = [line for line in usable if fates[line.key] is Fate.TRAIN]
    newest: dict[int, tuple[bool, int]] = {}
    first: dict[int, int] = {}
    for line in kept:
        stamp = (line.time is not None, line.time or 0)
        newest[line.conversation] = max(newest.get(line.conversation, stamp), stamp)
        first[line.conversation] = min(first.get(line.conversation, line.key), line.key)
    order = sorted(newest, key=lambda of: (not newest[of][0], -newest[of][1], first[of]))
    held = order[: held_out(len(order), holdout)]
    for line in kept:
        if line.conversation in held:
            fates[line.key] = Fate.HOLDOUT
    return [(fates[line.key], copies.get(line.key, 1)) for line in lines]


LINES = st.lists(
    st.builds(
        Line,
        key=st.integers(0, 999),
        source=st.integers(0, 2),
        time=st.none() | st.integers(-3, 5),
        conversation=st.integers(0, 7),
        content=st.integers(0, 12),
        fate=st.sampled_from([Fate.TRAIN] * 6 + [Fate.FAILED, Fate.SET_ASIDE]),
    ),
    unique_by=lambda line: line.key,
    max_size=30,
)
SHARE = st.builds(Share, st.integers(1, 3), st.none() | st.integers(1, 4), st.integers(1, 3))
SHARES = st.lists(SHARE, min_size=3, max_size=3)
HOLDOUTS = st.builds(Holdout, percent=st.integers(1, 50), max_conversations=st.integers(1, 5))


@settings(max_examples=40, deadline=None)
@given(LINES, SHARES, HOLDOUTS, st.randoms(use_true_random=False))
def test_fates_are_the_references_in_any_order(
    lines: list[Line], sources: list[Share], holdout: Holdout, random: Random
) -> None:
    expected = dict(zip(lines, reference(lines, sources, holdout), strict=True))
    shuffled = random.sample(lines, len(lines))
    assert dict(zip(shuffled, decide(shuffled, sources, holdout), strict=True)) == expected


HALF = Holdout(percent=50)


@pytest.mark.parametrize(
    ("lines", "weights", "expected"),
    [
        pytest.param([], [1], [], id="nothing"),
        pytest.param([Line(1)], [1], [Fate.TRAIN], id="the only conversation is never held out"),
        pytest.param(
            [Line(1, time=2, content=9), Line(2, time=1, content=9), Line(3, time=None, content=9)],
            [1],
            [Fate.DUPLICATE, Fate.TRAIN, Fate.DUPLICATE],
            id="of equal ones the oldest stays, one without time goes first",
        ),
        pytest.param(
            [Line(2, content=9), Line(1, content=9)], [1], [Fate.DUPLICATE, Fate.TRAIN], id="without times, the key"
        ),
        pytest.param(
            [Line(1, time=1, content=9, fate=Fate.FAILED), Line(2, time=2, content=9)],
            [1],
            [Fate.FAILED, Fate.TRAIN],
            id="what failed makes nothing a duplicate",
        ),
        pytest.param(
            [Line(key, time=time, conversation=of, content=key) for key, time, of in ((1, 9, 1), (2, 1, 1), (3, 5, 2))],
            [1],
            [Fate.HOLDOUT, Fate.HOLDOUT, Fate.TRAIN],
            id="the newest conversation is held out whole",
        ),
        pytest.param(
            [Line(key, source=int(key > 2), time=key, conversation=key, content=key) for key in (1, 2, 3, 4, 5, 6, 7)],
            [1, 2],
            [Fate.TRAIN, Fate.TRAIN, Fate.TRAIN, Fate.HOLDOUT, Fate.HOLDOUT, Fate.HOLDOUT, Fate.OUTWEIGHED],
            id="weights 1 to 2 of 2 and 5: 2 and 4, those with the smallest keys",
        ),
        pytest.param(
            [Line(key, source=int(key > 1), conversation=7, content=key, time=key) for key in (1, 2, 3)],
            [1, 1],
            [Fate.TRAIN] * 3,
            id="one conversation in two sources is one",
        ),
    ],
)
def test_fates(lines: list[Line], weights: list[int], expected: list[Fate]) -> None:
    sources = [Share(weight) for weight in weights]
    assert [fate for fate, _ in decide(lines, sources, HALF)] == expected
    assert [fate for fate, _ in reference(lines, sources, HALF)] == expected


def test_a_scarce_source_is_repeated_if_it_may_be_and_the_holdout_never_is() -> None:
    lines = [Line(key, int(key > 3), key, conversation=key, content=key) for key in range(1, 9)]
    expected = [(Fate.TRAIN, 2), (Fate.TRAIN, 2), (Fate.TRAIN, 1), *[(Fate.TRAIN, 1)] * 4, (Fate.HOLDOUT, 1)]
    sources = [Share(repeat=5), Share()]
    assert decide(lines, sources, Holdout(percent=13)) == expected
    newest_first = [line._replace(time=-line.key) for line in lines]
    expected[0], expected[-1] = (Fate.HOLDOUT, 2), (Fate.TRAIN, 1)
    assert decide(newest_first, sources, Holdout(percent=13)) == expected


def test_a_cap_keeps_the_smallest_keys_and_is_not_undone_by_repetition() -> None:
    lines = [Line(key, int(key > 4), key, conversation=key, content=key) for key in range(1, 11)]
    found = decide(lines, [Share(most=2, repeat=3), Share()], Holdout(percent=1))
    assert found[:4] == [(Fate.TRAIN, 3), (Fate.TRAIN, 3), (Fate.OUTWEIGHED, 1), (Fate.OUTWEIGHED, 1)]
    assert [fate for fate, _ in found[4:]] == [Fate.TRAIN] * 5 + [Fate.HOLDOUT]


@pytest.mark.parametrize(
    ("available", "weights", "expected"),
    [
        ({}, [1], {}),
        ({0: 5}, [3], {0: 5}),
        ({0: 10, 1: 10}, [1, 1], {0: 10, 1: 10}),
        ({0: 10, 1: 4}, [1, 1], {0: 4, 1: 4}),
        ({0: 10, 1: 4}, [2, 1], {0: 8, 1: 4}),
        ({0: 10, 1: 4, 2: 0}, [1, 1, 9], {0: 4, 1: 4}),
        ({0: 1, 1: 1000}, [1000, 1], {0: 1, 1: 1}),
        ({0: 3, 1: 3, 2: 3}, [1, 2, 3], {0: 1, 1: 2, 2: 3}),
    ],
)
def test_shares(available: dict[int, int], weights: list[int], expected: dict[int, int]) -> None:
    assert shares(available, [Share(weight) for weight in weights]) == expected


@given(st.lists(st.tuples(st.integers(1, 1000), st.integers(1, 1000)), min_size=1, max_size=8))
def test_shares_never_repeat_and_leave_no_more_out_than_they_must(sources: list[tuple[int, int]]) -> None:
    available, weights = {index: count for index, (count, _) in enumerate(sources)}, [weight for _, weight in sources]
    found = shares(available, [Share(weight) for weight in weights])
    assert all(1 <= found[source] <= count for source, count in available.items())
    assert any(found[source] == count for source, count in available.items())
    per_weight = min(count / weight for count, weight in sources)
    assert all(abs(found[source] - max(1, per_weight * weight)) <= 1 for source, weight in enumerate(weights))


@pytest.mark.parametrize(
    ("conversations", "percent", "most", "expected"),
    [
        (0, 10, 1000, 0),
        (1, 50, 1000, 0),
        (2, 1, 1000, 1),
        (14, 10, 1000, 1),
        (15, 10, 1000, 2),
        (100, 10, 3, 3),
        (3, 50, 9, 2),
    ],
)
def test_how_many_are_held_out(conversations: int, percent: int, most: int, expected: int) -> None:
    assert held_out(conversations, Holdout(percent=percent, max_conversations=most)) == expected
