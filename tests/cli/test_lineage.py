"""Whose data is in which drafter, asked from both ends; files of a user where a dataset looks for them."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from specop.api.base import Resource
from specop.api.jobs import StoreConfig
from specop.api.shared import Json
from specop.cli import lineage, storage
from specop.cli.errors import CliError
from specop.cli.lineage import Artefact, Found, Kind, Made, Question
from specop.cli.loop import Loop
from specop.common.names import tenant_hash
from tests.cli import objects

AnyResource = TypeVar("AnyResource", bound=Resource)


def sha(name: str) -> str:
    return f"sha256:{hashlib.sha256(name.encode()).hexdigest()}"


def weights(kind: str, name: str) -> Json:
    return {"digest": sha(f"{kind}/{name}"), "uri": f"s3://o/{kind}s/{name}/manifest.json"}


def changed(made: AnyResource, **status: Any) -> AnyResource:
    return type(made).model_validate({**made.to_json(), "status": {**made.to_json().get("status", {}), **status}})


@dataclass
class Storage:
    """What lies there, and the objects that name it; `delete` takes an object or an artefact away."""

    made: dict[tuple[str, str], Made] = field(default_factory=dict)
    tenants: dict[str, str] = field(default_factory=dict)
    loop: Loop = field(default_factory=lambda: Loop("team-a"))

    def dataset(self, name: str, rows: Mapping[str, tuple[str, int]], of: Iterable[str] = ()) -> None:
        """`rows`: by object, tenant and number of conversations."""
        found = tuple(Found("logs", uri, "e", many, "2026-01-01", "2026-01-02") for uri, (_, many) in rows.items())
        self.tenants |= {uri: tenant for uri, (tenant, _) in rows.items()}
        self._put("dataset", name, tuple(artefact("dataset", one) for one in of), found)
        below = [{"source": one, "name": one, **weights("dataset", one)} for one in of]
        made = objects.dataset(name)
        result = {**made.to_json()["status"]["result"], **weights("dataset", name)}
        made = changed(made, result=result, resolved={"output": "s3://o", "datasets": below})
        self.loop = replace(self.loop, datasets=[*self.loop.datasets, made])

    def drafter(self, name: str, dataset: str, parent: str | None = None) -> None:
        """A job of this name on the dataset, and its drafter."""
        of = [artefact("dataset", dataset), *([artefact("drafter", parent)] if parent else [])]
        self._put("drafter", name, tuple(of))
        job = objects.job(name, datasetRef={"name": dataset})
        frozen = weights("dataset", dataset)
        resolved = job.to_json()["status"]["resolved"] | {
            "datasetDigest": frozen["digest"],
            "datasetUri": frozen["uri"],
        }
        if parent:
            resolved |= {"warmStart": {"name": parent, **weights("drafter", parent)}}
        made = objects.drafter(name, sha(f"drafter/{name}"), parent=parent)
        made = changed(made, uri=weights("drafter", name)["uri"])
        jobs = [*self.loop.jobs, changed(job, resolved=resolved)]
        self.loop = replace(self.loop, jobs=jobs, drafters=[*self.loop.drafters, made])

    def serve(self, name: str) -> None:
        serving = {**objects.serving(name=name), **weights("drafter", name)}
        self.loop = replace(self.loop, endpoints=[objects.endpoint(status={"drafter": {"serving": serving}})])

    def delete(self, kind: str, name: str) -> None:
        """Delete an object, not what it names."""
        kept = [item for item in getattr(self.loop, f"{kind}s") if item.metadata.name != name]
        self.loop = replace(self.loop, **{f"{kind}s": kept})

    def lose(self, kind: Kind, name: str) -> None:
        """Delete files, not the object that names them."""
        del self.made[artefact(kind, name).key]

    def read(self, one: Artefact, question: Question) -> Made | None:
        """As `storage.read_made` does."""
        made = self.made.get(one.key)
        return made and replace(made, found=tuple(found for found in made.found if self._meant(found, question)))

    def _meant(self, found: Found, question: Question) -> bool:
        tenant = tenant_hash(self.tenants[found.object])
        return found.object.startswith(question.object or "") and question.tenant in {None, tenant}

    def _put(self, kind: Kind, name: str, of: tuple[Artefact, ...], found: tuple[Found, ...] = ()) -> None:
        self.made[artefact(kind, name).key] = Made(name, of, found)


def artefact(kind: Kind, name: str) -> Artefact:
    """As a manifest names it: without a name."""
    return Artefact(kind, sha(f"{kind}/{name}"), "", weights(kind, name)["uri"])


A1, SEEDS, A2, A3 = "s3://a/1.jsonl", "s3://seeds/x.jsonl", "s3://a/2.jsonl", "s3://a/3.jsonl"


def two() -> Storage:
    """Two generations, the second served and warm-started from the first."""
    made = Storage()
    made.dataset("agent-v1", {A1: ("acme", 30), SEEDS: ("", 10)})
    made.dataset("agent-v2", {A2: ("acme", 5), A3: ("other", 5)})
    made.drafter("agent-v1", "agent-v1")
    made.drafter("agent-v2", "agent-v2", parent="agent-v1")
    made.serve("agent-v2")
    made.loop = replace(made.loop, datasets=[*made.loop.datasets, objects.dataset("agent-v3", done=False)])
    return made


@pytest.mark.parametrize(
    ("of", "found", "drafters"),
    [
        (("endpoint", "agent"), [A1, SEEDS, A2, A3], ["agent-v2"]),
        (("drafter", "agent-v1"), [A1, SEEDS], ["agent-v1"]),
        (("job", "agent-v2"), [A1, SEEDS, A2, A3], ["agent-v2"]),
        (("dataset", "agent-v2"), [A2, A3], []),
        (("dataset", "agent-v3"), ["-"], []),
    ],
)
def test_what_something_was_made_of(of: tuple[str, str], found: list[str], drafters: list[str]) -> None:
    made = two()
    answer = lineage.behind(made.loop, *of, made.read)
    assert (answer["drafters"], answer["missing"]) == (drafters, [])
    assert [row[-1] for row in lineage.behind_tables(answer)[1].rows] == found


@pytest.mark.parametrize("kind", ["endpoint", "drafter", "job", "dataset"])
def test_what_does_not_exist_is_an_error(kind: str) -> None:
    with pytest.raises(CliError, match="nobody in namespace team-a"):
        lineage.behind(two().loop, kind, "nobody", two().read)


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
    made = two()
    answer = lineage.touched(made.loop, question, made.read)
    assert {item["name"]: item["conversations"] for item in answer["datasets"]} == datasets
    assert (answer["jobs"], answer["drafters"]) == (drafters, drafters)
    assert [item["name"] for item in answer["endpoints"]] == endpoints
    assert (answer["deleted"], answer["missing"]) == ([], [])
    assert lineage.touched_tables(answer)[0].rows


def test_an_endpoint_that_serves_an_older_drafter_is_not_touched_by_a_newer_one() -> None:
    made = two()
    made.serve("agent-v1")
    answer = lineage.touched(made.loop, Question(tenant=tenant_hash("other")), made.read)
    assert (answer["drafters"], answer["endpoints"]) == (["agent-v2"], [])


def test_objects_that_were_deleted_hide_nothing() -> None:
    made = two()
    before = lineage.behind(made.loop, "endpoint", "agent", made.read)
    for kind in ("dataset", "job", "drafter"):
        made.delete(kind, "agent-v1")
    answer = lineage.behind(made.loop, "endpoint", "agent", made.read)
    first, second = answer["datasets"]
    assert [first | {"deleted": None}, second] == [before["datasets"][0] | {"deleted": None}, before["datasets"][1]]
    assert lineage.behind_tables(answer)[1].rows[0][0] == "agent-v1 (deleted)"

    answer = lineage.touched(made.loop, Question(object=SEEDS), made.read)
    assert (answer["datasets"], answer["drafters"], len(answer["endpoints"])) == ([], ["agent-v2"], 1)
    assert [(item["kind"], item["name"]) for item in answer["deleted"]] == [
        ("drafter", "agent-v1"),
        ("dataset", "agent-v1"),
    ]
    where = weights("dataset", "agent-v1")["uri"]
    assert ("dataset", "agent-v1", f"object deleted, files at {where}") in lineage.touched_tables(answer)[0].rows


def test_a_later_namesake_is_not_what_something_was_made_of() -> None:
    made = two()
    made.delete("dataset", "agent-v1")
    other = objects.dataset("agent-v1")
    result = {**other.to_json()["status"]["result"], "uri": "s3://o/datasets/other/manifest.json"}
    made.loop = replace(made.loop, datasets=[*made.loop.datasets, changed(other, result=result)])
    made.made["dataset", objects.ONE] = Made("agent-v1", (), (Found("logs", "s3://b/1.jsonl", "e", 7, "", ""),))
    made.tenants["s3://b/1.jsonl"] = ""
    answer = lineage.behind(made.loop, "drafter", "agent-v1", made.read)
    assert [(item["digest"], item["deleted"]) for item in answer["datasets"]] == [(sha("dataset/agent-v1"), True)]
    answer = lineage.touched(made.loop, Question(object="s3://b"), made.read)
    assert (answer["datasets"], answer["drafters"]) == ([{"name": "agent-v1", "conversations": 7}], [])


def test_what_is_not_in_storage_any_more_is_said_to_be_missing() -> None:
    made = two()
    made.lose("dataset", "agent-v1")
    answer = lineage.behind(made.loop, "endpoint", "agent", made.read)
    lost = {"kind": "dataset", "name": "agent-v1", "digest": sha("dataset/agent-v1")}
    assert answer["missing"] == [lost]
    assert lineage.behind_tables(answer)[1].rows[-1][:2] == ("dataset agent-v1", "no longer in storage")
    answer = lineage.touched(made.loop, Question(object="s3://nowhere"), made.read)
    holders = [
        "dataset/agent-v1",
        "drafter/agent-v1",
        "drafter/agent-v2",
        "endpoint/agent",
        "job/agent-v1",
        "job/agent-v2",
    ]
    assert answer["missing"] == [{**lost, "in": holders}]
    shown = lineage.touched_tables(answer)[0].rows
    assert [row[0] for row in shown] == ["-", "dataset ?"]
    assert "so it is not known" in shown[1][2]


def chain() -> Storage:
    """agent-v2 is made of agent-v1 and agent-v0, agent-v3 of agent-v2; the object of agent-v0 is deleted."""
    made = Storage()
    made.dataset("agent-v0", {"s3://a/0.jsonl": ("acme", 1)})
    made.dataset("agent-v1", {A1: ("acme", 30), SEEDS: ("", 10)})
    made.dataset("agent-v2", {A2: ("acme", 5), A3: ("other", 5)}, of=["agent-v1", "agent-v0"])
    made.dataset("agent-v3", {}, of=["agent-v2"])
    made.drafter("agent-v3", "agent-v3")
    made.serve("agent-v3")
    made.delete("dataset", "agent-v0")
    return made


@pytest.mark.parametrize("of", [("endpoint", "agent"), ("dataset", "agent-v3"), ("job", "agent-v3")])
def test_what_a_dataset_was_made_of_is_named_with_its_objects(of: tuple[str, str]) -> None:
    made = chain()
    answer = lineage.behind(made.loop, *of, made.read)
    assert [item["name"] for item in answer["datasets"]] == ["agent-v0", "agent-v1", "agent-v2", "agent-v3"]
    assert [item.get("deleted", False) for item in answer["datasets"]] == [True, False, False, False]
    assert [item["object"] for item in answer["datasets"][1]["objects"]] == [A1, SEEDS]


def test_where_a_manifest_names_no_datasets_the_object_does() -> None:
    made = chain()
    key = artefact("dataset", "agent-v2").key
    made.made[key] = replace(made.made[key], of=())
    answer = lineage.behind(made.loop, "endpoint", "agent", made.read)
    assert [item["name"] for item in answer["datasets"]] == ["agent-v0", "agent-v1", "agent-v2", "agent-v3"]
    assert [row[1] for row in lineage.behind_tables(answer)[1].rows][-1] == "-", "finished, with no rows of its own"


def test_what_is_in_a_dataset_is_in_all_that_are_made_of_it() -> None:
    made = chain()
    answer = lineage.touched(made.loop, Question(object=SEEDS), made.read)
    assert answer["datasets"] == [
        {"name": "agent-v1", "conversations": 10},
        {"name": "agent-v2", "conversations": 0, "through": ["agent-v1"]},
        {"name": "agent-v3", "conversations": 0, "through": ["agent-v1"]},
    ]
    assert (answer["jobs"], answer["drafters"], len(answer["endpoints"])) == (["agent-v3"], ["agent-v3"], 1)
    assert ("dataset", "agent-v3", "made of agent-v1: all of it counts") in lineage.touched_tables(answer)[0].rows
    both = lineage.touched(made.loop, Question(tenant=tenant_hash("acme")), made.read)
    shown = dict(row[1:] for row in lineage.touched_tables(both)[0].rows if row[0] == "dataset")
    assert (
        shown["agent-v2"] == "5 conversations; made of agent-v0: all of it counts; made of agent-v1: all of it counts"
    )


def test_of_imported_weights_their_object_tells() -> None:
    made = two()
    made.made["drafter", sha("drafter/agent-v1")] = Made("agent-v1")
    answer = lineage.behind(made.loop, "endpoint", "agent", made.read)
    assert [item["name"] for item in answer["datasets"]] == ["agent-v1", "agent-v2"]
    made.delete("dataset", "agent-v1")
    answer = lineage.behind(made.loop, "drafter", "agent-v1", made.read)
    assert answer["datasets"] == []
    assert answer["missing"] == [{"kind": "dataset", "name": "agent-v1", "digest": "", "deleted": True}]


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


def test_a_manifest_that_cannot_be_read_is_an_error_and_one_that_is_gone_is_not(tmp_path: Path) -> None:
    uri = f"file://{tmp_path}/datasets/x/manifest.json"
    one = Artefact("dataset", objects.ONE, "agent-v1", uri)
    assert storage.read_made(one, Question(), None) is None
    (tmp_path / "datasets" / "x").mkdir(parents=True)
    (tmp_path / "datasets" / "x" / "manifest.json").write_text("{}")
    with pytest.raises(CliError, match="dataset agent-v1: "):
        storage.read_made(one, Question(), None)
