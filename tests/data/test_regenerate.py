"""Answers that the target gives anew: whom it is asked for, what becomes of it, and that nothing of it is lost."""

import gzip

import pytest

from specop.api import reasons
from specop.api.jobs import DatasetConfig
from specop.common.errors import UserError
from specop.data.answers import TargetUnreachable
from specop.data.main import make_dataset
from specop.data.seeds import open_set
from specop.storage import job as job_module
from specop.storage.job import Job, Preempted
from tests.data.asked import Answer, echo, serving
from tests.data.world import Dataset, Json, World, capture, chat, messages, text

HALF = {"percent": 50}
OTHER = "another-model"


def asking(url: str, **more: object) -> Json:
    return {"url": url, "model": "agent", **more}


def learned(world: World, rows: list[Json]) -> list[list[str]]:
    return sorted(text(world, row)[1:] for row in rows)


def all_rows(made: Dataset) -> list[Json]:
    return [*made.rows("train"), *made.rows("holdout")]


def test_another_models_answers_are_asked_anew(world: World) -> None:
    theirs = [{**capture(number), "model": OTHER} for number in range(2)]
    world.write("a.jsonl", [*theirs, capture(2), {**capture(3), "model": "alias"}])
    with serving() as api:
        facts = world.make(holdout=HALF, regenerate=asking(api.url, targetNames=["alias"]))
    assert sorted(api.prompts) == ["question 0", "question 1"]
    made = world.read(facts)
    expected = [[f"{word}<|im_end|>"] for word in ("QUESTION 0", "QUESTION 1", "answer 2", "answer 3")]
    assert learned(world, all_rows(made)) == expected
    assert (facts.counts.read, facts.counts.kept, facts.counts.regenerated) == (4, 2, 2)
    assert made.report["sources"][0]["regenerated"] == 2
    assert not list((world.folder / "out" / "runs").rglob("*.gz"))  # the dataset has them now


@pytest.mark.parametrize(("mode", "asked"), [("Never", 0), ("IfTargetDiffers", 1), ("Always", 3)])
def test_modes(world: World, mode: str, asked: int) -> None:
    world.write("a.jsonl", [capture(0), {**capture(1), "model": OTHER}])
    world.write("b.jsonl", [{"text": "a text is no conversation"}])
    world.write("c.jsonl", [chat("no", "name")])
    with serving() as api:
        facts = world.make(
            [
                {"name": name, "weight": weight, "objects": {"uri": f"file://{world.folder}/in/{name}.jsonl"}}
                for name, weight in (("a", 2), ("b", 1), ("c", 1))
            ],
            holdout=HALF,
            regenerate=asking(api.url, mode=mode),
        )
    assert (len(api.asked), facts.counts.regenerated) == (asked, asked)


def test_the_request_goes_as_it_was(world: World) -> None:
    asked = capture(
        0, temperature=0.3, seed=7, max_tokens=9, stream=True, n=3, user="ann", response_format={"type": "json_object"}
    )
    world.write("a.jsonl", [asked, capture(1)])
    with serving() as api:
        world.make(holdout=HALF, regenerate=asking(api.url, mode="Always", maxTokens=50))
    body, other = sorted(api.asked, key=lambda body: body["messages"][0]["content"])
    assert body == {
        "model": "agent",
        "messages": messages("question 0"),
        "temperature": 0.3,
        "seed": 7,
        "max_tokens": 9,
        "response_format": {"type": "json_object"},
        "return_token_ids": True,
    }
    assert other["max_tokens"] == 50
    assert all(headers["x-specop-no-train"] == "1" for headers in api.headers)
    assert all("authorization" not in headers for headers in api.headers)


def test_the_key_is_shown(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECOP_TARGET_KEY", "open sesame")
    world.write("a.jsonl", [capture(0), capture(1)])
    with serving() as api:
        world.make(holdout=HALF, regenerate=asking(api.url, mode="Always"))
    assert {headers["authorization"] for headers in api.headers} == {"Bearer open sesame"}


def test_a_conversation_is_asked_turn_by_turn(world: World) -> None:
    world.write("a.jsonl", [chat("one", "old", "two", "older", time="2026-01-01T00:00:00Z"), chat("x", "y")])
    with serving() as api:
        made = world.read(world.make(holdout=HALF, regenerate=asking(api.url, mode="Always")))
    assert messages("one", "ONE", "two") in [body["messages"] for body in api.asked]
    assert ["ONE<|im_end|>", "TWO<|im_end|>"] in learned(world, all_rows(made))


def test_a_conversation_ends_where_an_answer_is_cut(world: World) -> None:
    def rule(body: Json) -> Answer:
        return {**echo(body), "finish": "length"}

    world.write("a.jsonl", [chat("one", "old", "two", "older"), chat("x", "y")])
    with serving(rule) as api:
        made = world.read(world.make(holdout=HALF, regenerate=asking(api.url, mode="Always")))
    assert sorted(api.prompts) == ["one", "x"]
    assert learned(world, all_rows(made)) == [["ONE"], ["X"]]


def test_of_a_conversation_with_tools_only_the_last_turn_is_asked(world: World) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    turns = [
        {"role": "user", "content": "warm?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "21 degrees"},
    ]
    world.write("a.jsonl", [{"messages": [*turns, {"role": "assistant", "content": "yes"}]}, chat("x", "y")])
    with serving() as api:
        made = world.read(world.make(holdout=HALF, regenerate=asking(api.url, mode="Always")))
    assert turns in [body["messages"] for body in api.asked]
    assert learned(world, all_rows(made)) == [["21 DEGREES<|im_end|>"], ["X<|im_end|>"]]


def test_what_was_said_before_a_captured_request_stays_as_it_was_sent(world: World) -> None:
    turns = [*messages("one", "two", "three")[:1], {"role": "assistant", "content": ""}, *messages("three")]
    asked = capture(0)
    asked["request"]["messages"] = turns
    world.write("a.jsonl", [asked, capture(1)])
    with serving() as api:
        made = world.read(world.make(holdout=HALF, regenerate=asking(api.url, mode="Always")))
    assert len(api.asked) == 2
    assert turns in [body["messages"] for body in api.asked]
    assert ["THREE<|im_end|>"] in learned(world, all_rows(made))


def test_only_what_is_kept_is_asked(world: World) -> None:
    world.write("a.jsonl", [capture(0, "same"), capture(1, "same", "other"), capture(2), {**capture(3), "status": 500}])
    with serving() as api:
        facts = world.make(
            [{"name": "a", "objects": {"uri": f"file://{world.folder}/in/a.jsonl"}, "maxConversations": 2}],
            holdout=HALF,
            regenerate=asking(api.url, mode="Always"),
        )
    assert sorted(api.prompts) == ["question 2", "same"]  # the same question is a duplicate, whatever was said to it
    assert facts.counts.duplicates == 1


def test_what_the_target_refuses_is_counted(world: World) -> None:
    world.write("a.jsonl", [capture(number) for number in range(4)])
    with serving(lambda body: 400 if body["messages"][-1]["content"] == "question 1" else echo(body)) as api:
        facts = world.make(holdout=HALF, regenerate=asking(api.url, mode="Always"))
    counts = facts.counts
    assert (counts.read, counts.kept, counts.regenerated, counts.dropped, counts.unanswered) == (4, 0, 3, 1, 1)
    assert world.read(facts).report["unused"] == {"the target refuses to answer, with 400": 1}


def test_privacy_sees_questions_and_answers(world: World) -> None:
    world.write("a.jsonl", [capture(0, "write to ann@corp.de"), capture(1)])
    said = {"role": "assistant", "content": "I wrote to bob@corp.de, not to [EMAIL]"}
    with serving(lambda body: dict(said)) as api:
        facts = world.make(holdout=HALF, regenerate=asking(api.url, mode="Always"))
    assert "write to [EMAIL]" in api.prompts
    rows = all_rows(world.read(facts))
    assert learned(world, rows) == [["I wrote to ", ", not to ", "<|im_end|>"]] * 2  # a mask is never learned
    assert facts.counts.altered == 2
    assert all(row["altered"] for row in rows)


def test_a_surrogate_may_come_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECOP_PRIVACY_KEY", "k" * 32)
    world.write("a.jsonl", [capture(0, "write to ann@corp.de"), capture(1)])
    with serving(lambda body: {"role": "assistant", "content": f"I do: {body['messages'][-1]['content']}"}) as api:
        facts = world.make(
            holdout=HALF,
            regenerate=asking(api.url, mode="Always"),
            privacy={"action": "Surrogate", "keySecretRef": {"name": "k"}},
        )
    (asked,) = [prompt for prompt in api.prompts if "@" in prompt]
    assert "ann@corp" not in asked
    rows = all_rows(world.read(facts))
    assert [f"I do: {asked}<|im_end|>"] in learned(world, rows)
    assert not any(row["altered"] for row in rows)  # they are what was asked and what was said


def test_quality_is_of_the_new_answer(world: World) -> None:
    world.write("a.jsonl", [capture(number, answer="a long answer") for number in range(3)])

    def rule(body: Json) -> Answer:
        short = body["messages"][-1]["content"] == "question 1"
        return {"role": "assistant", "content": "no" if short else "long enough"}

    with serving(rule) as api:
        facts = world.make(holdout=HALF, regenerate=asking(api.url, mode="Always"), quality={"minAnswerCharacters": 5})
    assert (facts.counts.unfit, facts.counts.regenerated) == (1, 2)


def test_prompts_are_always_completed(world: World) -> None:
    world.write("p.jsonl", [{"prompt": "one"}, {"messages": messages("two"), "temperature": 0}, {"prompt": 7}])
    uri = f"file://{world.folder}/in/p.jsonl"
    with serving() as api:
        facts = world.make(
            [{"name": "seeds", "seeds": {"uri": uri}}],
            holdout=HALF,
            transform={"maxBadPercent": 50},
            regenerate=asking(api.url, mode="Never"),
        )
    assert learned(world, all_rows(world.read(facts))) == [["ONE<|im_end|>"], ["TWO<|im_end|>"]]
    assert (facts.counts.regenerated, facts.counts.set_aside) == (2, 1)


def test_a_set_that_comes_with_specop(world: World) -> None:
    with serving() as api:
        facts = world.make(
            [{"name": "code", "seeds": {"set": "code"}, "maxConversations": 20}], regenerate=asking(api.url)
        )
    made = world.read(facts)
    assert facts.counts.regenerated == 20
    assert {row["source"] for row in all_rows(made)} == {"code"}
    assert api.most <= 16


@pytest.mark.parametrize(("name", "prompts"), [("code", 164), ("function-calling", 858)])
def test_sets_hold_what_their_page_says(name: str, prompts: int) -> None:
    store, info = open_set(name)
    lines = gzip.decompress(b"".join(store.stream(info.uri))).splitlines()
    assert len(set(lines)) == prompts
    assert info.uri == f"specop:seeds/{name}"


def test_prompts_without_anybody_to_ask(world: World) -> None:
    with pytest.raises(UserError) as caught:
        world.make([{"name": "code", "seeds": {"set": "code"}}])
    assert caught.value.reason == reasons.INVALID_SPEC


@pytest.mark.parametrize("status", [401, 403, 404, 301])
def test_an_api_that_refuses_everything(world: World, status: int) -> None:
    world.write("a.jsonl", [capture(0), capture(1)])
    with serving(lambda body: status) as api, pytest.raises(UserError) as caught:
        world.make(regenerate=asking(api.url, mode="Always"))
    assert caught.value.reason == reasons.REGENERATION_REFUSED


def test_an_api_that_is_away_for_a_while(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_module, "RETRY_SECONDS", 0.05)
    world.write("a.jsonl", [capture(number) for number in range(4)])
    bad = iter([503, 429, 500])
    with serving(lambda body: next(bad, None) or echo(body)) as api:
        facts = world.make(holdout=HALF, regenerate=asking(api.url, mode="Always"))
    assert (facts.counts.regenerated, len(api.asked)) == (4, 7)


def test_an_api_that_stays_away(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_module, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(job_module, "PATIENCE_SECONDS", 0.2)
    world.write("a.jsonl", [capture(0), capture(1)])
    with pytest.raises(TargetUnreachable):
        world.make(regenerate=asking("http://127.0.0.1:9/v1", mode="Always"))


def test_another_attempt_asks_only_what_is_open(world: World) -> None:
    world.write("a.jsonl", [capture(number) for number in range(8)])
    first: Job[DatasetConfig]

    def stop_after_three(body: Json) -> Answer:
        if len(api.asked) == 3:
            first.stopping.set()
        return echo(body)

    with serving(stop_after_three) as api:
        config = world.config(holdout=HALF, regenerate=asking(api.url, mode="Always", concurrency=1))
        first = Job(config, world.folder / "work")
        with pytest.raises(Preempted):
            make_dataset(config, first)
    stored = list((world.folder / "out" / "runs" / "u-1" / "answers").iterdir())
    assert len(stored) == 1
    with serving() as later:
        facts = world.make(holdout=HALF, regenerate=asking(later.url, mode="Always"))
    assert facts.counts.regenerated == 8
    assert len(api.asked) + len(later.asked) == 8
    assert not list((world.folder / "out" / "runs" / "u-1" / "answers").iterdir())
