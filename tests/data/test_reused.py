"""A dataset that is made of another one and of new traffic: rows stay as they are, all decisions are made anew."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from specop.api import reasons
from specop.api.dataset import DatasetFacts, SpeculatorDataset
from specop.cli import lineage
from specop.cli.loop import Loop
from specop.cli.storage import read_made
from specop.common.errors import UserError
from specop.storage.blobs import put_file
from specop.storage.local import LocalStore
from tests.data.asked import serving
from tests.data.world import Dataset, Json, World, capture, chat, messages
from tests.tiny import build_tiny

SCHEMA = {"type": "object", "properties": {"z": {"type": "string"}, "a": {"type": "integer"}}, "required": ["z", "a"]}
FORMAT = {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}}
KEPT = ("input_ids", "spans", "time", "constrained", "grammar", "temperature", "altered")
IDENTITY = ("conversation", "content", "likeness")
THINKING = (
    "{% for m in messages %}{{ m.role }}:{% if m.reasoning and loop.last %}<t>{{ m.reasoning }}</t>{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)


def first(world: World, **more: Any) -> DatasetFacts:
    """A dataset of all kinds of rows."""
    rows = [capture(number) for number in range(12)]
    rows[3] = capture(3, temperature=0.7, **FORMAT)
    rows[4] = capture(4, "my address is carl.orff@carmina.de")
    rows[5] = capture(5, tool_choice="required")
    world.write("log.jsonl", rows)
    world.write("seeds.jsonl", [chat("seed", "of", "a", "flower"), chat("no", "time")])
    sources = [
        {"name": "logs", "objects": {"uri": f"file://{world.folder}/in/log.jsonl"}},
        {"name": "seeds", "objects": {"uri": f"file://{world.folder}/in/seeds.jsonl"}},
    ]
    return world.make([{**source, "weight": weight} for source, weight in zip(sources, (6, 1), strict=True)], **more)


def before(facts: DatasetFacts, weight: int = 14, **more: Any) -> Json:
    return {"name": "before", "weight": weight, "dataset": {"uri": facts.uri, "digest": facts.digest}, **more}


def new(world: World, rows: list[Json], **more: Any) -> Json:
    return {"name": "new", "objects": {"uri": world.write("new.jsonl", rows)}, **more}


def both(made: Dataset, *columns: str) -> list[Json]:
    rows = [row for split in ("train", "holdout") for row in made.rows(split)]
    return [{name: row[name] for name in (*columns, "source")} for row in rows]


def ordered(rows: list[Json]) -> list[Json]:
    return sorted(({**row, "source": ""} for row in rows), key=lambda row: json.dumps(row["input_ids"]))


def test_rows_stay_as_they_are_and_are_split_anew(world: World) -> None:
    made = first(world)
    old = world.read(made)
    facts = world.make([before(made), new(world, [capture(70), capture(71)], weight=2)])
    mixed = world.read(facts)
    kept = [row for row in both(mixed, *KEPT, *IDENTITY) if row["source"] == "before"]
    assert ordered(kept) == ordered(both(old, *KEPT, *IDENTITY))
    assert {bool(row["grammar"]) for row in kept} == {row["constrained"] for row in kept} == {True, False}
    assert sum(row["altered"] for row in kept) == 1
    assert {row["grammar"] for row in kept} >= {json.dumps({"jsonSchema": SCHEMA}, separators=(",", ":"))}

    assert {row["time"] for row in old.rows("holdout")} == {"2026-01-01T00:11:00Z"}
    assert {row["time"] for row in mixed.rows("holdout")} == {"2026-01-01T01:10:00Z", "2026-01-01T01:11:00Z"}
    assert [line["source"] for line in mixed.requests] == ["new", "new"]

    sources = {source["name"]: source for source in mixed.report["sources"]}
    assert (sources["before"]["dataset"], sources["before"]["of"]) == (made.digest, {"logs": 12, "seeds": 2})
    assert (sources["before"]["conversations"], "of" in sources["new"]) == (14, False)
    assert facts.counts.read == facts.counts.kept == 16


def test_a_row_is_followed_to_the_row_that_it_was(world: World) -> None:
    made = first(world)
    mixed = world.read(world.make([before(made), new(world, [capture(70), capture(71)])]))
    for place in pq.read_table(mixed.path("lineage.parquet")).to_pylist():
        if place["source"] == "before":
            shard = pq.read_table(place["object"].removeprefix("file://")).to_pylist()
            (row,) = (row for row in both(mixed, *KEPT, "key") if row["key"] == place["key"])
            was = shard[place["offset"]]
            assert [row[name] for name in KEPT] == [was[name] for name in KEPT]
            assert place["tenant"] == ""


def test_the_same_dataset_and_the_same_traffic_are_the_same_dataset(world: World) -> None:
    made, rows = first(world), [capture(70), capture(71)]
    sources = [before(made), new(world, rows)]
    once = world.make(sources)
    assert world.make(sources[::-1]).digest == once.digest
    assert world.make([before(first(world, holdout={"percent": 40})), new(world, rows)]).digest != once.digest
    assert world.make([before(once, weight=15), new(world, [capture(80)])]).counts.kept == 16, "and so on"


def test_what_is_in_both_is_taken_once(world: World) -> None:
    """A window may overlap what is in the dataset: rows know what they were made of."""
    made = first(world)
    facts = world.make([before(made), new(world, [capture(number) for number in (6, 7, 8, 70, 71)], weight=5)])
    contents = [row["content"] for row in both(world.read(facts), *IDENTITY)]
    assert (facts.counts.duplicates, len(contents)) == (3, len(set(contents)))


def test_answers_that_were_asked_anew_are_known_by_what_they_say_now(world: World) -> None:
    world.write("log.jsonl", [{**capture(number), "model": "another"} for number in range(4)])
    with serving() as api:
        regenerate = {"url": api.url, "model": "agent"}
        made = world.make(regenerate=regenerate)
        served = [capture(number, answer=f"QUESTION {number}") for number in range(3)]
        facts = world.make([before(made, weight=4), new(world, served)], regenerate={**regenerate, "mode": "Always"})
    assert made.counts.regenerated == 4
    assert (facts.counts.duplicates, facts.counts.regenerated) == (0, 1), "a row of a dataset is not asked"
    facts = world.make([before(made, weight=4), new(world, served)])
    assert facts.counts.duplicates == 3


def test_a_conversation_is_held_out_whole_wherever_it_comes_from(world: World) -> None:
    def turn(number: int, minute: int) -> Json:
        turns = ["start", *(word for index in range(number) for word in (f"a{index}", f"q{index}"))]
        return capture(minute, f"x {number}", f"a{number}", messages=messages(*turns))

    world.write("log.jsonl", [turn(0, 5), turn(1, 6), *(capture(number) for number in range(8))])
    made = world.make()
    mixed = world.read(world.make([before(made, weight=9), new(world, [turn(2, 90)])]))
    held = mixed.rows("holdout")
    assert sorted(row["source"] for row in held) == ["before", "before", "new"]
    assert len({row["conversation"] for row in held}) == 1


def test_what_is_held_out_is_like_what_another_dataset_trains_on(world: World) -> None:
    """Rows carry their likeness: tokens cannot be compared with words."""
    words = " ".join(f"word{index}" for index in range(60))
    world.write("log.jsonl", [capture(0, words, words), *(capture(number) for number in range(1, 8))])
    made = world.make()
    rows = [capture(90, f"{words} please", words), capture(91, "something else", "entirely and new")]
    mixed = world.read(world.make([before(made, weight=4), new(world, rows)], holdout={"percent": 20}))
    assert {row["time"][11:16]: row["novel"] for row in mixed.rows("holdout")} == {"01:30": False, "01:31": True}


def test_rows_of_one_conversation_are_no_duplicates(world: World, tmp_path: Path) -> None:
    target = build_tiny(tmp_path / "thinking")
    (target / "chat_template.jinja").write_text(THINKING)
    world.target = target
    turns = messages("one", "first", "two", "second")
    for index in (1, 3):
        turns[index]["reasoning"] = f"hmm {index}"
    world.write("a.jsonl", [{"messages": turns}, *(chat(f"q {number}", "a") for number in range(4))])
    made = world.make()
    again = world.make([before(made)])
    assert made.rows + made.holdout_rows == again.rows + again.holdout_rows == 6
    assert ordered(both(world.read(again), *KEPT)) == ordered(both(world.read(made), *KEPT))
    assert world.make([before(again)]).counts.duplicates == 0


def test_repeated_rows_count_once_and_are_repeated_anew(world: World) -> None:
    world.write("few.jsonl", [chat(f"few {number}", "x") for number in range(3)])
    world.write("many.jsonl", [chat(f"many {number}", "y") for number in range(12)])
    few, many = (f"file://{world.folder}/in/{name}.jsonl" for name in ("few", "many"))
    made = world.make(
        [{"name": "few", "repeat": 4, "objects": {"uri": few}}, {"name": "many", "objects": {"uri": many}}]
    )
    again = world.make([before(made)])
    assert again.counts.duplicates == made.rows + made.holdout_rows - 15
    assert again.rows + again.holdout_rows == 15


@pytest.mark.parametrize(
    ("more", "counts"),
    [
        ({"excludePeriods": [{"since": "2026-01-01T00:00:00Z", "until": "2026-01-01T00:02:00Z"}]}, {"excluded": 4}),
        ({"maxConversations": 5, "weight": 5}, {"outweighed": 9}),
    ],
)
def test_a_source_may_leave_rows_out(world: World, more: Json, counts: Json) -> None:
    facts = world.make([before(first(world), **more), new(world, [capture(70)])])
    found = facts.counts.to_json()
    assert {name: found[name] for name in counts} == counts


def test_what_the_new_dataset_looks_for_drops_rows_that_spell_it(world: World) -> None:
    made = first(world, privacy={"action": "Keep"})
    facts = world.make([before(made, weight=13), new(world, [capture(70)])])
    assert (facts.counts.private, facts.counts.kept) == (1, 14)


def test_rows_are_cut_to_a_shorter_length_and_never_grow(world: World) -> None:
    world.write("log.jsonl", [capture(number, answer="x" * 300) for number in range(6)])
    made = world.make(transform={"maxLength": 200})
    lengths = [
        {
            len(row["input_ids"])
            for row in both(world.read(world.make([before(made)], transform={"maxLength": most})), *KEPT)
        }
        for most in (64, 400)
    ]
    assert lengths == [{64}, {200}]


def test_sql_tells_them_by_their_source(world: World) -> None:
    sql = "SELECT * FROM rows WHERE source = 'before' OR contains(prompt, '71')"
    facts = world.make([before(first(world)), new(world, [capture(70), capture(71)])], transform={"sql": sql})
    assert (facts.counts.filtered, facts.counts.kept) == (1, 15)


def stored(world: World, name: str, facts: DatasetFacts, *of: Json) -> SpeculatorDataset:
    """The object of a dataset that was made."""
    status = {"resolved": {"output": world.output, "datasets": list(of)}, "result": facts.to_json()}
    source = {"name": "a", "objects": {"uri": "s3://a/b"}}
    spec = {"target": {"uri": "s3://models/small"}, "sources": [source]}
    metadata = {"name": name, "namespace": "n", "uid": f"uid-{name}"}
    return SpeculatorDataset.model_validate({"metadata": metadata, "spec": spec, "status": status})


def test_lineage_sees_through_to_the_objects_of_the_other(world: World) -> None:
    made = first(world)
    facts = world.make([before(made), new(world, [capture(70)])])
    reference = {"source": "before", "name": "a", "uid": "uid-a", "uri": made.uri, "digest": made.digest}
    loop = Loop("n", datasets=[stored(world, "a", made), stored(world, "b", facts, reference)])
    read = partial(read_made, endpoint_url=None)
    of_a, of_b = lineage.behind(loop, "dataset", "b", read)["datasets"]
    assert [item["object"].rpartition("/")[2] for item in of_a["objects"]] == ["log.jsonl", "seeds.jsonl"]
    assert {item["source"] for item in of_b["objects"]} == {"before", "new"}
    question = lineage.Question(object=f"file://{world.folder}/in/seeds")
    assert lineage.touched(loop, question, read)["datasets"] == [
        {"name": "a", "conversations": 2},
        {"name": "b", "conversations": 0, "through": ["a"]},
    ]
    alone = Loop("n", datasets=[stored(world, "b", facts)])
    (of_deleted,) = (item for item in lineage.behind(alone, "dataset", "b", read)["datasets"] if "deleted" in item)
    assert of_deleted["objects"] == of_a["objects"]
    (deleted,) = lineage.touched(alone, question, read)["deleted"]
    assert (deleted["digest"], deleted["uri"]) == (made.digest, made.uri)


def refused(world: World, *sources: Json) -> UserError:
    with pytest.raises(UserError) as caught:
        world.make(sources)
    return caught.value


def test_rows_of_another_tokenizer_or_template_are_refused(world: World, tmp_path: Path) -> None:
    made = first(world)
    world.target = build_tiny(tmp_path / "other")
    (world.target / "chat_template.jinja").write_text("{{ messages[0].content }}")
    error = refused(world, before(made))
    assert error.reason == reasons.TOKENIZER_MISMATCH
    assert "another chat template than the target's" in str(error)
    tokenizer = json.loads((world.target / "tokenizer.json").read_text())
    (world.target / "tokenizer.json").write_text(json.dumps({**tokenizer, "version": "1.1"}))
    assert "another tokenizer and chat template" in str(refused(world, before(made)))


@pytest.mark.parametrize("what", ["manifest", "shard"])
def test_a_dataset_that_is_gone(world: World, what: str) -> None:
    made = first(world)
    dataset = world.read(made)
    (dataset.path("train-00000.parquet") if what == "shard" else Path(made.uri.removeprefix("file://"))).unlink()
    error = refused(world, before(made))
    assert (error.reason, made.digest in str(error)) == (reasons.OBJECT_NOT_FOUND, True)
    assert "Make that dataset again" in str(error)


@pytest.mark.parametrize("what", ["manifest", "shard", "columns"])
def test_a_dataset_that_is_not_what_its_digest_says(world: World, what: str) -> None:
    made = first(world)
    dataset, source = world.read(made), before(made)
    shard = dataset.path("train-00000.parquet")
    if what == "manifest":
        path = Path(made.uri.removeprefix("file://"))
        path.write_text(path.read_text().replace(made.digest, f"sha256:{'0' * 64}"))
    elif what == "shard":
        shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    else:
        pq.write_table(pq.read_table(shard).drop(["conversation"]), shard)
        manifest = json.loads(Path(made.uri.removeprefix("file://")).read_text())
        (entry,) = (entry for entry in manifest["files"] if entry["name"] == "train-00000.parquet")
        entry["blob"] = put_file(LocalStore(), world.output, shard).blob
        Path(made.uri.removeprefix("file://")).write_text(json.dumps(manifest))
    error = refused(world, source)
    assert error.reason == reasons.DATASET_CORRUPT
    assert {"manifest": "expected", "shard": "damaged", "columns": "no conversation"}[what] in str(error)
