"""Whose data is in which drafter, asked from both ends; files of a user where a dataset looks for them."""

from dataclasses import replace
from pathlib import Path

import pytest

from specop.api.dataset import SpeculatorDataset
from specop.api.jobs import StoreConfig
from specop.api.shared import Json
from specop.cli import lineage, storage
from specop.cli.errors import CliError
from specop.cli.lineage import Found, Question
from specop.cli.loop import Loop
from specop.common.names import tenant_hash
from tests.cli import objects

ROWS = {
    "agent-v1": [("s3://a/1.jsonl", "acme", 30), ("s3://seeds/x.jsonl", "", 10)],
    "agent-v2": [("s3://a/2.jsonl", "acme", 5), ("s3://a/3.jsonl", "other", 5)],
}


def rows(dataset: SpeculatorDataset, question: Question) -> list[Found]:
    return [
        Found("logs", uri, "e", count, "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z")
        for uri, tenant, count in ROWS.get(dataset.metadata.name, [])
        if uri.startswith(question.object or "") and question.tenant in (None, tenant_hash(tenant))
    ]


def loop(serving: str = "agent-v2") -> Loop:
    status = {"drafter": {"serving": objects.serving(objects.TWO, serving)}}
    return Loop(
        namespace="team-a",
        endpoints=[objects.endpoint(status=status)],
        datasets=[objects.dataset("agent-v1"), objects.dataset("agent-v2"), objects.dataset("agent-v3", done=False)],
        jobs=[objects.job("agent-v1"), objects.job("agent-v2")],
        drafters=[objects.drafter("agent-v1"), objects.drafter("agent-v2", objects.TWO, parent="agent-v1")],
    )


@pytest.mark.parametrize(
    ("of", "datasets", "drafters"),
    [
        (("endpoint", "agent"), ["agent-v1", "agent-v2"], ["agent-v2"]),
        (("drafter", "agent-v1"), ["agent-v1"], ["agent-v1"]),
        (("job", "agent-v2"), ["agent-v1", "agent-v2"], ["agent-v2"]),
        (("dataset", "agent-v2"), ["agent-v2"], []),
    ],
)
def test_what_something_was_made_of(of: tuple[str, str], datasets: list[str], drafters: list[str]) -> None:
    answer = lineage.behind(loop(), *of, rows)
    assert [item["name"] for item in answer["datasets"]] == datasets
    assert answer["drafters"] == drafters
    shown = lineage.behind_tables(answer)[1].rows
    assert [row[-1] for row in shown] == [uri for name in datasets for uri, _, _ in ROWS[name]]


def test_a_dataset_that_is_gone_is_said_to_be_missing() -> None:
    whole = loop()
    answer = lineage.behind(Loop("team-a", whole.endpoints, (), (), whole.drafters), "endpoint", "agent", rows)
    assert answer["datasets"] == [{"name": "agent-v1", "missing": True}, {"name": "agent-v2", "missing": True}]
    assert {row[1] for row in lineage.behind_tables(answer)[1].rows} == {"no longer there"}
    (unfinished,) = lineage.behind(whole, "dataset", "agent-v3", rows)["datasets"]
    assert unfinished["objects"] == []


@pytest.mark.parametrize("kind", ["endpoint", "drafter", "job", "dataset"])
def test_what_does_not_exist_is_an_error(kind: str) -> None:
    with pytest.raises(CliError, match="nobody in namespace team-a"):
        lineage.behind(loop(), kind, "nobody", rows)


@pytest.mark.parametrize(
    ("question", "datasets", "drafters", "endpoints"),
    [
        (Question(object="s3://a/1"), {"agent-v1": 30}, ["agent-v1", "agent-v2"], ["agent"]),
        (Question(tenant=tenant_hash("other")), {"agent-v2": 5}, ["agent-v2"], ["agent"]),
        (Question(tenant=tenant_hash("acme")), {"agent-v1": 30, "agent-v2": 5}, ["agent-v1", "agent-v2"], ["agent"]),
        (Question(tenant=tenant_hash("nobody")), {}, [], []),
    ],
)
def test_what_holds_somebodys_data(
    question: Question, datasets: dict[str, int], drafters: list[str], endpoints: list[str]
) -> None:
    answer = lineage.touched(loop(), question, rows)
    assert {item["name"]: item["conversations"] for item in answer["datasets"]} == datasets
    assert (answer["jobs"], answer["drafters"]) == (sorted(datasets), drafters)
    assert [item["name"] for item in answer["endpoints"]] == endpoints
    assert lineage.touched_tables(answer)[0].rows


def test_an_endpoint_that_serves_an_older_drafter_is_not_touched_by_a_newer_one() -> None:
    answer = lineage.touched(loop("agent-v1"), Question(tenant=tenant_hash("other")), rows)
    assert (answer["drafters"], answer["endpoints"]) == (["agent-v2"], [])


def chain() -> Loop:
    """agent-v2 is made of agent-v1 and of one that is gone, agent-v3 of agent-v2."""
    mixed = objects.dataset("agent-v2", of={"agent-v1": "uid-agent-v1", "agent-v0": "uid-agent-v0"})
    further = objects.dataset("agent-v3", of={"agent-v2": "uid-agent-v2"})
    whole = loop("agent-v3")
    return replace(
        whole,
        datasets=[objects.dataset("agent-v1"), mixed, further],
        jobs=[objects.job("agent-v3")],
        drafters=[objects.drafter("agent-v3", objects.TWO)],
    )


@pytest.mark.parametrize("of", [("endpoint", "agent"), ("dataset", "agent-v3"), ("job", "agent-v3")])
def test_what_a_dataset_was_made_of_is_named_with_its_objects(of: tuple[str, str]) -> None:
    answer = lineage.behind(chain(), *of, rows)
    assert [item["name"] for item in answer["datasets"]] == ["agent-v0", "agent-v1", "agent-v2", "agent-v3"]
    assert answer["datasets"][0] == {"name": "agent-v0", "digest": objects.TWO, "missing": True}
    assert [item["object"] for item in answer["datasets"][1]["objects"]] == ["s3://a/1.jsonl", "s3://seeds/x.jsonl"]
    shown = lineage.behind_tables(answer)[1].rows
    assert ("agent-v0", "no longer there") in {row[:2] for row in shown}


def test_what_is_in_a_dataset_is_in_all_that_are_made_of_it() -> None:
    answer = lineage.touched(chain(), Question(object="s3://seeds"), rows)
    assert answer["datasets"] == [
        {"name": "agent-v1", "conversations": 10},
        {"name": "agent-v2", "conversations": 0, "through": ["agent-v1"]},
        {"name": "agent-v3", "conversations": 0, "through": ["agent-v1"]},
    ]
    assert (answer["jobs"], answer["drafters"], len(answer["endpoints"])) == (["agent-v3"], ["agent-v3"], 1)
    assert {(item["name"], item["in"]) for item in answer["missing"]} == {
        ("agent-v0", "agent-v2"),
        ("agent-v0", "agent-v3"),
    }
    lines = lineage.touched_tables(answer)[0].rows
    assert ("dataset", "agent-v3", "made of agent-v1: all of it counts") in lines
    assert lines[-1] == ("missing", "agent-v0", "no longer there, so it is not known: agent-v3 is made of it")
    both = lineage.touched(chain(), Question(tenant=tenant_hash("acme")), rows)
    shown = dict(row[1:] for row in lineage.touched_tables(both)[0].rows if row[0] == "dataset")
    assert shown["agent-v2"] == "5 conversations; made of agent-v1: all of it counts"


def test_a_later_namesake_is_not_what_a_dataset_was_made_of() -> None:
    other = objects.dataset("agent-v2", of={"agent-v1": "uid-of-another"})
    found = replace(chain(), datasets=[objects.dataset("agent-v1"), other])
    answer = lineage.behind(found, "dataset", "agent-v2", rows)
    assert [(item["name"], item.get("missing", False)) for item in answer["datasets"]] == [
        ("agent-v1", True),
        ("agent-v2", False),
    ]
    nothing = lineage.touched(found, Question(object="s3://nowhere"), rows)
    assert [row[0] for row in lineage.touched_tables(nothing)[0].rows] == ["-", "missing"]


def test_files_are_put_where_a_dataset_looks_for_them(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl.gz", "other/a.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    output = f"file://{tmp_path}/out"
    files = [tmp_path / "a.jsonl", tmp_path / "b.jsonl.gz"]
    uris = storage.upload(output, "team-a", "mine", files, StoreConfig())
    assert uris == [f"{output}/uploads/team-a/mine/{path.name}" for path in files]
    assert [Path(uri.removeprefix("file://")).read_text() for uri in uris] == ["a.jsonl", "b.jsonl.gz"]
    with pytest.raises(CliError, match="no such file: nowhere"):
        storage.upload(output, "team-a", "mine", [Path("nowhere")], StoreConfig())
    with pytest.raises(CliError, match="the same name"):
        storage.upload(output, "team-a", "mine", [files[0], tmp_path / "other" / "a.jsonl"], StoreConfig())


def test_rows_are_read_from_what_a_dataset_wrote(tmp_path: Path) -> None:
    result: Json = {"digest": objects.ONE, "uri": f"file://{tmp_path}/nothing/manifest.json"}
    dataset = objects.dataset("agent-v1")
    facts = dataset.status.result
    assert facts is not None
    broken = dataset.model_copy(
        update={"status": dataset.status.model_copy(update={"result": facts.model_copy(update=result)})}
    )
    with pytest.raises(CliError, match="dataset agent-v1: "):
        storage.lineage_rows(broken, Question(), None)
    assert storage.lineage_rows(objects.dataset("agent-v3", done=False), Question(), None) == []
