"""Whose data is in which drafter, both ways. Pure; rows of `lineage.parquet` come from `lineage_rows`.

    objects ─► datasets (and those made of them) ─► training jobs ─► drafters (and their descendants) ─► endpoints
            ◄─                                   ◄─               ◄─                                  ◄─

A drafter holds what its job was trained on and, by warm start, what its ancestors were: an object that reached a
drafter reached all that descend from it. A dataset that is made of another holds all of it, though some of its rows may
have been left out: who has to delete needs no less. What an administrator deleted is said to be missing, never guessed.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from specop.api.dataset import ResolvedDataset, SpeculatorDataset
from specop.api.drafter import Drafter
from specop.api.shared import Json
from specop.cli.errors import CliError
from specop.cli.loop import NOTHING, Loop, Table


@dataclass(frozen=True, slots=True)
class Question:
    """Which rows are meant; what is not set means all."""

    object: str | None = None
    """URI, or its beginning."""
    tenant: str | None = None
    """Hash (`common.names.tenant_hash`)."""
    since: str | None = None
    until: str | None = None
    """RFC 3339 in UTC: since <= time < until."""


@dataclass(frozen=True, slots=True)
class Found:
    """Conversations of one object in one dataset."""

    source: str
    object: str
    etag: str
    conversations: int
    oldest: str
    newest: str


Rows = Callable[[SpeculatorDataset, Question], list[Found]]
"""Reads the lineage of a finished dataset."""


def behind(loop: Loop, kind: str, name: str, rows: Rows) -> Json:
    """Answer what a dataset, job, drafter or endpoint was made of. Raises CliError when it does not exist."""
    drafters = _drafters_of(loop, kind, name)
    names = {name} if kind == "dataset" else {item for drafter in drafters for item in _datasets_of(loop, drafter)}
    if kind == "job":
        names |= {job.spec.dataset_ref.name for job in loop.jobs if job.metadata.name == name}
    known = {dataset.metadata.name: dataset for dataset in loop.datasets}
    if kind == "dataset" and name not in known:
        raise CliError(f"there is no SpeculatorDataset {name} in namespace {loop.namespace}")
    lost = [{"name": item, "missing": True} for item in names if item not in known]
    living, gone = _with_all_below([known[item] for item in names if item in known], known)
    lost += [{"name": name, "digest": digest, "missing": True} for name, digest in gone]
    datasets = [{"name": dataset.metadata.name, **_objects(dataset, rows)} for dataset in living]
    return {
        "of": f"{kind}/{name}",
        "drafters": sorted(drafter.metadata.name for drafter in drafters),
        "datasets": sorted([*datasets, *lost], key=lambda item: (item["name"], "missing" in item)),
    }


def touched(loop: Loop, question: Question, rows: Rows) -> Json:
    """Answer which datasets, jobs, drafters and endpoints hold conversations that are meant.

    And which datasets are missing that some are made of: whether these held any is not known.
    """
    known = {dataset.metadata.name: dataset for dataset in loop.datasets}
    finished = [dataset for dataset in loop.datasets if dataset.status.result is not None]
    counts = {
        dataset.metadata.name: sum(item.conversations for item in rows(dataset, question)) for dataset in finished
    }
    datasets, missing = [], []
    for dataset in finished:
        name = dataset.metadata.name
        below, gone = _with_all_below([dataset], known)
        through = sorted(item.metadata.name for item in below[1:] if counts.get(item.metadata.name))
        if counts[name] or through:
            found: Json = {"name": name, "conversations": counts[name]}
            datasets.append({**found, "through": through} if through else found)
        missing += [{"name": lost, "digest": digest, "in": name} for lost, digest in gone]
    holding = {item["name"] for item in datasets}
    jobs = sorted(job.metadata.name for job in loop.jobs if job.spec.dataset_ref.name in holding)
    drafters = sorted(
        drafter.metadata.name for drafter in loop.drafters if not holding.isdisjoint(_datasets_of(loop, drafter))
    )
    endpoints = [
        {"name": endpoint.metadata.name, "drafter": serving.name, "digest": serving.digest}
        for endpoint in loop.endpoints
        if (serving := endpoint.status.drafter.serving) is not None and serving.name in drafters
    ]
    datasets.sort(key=lambda item: str(item["name"]))
    return {"datasets": datasets, "jobs": jobs, "drafters": drafters, "endpoints": endpoints, "missing": missing}


def behind_tables(answer: Json) -> list[Table]:
    """Lay out what something was made of."""
    lines = []
    for dataset in answer["datasets"]:
        if not dataset.get("objects"):
            why = "no longer there" if dataset.get("missing") else "not finished"
            lines.append((dataset["name"], why, NOTHING, NOTHING, NOTHING, NOTHING))
        for item in dataset.get("objects", ()):
            cells = (item["source"], str(item["conversations"]), item["oldest"], item["newest"], item["object"])
            lines.append((dataset["name"], *cells))
    return [
        Table(("OF", answer["of"]), (("drafters", " ".join(answer["drafters"]) or NOTHING),)),
        Table(("DATASET", "SOURCE", "CONVERSATIONS", "OLDEST", "NEWEST", "OBJECT"), tuple(lines)),
    ]


def touched_tables(answer: Json) -> list[Table]:
    """Lay out what holds the conversations that are meant."""
    lines = [("dataset", item["name"], _how(item)) for item in answer["datasets"]]
    lines += [("job", name, "") for name in answer["jobs"]]
    lines += [("drafter", name, "") for name in answer["drafters"]]
    lines += [("endpoint", item["name"], f"serves {item['drafter']}") for item in answer["endpoints"]]
    lines = lines or [(NOTHING, "nothing holds such conversations", "")]
    why = "no longer there, so it is not known: {} is made of it"
    lines += [("missing", item["name"], why.format(item["in"])) for item in answer["missing"]]
    return [Table(("KIND", "NAME", "HOW"), tuple(lines))]


def _how(dataset: Json) -> str:
    parts = [f"{dataset['conversations']} conversations"] if dataset["conversations"] else []
    parts += [f"made of {name}: all of it counts" for name in dataset.get("through", ())]
    return "; ".join(parts)


def _with_all_below(
    datasets: Iterable[SpeculatorDataset], known: Mapping[str, SpeculatorDataset]
) -> tuple[list[SpeculatorDataset], list[tuple[str, str]]]:
    """Return datasets, then all that they are made of; and names and digests of those that are not there any more."""
    found = {dataset.metadata.name: dataset for dataset in datasets}
    gone: dict[tuple[str, str], None] = {}
    ahead = list(found.values())
    while ahead:
        resolved = ahead.pop(0).status.resolved
        for reference in resolved.datasets if resolved else ():
            dataset = known.get(reference.name)
            if dataset is None or not _is(dataset, reference):
                gone[reference.name, reference.digest] = None
            elif reference.name not in found:
                found[reference.name] = dataset
                ahead.append(dataset)
    return list(found.values()), list(gone)


def _is(dataset: SpeculatorDataset, reference: ResolvedDataset) -> bool:
    """Whether this is the dataset that was read, or an equal one, and not a later namesake."""
    result = dataset.status.result
    return dataset.metadata.uid == reference.uid or (result is not None and result.digest == reference.digest)


def _objects(dataset: SpeculatorDataset, rows: Rows) -> Json:
    if dataset.status.result is None:
        return {"objects": []}
    names = ("source", "object", "etag", "conversations", "oldest", "newest")
    found = [{name: getattr(item, name) for name in names} for item in rows(dataset, Question())]
    return {"digest": dataset.status.result.digest, "objects": found}


def _drafters_of(loop: Loop, kind: str, name: str) -> list[Drafter]:
    """Return the drafters that an object is, made, or serves."""
    if kind == "endpoint":
        endpoint = next((item for item in loop.endpoints if item.metadata.name == name), None)
        if endpoint is None:
            raise CliError(f"there is no DraftedEndpoint {name} in namespace {loop.namespace}")
        serving = endpoint.status.drafter.serving
        return [item for item in loop.drafters if serving is not None and item.metadata.name == serving.name]
    if kind == "dataset":
        return []
    found = [item for item in loop.drafters if item.metadata.name == name]
    if not found and not (kind == "job" and any(job.metadata.name == name for job in loop.jobs)):
        raise CliError(f"there is no {kind} {name} in namespace {loop.namespace}")
    return found


def _datasets_of(loop: Loop, drafter: Drafter) -> set[str]:
    """Return the names of all datasets that a drafter and its ancestors were trained on."""
    known: Mapping[str, Drafter] = {item.metadata.name: item for item in loop.drafters}
    datasets: set[str] = set()
    for one in _ancestry(drafter, known):
        lineage = one.spec.lineage
        if lineage and lineage.dataset:
            datasets.add(lineage.dataset.name)
        job = lineage.training_job.name if lineage and lineage.training_job else one.metadata.name
        datasets |= {item.spec.dataset_ref.name for item in loop.jobs if item.metadata.name == job}
    return datasets


def _ancestry(drafter: Drafter, known: Mapping[str, Drafter]) -> Iterable[Drafter]:
    seen: set[str] = set()
    one: Drafter | None = drafter
    while one is not None and one.metadata.name not in seen:
        seen.add(one.metadata.name)
        yield one
        parent = one.spec.lineage.parent if one.spec.lineage else None
        one = known.get(parent.name) if parent else None
