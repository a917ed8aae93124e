"""The dataset Job from objects to a manifest: what comes out, that it adds up, and that it is the same each time."""

import hashlib
import json
import random
import shutil
from html.parser import HTMLParser
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from specop.api import reasons
from specop.api.dataset import DatasetCounts, DatasetFacts
from specop.data.tokens import TargetText
from specop.storage.local import LocalStore
from specop.storage.target import target_facts
from tests.data.world import Json, World, capture, captures, chat, failure, jsonl, messages, text

HALF = {"percent": 50}


def test_a_whole_dataset(world: World) -> None:
    world.write(
        "a.jsonl.gz",
        [
            chat("one", "first", "two", "second", time="2026-01-01T00:00:00+01:00"),
            chat("three", "third", created=1767229200, temperature=0.5, response_format={"type": "json_object"}),
            chat("three", "third"),
            chat("no answer"),
            b"{broken",
            chat("two", "x" * 200),
        ],
    )
    world.write("b.jsonl.zst", [capture(0), capture(1, finish="length"), capture(2, finish="abort")])
    facts = world.make(transform={"maxLength": 100, "maxBadPercent": 20}, holdout=HALF)
    made = world.read(facts)

    expected = {
        "one": ["first<|im_end|>", "second<|im_end|>"],
        "question 0": ["answer 0<|im_end|>"],
        "question 1": ["answer 1"],
        "three": ["third<|im_end|>"],
        "two": ["x" * 51],
    }
    rows = {split: [text(world, row) for row in made.rows(split)] for split in ("train", "holdout")}
    spans = {whole.split("\n")[1].removesuffix("<|im_end|>"): learned for of in rows.values() for whole, *learned in of}
    assert {key: value for key, value in spans.items() if key != "two"} == {
        key: value for key, value in expected.items() if key != "two"
    }
    assert set("".join(spans["two"])) == {"x"}
    assert max(len(row["input_ids"]) for split in rows for row in made.rows(split)) == 100

    facts_of = {row["key"]: row for split in rows for row in made.rows(split)}
    assert len(facts_of) == 5
    assert {(row["source"], row["constrained"], row["grammar"], row["temperature"]) for row in facts_of.values()} == {
        ("log", False, None, 1.0),
        ("log", True, '{"jsonObject":true}', 0.5),
    }
    assert {row["time"] for row in facts_of.values()} == {
        *("2025-12-31T23:00:00Z", "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z", "2026-01-01T01:00:00Z", ""),
    }
    assert facts == DatasetFacts(
        digest=made.manifest.digest,
        uri=f"{world.output}/datasets/{made.manifest.digest.removeprefix('sha256:')}/manifest.json",
        rows=len(rows["train"]),
        holdout_rows=len(rows["holdout"]),
        tokens=sum(len(row["input_ids"]) for row in made.rows("train")),
        supervised_tokens=sum(span["end"] - span["start"] for row in made.rows("train") for span in row["spans"]),
        counts=DatasetCounts(
            read=9,
            kept=5,
            dropped=3,
            set_aside=1,
            duplicates=1,
            failed_responses=1,
            unsupervised=1,
            truncated_rows=1,
        ),
        target=target_facts(LocalStore(), f"file://{world.target}"),
    )
    assert made.manifest.contract == {"target": facts.target.to_json(), "maxLength": 100}
    assert [entry.name for entry in made.manifest.files] == [
        *(
            "train-00000.parquet",
            "holdout-00000.parquet",
            "holdout-requests.jsonl",
            "lineage.parquet",
            "report.json",
            "card.html",
        )
    ]


def test_the_report_says_where_and_how_many(world: World) -> None:
    first = world.write("first/a.jsonl", [chat("a", "b"), chat("a", "b"), b"?", chat("c", "d")])
    second = world.write("second/a.jsonl", [capture(0), capture(1, finish="abort"), capture(2), capture(3)])
    facts = world.make(
        [{"name": "one", "objects": {"uri": first}}, {"name": "two", "objects": {"uri": second}}],
        transform={"maxBadPercent": 50},
    )
    report = world.read(facts).report
    assert report["counts"] == facts.counts.to_json()
    lines = {source["name"]: source.pop("lines") for source in report["sources"]}
    assert lines["one"].pop("train", 0) + lines["one"].pop("holdout", 0) == 2
    assert lines["one"] == {"duplicate": 1, "set_aside": 1}
    assert lines["two"].pop("train", 0) + lines["two"].pop("holdout", 0) == 2
    assert lines["two"] == {"failed": 1, "outweighed": 1}
    sizes = [LocalStore().head(uri).size for uri in (first, second)]
    assert [(source["name"], source["objects"], source["bytes"]) for source in report["sources"]] == [
        ("one", 1, sizes[0]),
        ("two", 1, sizes[1]),
    ]
    assert sum(source["supervisedTokens"] for source in report["sources"]) == facts.supervised_tokens
    assert report["unused"] == {"not JSON": 1, "the answer was aborted": 1}
    offset = 2 * len(json.dumps(chat("a", "b"))) + 2
    assert report["setAside"] == [{"object": first, "offset": offset, "reason": "not JSON"}]


def test_requests_of_the_holdout_replay(world: World) -> None:
    world.write("a.jsonl", [capture(number, temperature=0, seed=number) for number in range(20)])
    made = world.read(world.make(holdout={"percent": 20}))
    assert [request["request"]["seed"] for request in made.requests] == [16, 17, 18, 19]
    target = TargetText(world.target)
    rows = {row["key"]: row for row in made.rows("holdout")}
    for line in made.requests:
        row, request = rows[line["key"]], line["request"]
        assert line["source"] == row["source"] == "log"
        prompt = target.template.render(request["messages"], request, None, prompt=True)
        (seen,) = target.encode([prompt])
        assert row["input_ids"][: row["spans"][0]["start"]] == seen.ids


def test_a_window_takes_what_ended_in_it(world: World) -> None:
    rows = [capture(number) for number in range(12)]
    captures(world, "2025-12-31", [{**capture(5, "another day"), "time": "2025-12-31T23:59:59Z"}], "pod-0-1")
    captures(world, "2026-01-01", [rows[7], *rows[:3]])
    source = captures(world, "2026-01-01", rows[3:7] + rows[8:], "pod-2-1")
    made = world.read(world.make([source]))
    found = sorted(row["time"] for split in ("train", "holdout") for row in made.rows(split))
    assert found == [f"2026-01-01T00:0{minute}:00Z" for minute in range(2, 7)]
    assert made.report["counts"]["read"] == 5


def test_hours_before_a_window_are_not_opened(world: World) -> None:
    source = captures(world, "2026-01-01", [])
    source["window"] |= {"since": "2026-01-01T01:00:01Z", "until": "2026-01-01T02:00:01Z"}
    for hour in ("00", "01", "02"):
        rows = [{**capture(number), "time": f"2026-01-01T{hour}:00:{number:02}Z"} for number in range(3)]
        world.write(f"captures/n/agent/dt=2026-01-01/hour={hour}/pod-1-1.jsonl.zst", rows)
    made = world.read(world.make([source], holdout=HALF))
    found = sorted(row["time"] for split in ("train", "holdout") for row in made.rows(split))
    assert found == ["2026-01-01T01:00:01Z", "2026-01-01T01:00:02Z", "2026-01-01T02:00:00Z"]
    assert made.report["sources"][0]["objects"] == 2


def test_a_conversation_is_never_on_both_sides(world: World) -> None:
    turns = [word for number in range(4) for word in (f"q{number}", f"a{number}")]
    rows = [
        capture(10 * user + turn, answer=f"answer {user} {turn}", messages=messages(f"I am {user}", *turns[: 2 * turn]))
        for user in range(6)
        for turn in range(4)
    ]
    for row in rows:
        if row["request"]["messages"][-1]["role"] == "assistant":
            row["request"]["messages"].append({"role": "user", "content": "go on"})
    random.Random(1).shuffle(rows)
    world.write("a.jsonl", rows)
    made = world.read(world.make(holdout={"percent": 34}))
    users = {split: {text(world, row)[0].split("\n")[1] for row in made.rows(split)} for split in ("train", "holdout")}
    assert users == {
        "train": {f"I am {user}<|im_end|>" for user in range(4)},
        "holdout": {f"I am {user}<|im_end|>" for user in (4, 5)},
    }
    assert len(made.rows("holdout")) == 8


CONVERSATIONS: list[Any] = [
    *(capture(number, answer="same" if number % 5 == 0 else "") for number in range(30)),
    *(capture(number) for number in range(4)),
    *(capture(40 + number, finish="abort") for number in range(3)),
]


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.permutations(range(len(CONVERSATIONS))), st.lists(st.sampled_from(["", ".gz", ".zst"]), min_size=1, max_size=4)
)
def test_the_same_lines_are_the_same_dataset_however_packed(world: World, order: list[int], packing: list[str]) -> None:
    def digest(rows: list[Any], packing: list[str]) -> tuple[str, Json]:
        shutil.rmtree(world.folder / "in", ignore_errors=True)
        for index, ending in enumerate(packing):
            world.write(f"{index}.jsonl{ending}", rows[index :: len(packing)])
        facts = world.make()
        return facts.digest, facts.counts.to_json()

    shuffled = [CONVERSATIONS[index] for index in order]
    assert digest(shuffled, packing) == digest(CONVERSATIONS, [""])


@pytest.mark.parametrize(
    "change",
    [
        {"transform": {"maxLength": 64}},
        {"holdout": HALF},
        {"row": capture(31)},
        {"row": capture(2, temperature=0.5)},
        {"template": "{{ messages[0].content }}|{% if messages | length > 1 %}{{ messages[1].content }}{% endif %}"},
    ],
    ids=["length", "split", "another row", "another temperature", "another template"],
)
def test_what_differs_has_another_digest(world: World, change: Json) -> None:
    world.write("a.jsonl", [capture(number) for number in range(10)])
    before = world.make().digest
    assert world.make().digest == before
    world.write("a.jsonl", [change.pop("row", capture(2)), *(capture(number) for number in range(10) if number != 2)])
    if template := change.pop("template", None):
        world.target = shutil.copytree(world.target, world.folder / "target")
        (world.target / "chat_template.jinja").write_text(template)
    assert world.make(**change).digest != before


def test_weights_hold_across_sources(world: World) -> None:
    few = world.write("few.jsonl", [chat(f"few {number}", "x") for number in range(10)])
    many = world.write("many.jsonl", [chat(f"many {number}", "y") for number in range(50)])
    sources = [
        {"name": "few", "objects": {"uri": few}},
        {"name": "many", "weight": 3, "objects": {"uri": many}},
    ]
    facts = world.make(sources)
    made = world.read(facts)
    rows = [row for split in ("train", "holdout") for row in made.rows(split)]
    assert {name: sum(row["source"] == name for row in rows) for name in ("few", "many")} == {"few": 10, "many": 30}
    chosen = sorted(row["key"] for row in rows if row["source"] == "many")
    assert (facts.counts.outweighed, len(set(chosen))) == (20, 30)
    assert world.make(sources[::-1]).digest == facts.digest


def test_every_row_can_be_followed_to_its_line(world: World) -> None:
    lines = [capture(number) for number in range(12)]
    uris = [world.write("a.jsonl.gz", lines[:5]), world.write("b.jsonl", [b"?", *lines[5:], lines[0]])]
    made = world.read(world.make(transform={"maxBadPercent": 50}, holdout=HALF))
    places = {row["key"]: row for row in pq.read_table(made.path("lineage.parquet")).to_pylist()}
    plain = [jsonl(lines[:5]), jsonl([b"?", *lines[5:]])]
    for split in ("train", "holdout"):
        for row in made.rows(split):
            place = places.pop(row["key"])
            assert (place["source"], place["split"], place["time"]) == ("log", split, row["time"])
            index = uris.index(place["object"])
            assert place["etag"] == LocalStore().head(place["object"]).etag
            line = plain[index][place["offset"] :].split(b"\n")[0]
            assert hashlib.sha256(b"log\n" + line).hexdigest() == row["key"]
    assert not places


def test_a_row_of_parquet_is_followed_to_its_number(world: World) -> None:
    rows = [chat(f"question {number}", f"answer {number}", created=number) for number in range(300)]
    world.write("a.jsonl", rows)
    expected = world.read(world.make())
    rows_before, digest = expected.rows("train"), expected.manifest.digest
    shutil.rmtree(world.folder / "in")
    shutil.rmtree(world.folder / "out")  # else the manifest that is there would stay, as it names equal rows
    (world.folder / "in").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), world.folder / "in" / "a.parquet")
    made = world.read(world.make())
    assert [row["input_ids"] for row in made.rows("train")] == [row["input_ids"] for row in rows_before]
    assert made.manifest.digest == digest
    assert [row["offset"] for row in pq.read_table(made.path("lineage.parquet")).to_pylist()] == list(range(300))


def test_a_scarce_source_is_repeated_and_a_large_one_capped(world: World) -> None:
    few = world.write("few.jsonl", [chat(f"few {number}", "x", created=number) for number in range(4)])
    many = world.write("many.jsonl", [chat(f"many {number}", "y" * 20, created=number) for number in range(50)])
    sources: list[Json] = [
        {"name": "few", "repeat": 3, "objects": {"uri": few}},
        {"name": "many", "maxConversations": 10, "objects": {"uri": many}},
    ]
    facts = world.make(sources, holdout={"percent": 10})
    made = world.read(facts)
    rows = made.rows("train")
    held = {row["source"] for row in made.rows("holdout")}
    assert held == {"many"}
    assert {name: sum(row["source"] == name for row in rows) for name in ("few", "many")} == {"few": 10, "many": 9}
    assert len({row["key"] for row in rows}) == 19
    assert len({row["key"][:64] for row in rows if row["source"] == "few"}) == 4
    assert (facts.rows, facts.counts.kept, facts.counts.outweighed) == (19, 14, 40)
    first, second = made.report["sources"]
    assert [first[name] for name in ("conversations", "repeated", "supervisedTokens")] == [4, 4, 20]
    assert [second[name] for name in ("conversations", "repeated", "supervisedTokens")] == [10, 0, 9 * 21]
    assert first["supervisedPercent"] + second["supervisedPercent"] == 100
    sources[0]["repeat"] = 1
    assert world.make(sources).digest != facts.digest


def test_sql_chooses_and_rewrites(world: World) -> None:
    rows = [
        *(capture(number, model="x", messages=messages(f"q {number}", system=f"Day {number}")) for number in range(20)),
        capture(30, finish="abort"),
    ]
    world.write("a.jsonl", rows)
    sql = """
        SELECT * REPLACE (regexp_replace(system, '[0-9]+', 'one') AS system) FROM rows
        WHERE time < TIMESTAMP '2026-01-01 00:10:00' AND prompt <> 'q 3'
    """
    facts = world.make(transform={"sql": sql})
    assert (facts.counts.read, facts.counts.filtered, facts.counts.kept, facts.counts.dropped) == (21, 11, 9, 12)
    made = world.read(facts)
    texts = [text(world, row)[0] for split in ("train", "holdout") for row in made.rows(split)]
    assert all(whole.startswith("<|im_start|>system\nDay one<|im_end|>") for whole in texts)
    assert made.report["unused"]["left out by transform.sql"] == 11
    assert made.requests[0]["request"]["messages"][0]["content"] == "Day one"


def test_wrong_sql_is_refused_before_anything_is_read(world: World) -> None:
    world.write("a.jsonl", [b"?"])
    error = failure(world, transform={"sql": "SELECT * FROM rows\nLIMIT 3"})
    assert (error.reason, "line 2, column 1" in error.message) == (reasons.SQL_REFUSED, True)


def test_constrained_rows_without_their_tokens_are_counted(world: World) -> None:
    form = {"response_format": {"type": "json_object"}}
    exact = capture(1, "a", "b", **form)
    spelled = [token + 3 for token in range(3)]
    exact["response"] |= {"prompt_token_ids": spelled}
    exact["response"]["choices"][0] |= {"message": {"role": "assistant", "content": ""}, "token_ids": spelled}
    world.write("a.jsonl", [exact, capture(0, **form), capture(2)])
    made = world.read(world.make(holdout={"percent": 34}))
    assert [made.report["rows"][name] for name in ("constrained", "respelled")] == [2, 1]
    assert "tokenised from text" in made.data("card.html").decode()


def test_the_card_shows_the_report_and_needs_nothing_else(world: World) -> None:
    rows = [chat(f"secret {number}", "secret " * number, created=number) for number in range(1, 20)]
    world.write("a.jsonl", [*rows, b"secret"])
    facts = world.make(name="<b>&", transform={"maxBadPercent": 50})
    page = world.read(facts).data("card.html").decode()
    parser = Page()
    parser.feed(page)
    parser.close()
    assert not parser.open
    assert {facts.digest, "17 to train on, 2 held out", "not JSON", "Dataset <b>&", "up to 128"} <= set(parser.texts)
    assert not [word for word in ("secret", "<b>", "http", "src=", "<script") if word in page]
    buckets = world.read(facts).report["lengths"]["tokens"]
    assert sum(of["rows"] for of in buckets) == facts.rows


class Page(HTMLParser):
    """Texts of a page, and elements that were opened and not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_a_row_that_the_template_refuses_is_dropped_and_counted(world: World) -> None:
    world.target = shutil.copytree(world.target, world.folder / "target")
    template = world.target / "chat_template.jinja"
    refuse = "{% if messages[0].role == 'system' %}{{ raise_exception(messages[0].content) }}{% endif %}"
    template.write_text(refuse + template.read_text())
    refused = {"messages": messages("c", "d", system="secret"), "created": 1}
    world.write("a.jsonl", [chat("a", "b", created=2), refused, chat("e", "f", created=3)])
    facts = world.make()
    assert (facts.counts.read, facts.counts.kept, facts.counts.dropped) == (3, 2, 1)
    assert world.read(facts).report["sources"][0]["lines"] == {"train": 1, "holdout": 1, "refused": 1}
    world.write("a.jsonl", [chat("a", "b", created=2), refused])
    shutil.rmtree(world.folder / "out")
    assert "1 refused by the chat template" in failure(world).message
