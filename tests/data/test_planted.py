"""What is planted is nowhere in what a run wrote: rows, requests, lineage, report, result, status, logs."""

import json
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from specop.api.jobs import Outcome
from specop.cli.lineage import Artefact, Question
from specop.cli.storage import read_made
from specop.common.names import tenant_hash
from specop.data.formats import Fate
from specop.data.tokens import TargetText
from tests.data.planted import PLANTED, TEXTS
from tests.data.rows import converse, langfuse, litellm, sharegpt
from tests.data.world import Dataset, Json, World, capture, chat

SPLITS = ("train", "holdout")


def decoded(target: Path, made: Dataset) -> dict[str, list[str]]:
    tokenizer = TargetText(target)._tokenizer
    return {
        split: [tokenizer.decode(row["input_ids"], skip_special_tokens=False) for row in made.rows(split)]
        for split in SPLITS
    }


def planted_rows() -> list[Json]:
    """Every value at every place that a capture has."""
    rows = []
    for number, (_, value) in enumerate(PLANTED):
        call = {"name": "send", "arguments": json.dumps({"to": value, "n": number}, indent=1)}
        asked = [
            {"role": "system", "content": f"You serve {value} ."},
            {"role": "user", "content": [{"type": "text", "text": f"{number}: {value}"}]},
            {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function", "function": call}]},
            {"role": "tool", "tool_call_id": "c", "content": json.dumps({"sent": [value]})},
        ]
        answer = f"I sent it to {value} ."
        rows.append(capture(number, answer=answer, messages=asked, user=value, metadata={"who": value}))
        rows[-1]["response"]["choices"][0]["message"]["reasoning"] = f"They want {value} ."
        rows[-1]["response"]["choices"][0]["token_ids"] = [5, 6, 7]
        rows[-1]["response"]["prompt_token_ids"] = [5, 6, 7]
    return rows


def test_what_is_planted_is_in_nothing_that_a_run_wrote(world: World) -> None:
    secrets = [value for _, value in PLANTED] + [value for _, value in TEXTS]
    rows = planted_rows()
    texts = [chat(f"{number}. {text}", f"Take {text} and go on.") for number, (text, _) in enumerate(TEXTS)]
    broken = [b'{"messages": "' + value.encode() for _, value in PLANTED[:6]]
    world.write("a.jsonl.zst", rows)
    world.write("b.jsonl", [*texts, *broken, chat(f"{PLANTED[0][1]}"), {"messages": [{"role": PLANTED[0][1]}]}])
    world.write("c.jsonl", [{"text": f"Call {PLANTED[8][1]} or mail {PLANTED[0][1]} ."}])
    process = world.start(world.config(transform={"maxBadPercent": 50}, holdout={"percent": 50}))
    output, log = process.communicate(timeout=100)
    assert process.returncode == 0, log
    result = Outcome.model_validate_json(world.result.read_bytes()).dataset
    assert result is not None
    made = world.read(result)
    written = [output, log, world.termination.read_text(), world.result.read_text()]
    written += [json.dumps(of, ensure_ascii=False) for of in (made.report, made.requests)]
    written += [text for of in decoded(world.target, made).values() for text in of]
    written += [str(pq.read_table(made.path("lineage.parquet")).to_pylist())]
    for path in (world.folder / "out").rglob("*"):
        if path.is_file() and path.suffix != ".parquet":
            written.append(path.read_bytes().decode(errors="replace"))
    everything = "\n".join(written)
    for value in secrets:
        assert value not in everything
        assert json.dumps(value)[1:-1] not in everything
    assert result.counts.altered == len(rows) + len(texts) + 1
    assert (result.counts.set_aside, result.counts.unsupervised) == (len(broken), 2)
    entities = Counter(name for name, _ in PLANTED)
    found = made.report["privacy"]["entities"]
    assert set(found) >= set(entities)
    assert all(found[name] >= 5 * count for name, count in entities.items() if name != "Secret")
    assert {row["altered"] for split in SPLITS for row in made.rows(split)} == {True}
    assert {line["altered"] for line in made.requests} == {True}


def test_what_an_assistant_never_said_is_not_learned(world: World) -> None:
    world.write("a.jsonl", [chat(f"Who? {number}", f"Mail {number}@acme.com or call, friend.") for number in range(4)])
    made = world.read(world.make())
    tokenizer = TargetText(world.target)._tokenizer
    for split in SPLITS:
        for row in made.rows(split):
            parts = [tokenizer.decode(row["input_ids"][span["start"] : span["end"]]) for span in row["spans"]]
            assert "[EMAIL]" in tokenizer.decode(row["input_ids"])
            assert "[EMAIL]" not in "".join(parts)
            assert "EMAIL" not in "".join(parts)
            assert parts[0].startswith("Mail")
            assert "friend." in parts[-1]


@pytest.mark.parametrize("action", ["Drop", "Keep", "Surrogate"])
def test_actions(world: World, action: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECOP_PRIVACY_KEY", "k" * 32)
    rows = [chat(f"Hi {number}", "Hello") for number in range(4)]
    world.write("a.jsonl", [*rows, chat("jane@acme.com", "Hello"), {"input_ids": [1], "loss_mask": [1]}])
    privacy = {"action": action, "keySecretRef": {"name": "k"}}
    facts = world.make(privacy=privacy, transform={"maxBadPercent": 50})
    made = world.read(facts)
    texts = "\n".join(text for of in decoded(world.target, made).values() for text in of)
    assert ("jane@acme.com" in texts) is (action == "Keep")
    assert facts.counts.private == (action == "Drop")
    assert facts.counts.altered == (action == "Surrogate")
    assert facts.counts.kept == (4 if action == "Drop" else 5)


def test_rows_of_tokens_that_spell_personal_data_are_dropped(world: World) -> None:
    encode = TargetText(world.target).encode
    clean, dirty = (found.ids for found in encode(["all is well here", "mail jane@acme.com now"]))
    tokens = [{"input_ids": ids, "loss_mask": [1] * len(ids)} for ids in (clean, dirty)]
    world.write("t.jsonl", tokens)
    world.write("c.jsonl", [capture(number) for number in range(3)])
    facts = world.make()
    assert (facts.counts.private, facts.counts.kept) == (1, 4)
    made = world.read(facts)
    assert clean in [row["input_ids"] for split in SPLITS for row in made.rows(split)]


MARKED: list[tuple[str, Json]] = [
    ("chat", chat("m-1", "x", no_train=True)),
    ("own field", chat("m-2", "x", legal={"optOut": "yes"})),
    ("header", {**capture(1, "m-3"), "headers": {"X-Specop-No-Train": "1"}}),
    ("LiteLLM", {**litellm(), "metadata": {"requester_metadata": {"no_train": True}}}),
    ("LiteLLM tag", {**litellm(), "request_tags": ["no-train"]}),
    ("Langfuse", {**langfuse(), "tags": ["no-train"]}),
    ("Bedrock", {**converse(), "requestMetadata": {"no_train": "true"}}),
    ("ShareGPT", {**sharegpt(), "metadata": {"noTrain": 1}}),
    ("broken beyond the mark", {"messages": [{"role": 7}], "no_train": True}),
]
UNMARKED: list[Json] = [
    chat("u-1", "x", no_train=False),
    chat("u-2", "x", legal={"optOut": "no"}),
    {**capture(2, "u-3"), "headers": {"X-Specop-No-Train": "0"}},
    chat("u-4", "x", metadata={"no_train": "false"}),
    chat("u-5", "x", tags=["training"]),
]


def test_rows_that_are_not_for_training_are_not_read(world: World) -> None:
    for index, (_, row) in enumerate(MARKED):
        world.write(f"marked/{index}.jsonl", [row])
    for index, row in enumerate(UNMARKED):
        world.write(f"unmarked/{index}.jsonl", [row])
    facts = world.make(consent={"noTrainFields": ["legal.optOut"]})
    assert facts.counts.no_consent == len(MARKED)
    assert facts.counts.kept == len(UNMARKED)
    made = world.read(facts)
    texts = "\n".join(text for of in decoded(world.target, made).values() for text in of)
    assert "m-" not in texts
    assert made.report["unused"] == {"marked as not for training": len(MARKED)}


def test_periods_filters_and_limits(world: World) -> None:
    rows = [
        {**capture(number), "tenant": "a" if number % 2 else "b", "model": f"m{number % 3}"} for number in range(24)
    ]
    rows += [capture(30, "x", "y"), capture(31, "x" * 300, "yy"), capture(32, "z", "cut", finish="length")]
    uri = world.write("a.jsonl", rows)
    period = {"since": "2026-01-01T00:00:00Z", "until": "2026-01-01T00:06:00Z"}
    source = {"name": "log", "objects": {"uri": uri}}
    facts = world.make(
        [{**source, "excludePeriods": [period], "filter": {"models": ["m0", "m1", "agent"]}}],
        quality={"truncatedAnswers": "Drop", "minAnswerCharacters": 2, "maxCharacters": 200},
    )
    lines = world.read(facts).report["sources"][0]["lines"]
    excluded = 6 + sum(number % 3 == 2 for number in range(6, 24))
    assert lines[Fate.EXCLUDED.name.lower()] == excluded
    assert lines[Fate.UNFIT.name.lower()] == 3
    assert facts.counts.kept == 24 - excluded
    facts = world.make([{**source, "filter": {"tenants": ["a"]}, "maxConversations": 5}])
    lines = world.read(facts).report["sources"][0]["lines"]
    assert lines[Fate.EXCLUDED.name.lower()] == 12 + 3
    assert facts.counts.kept == 5


def test_lineage_answers_by_object_tenant_and_time(world: World) -> None:
    rows = [{**capture(number), "tenant": "acme" if number < 3 else "other"} for number in range(10)]
    first, second = world.write("a.jsonl", rows[:6]), world.write("b.jsonl", rows[6:])
    facts = world.make()
    dataset = Artefact("dataset", facts.digest, "d", facts.uri)

    def conversations(**question: str) -> dict[str, int]:
        made = read_made(dataset, Question(**question), None)
        assert made
        return {item.object: item.conversations for item in made.found}

    assert conversations() == {first: 6, second: 4}
    assert conversations(object=second) == {second: 4}
    assert conversations(tenant=tenant_hash("acme")) == {first: 3}
    assert conversations(since="2026-01-01T00:05:00Z", until="2026-01-01T00:08:00Z") == {first: 1, second: 2}
    table = pq.read_table(world.read(facts).path("lineage.parquet"))
    assert "acme" not in str(table.to_pylist())
