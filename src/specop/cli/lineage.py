"""Whose data is in which drafter, both ways. Pure; `storage.read_made` reads the manifests.

    objects ─► datasets (and those made of them) ─► drafters (and their descendants) ─► endpoints
            ◄─                                   ◄─                                   ◄─

It walks artefacts by their manifests, which outlive the objects that named them: what is in a dataset whose object was
deleted is in all that was made of it. A drafter holds what it was trained on and, by warm start, what its ancestors
were; a dataset that is made of another holds all of it, though some of its rows may have been left out: who has to
delete needs no less. What is not in storage any more is said to be missing, never guessed. Where a manifest does not
tell, as of imported weights, what their object says counts.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from specop.api.dataset import SpeculatorDataset
from specop.api.drafter import Drafter, LineageRef
from specop.api.shared import Json, Storage
from specop.api.training_job import SpeculatorTrainingJob
from specop.cli.errors import CliError
from specop.cli.loop import NOTHING, Loop, Table

Kind = Literal["dataset", "drafter"]


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


@dataclass(frozen=True, slots=True)
class Artefact:
    """A dataset or a drafter as it lies in storage."""

    kind: Kind
    digest: str
    """Empty where nobody wrote it down: then nothing but the name is known."""
    name: str
    uri: str = field(default="", compare=False)
    """Its manifest; empty where nobody wrote it down."""
    storage: Storage | None = field(default=None, compare=False)
    """How it is reached."""

    @property
    def key(self) -> tuple[str, str]:
        """What it is: equal content under two names is one."""
        return self.kind, self.digest or self.name


@dataclass(frozen=True, slots=True)
class Made:
    """What the manifest of an artefact says."""

    name: str
    of: tuple[Artefact, ...] = ()
    """What it was made of."""
    found: tuple[Found, ...] = ()
    """A dataset's conversations that are meant."""


Read = Callable[[Artefact, Question], Made | None]
"""Reads a manifest; None where it is not in storage any more."""


def behind(loop: Loop, kind: str, name: str, read: Read) -> Json:
    """Answer what a dataset, job, drafter or endpoint was made of. Raises CliError when it does not exist."""
    starts = _starts(loop, kind, name)
    graph = _Graph(loop, starts, read, Question())
    below = graph.below(starts)
    datasets: list[Json] = [
        {**graph.named(one), "objects": [asdict(item) for item in made.found]}
        for one in below
        if one.kind == "dataset" and (made := graph.made[one.key])
    ]
    if kind == "dataset" and not starts:
        datasets = [{"name": name, "objects": []}]
    own = (one for one in starts if one.kind == "drafter" and (kind != "job" or one.name == name))
    drafters = sorted(graph.named(one)["name"] for one in own)
    missing = [{"kind": one.kind, **graph.named(one)} for one in below if graph.made[one.key] is None]
    datasets.sort(key=lambda item: str(item["name"]))
    return {"of": f"{kind}/{name}", "drafters": drafters, "datasets": datasets, "missing": missing}


def touched(loop: Loop, question: Question, read: Read) -> Json:
    """Answer which datasets, jobs, drafters and endpoints hold conversations that are meant.

    `deleted`: artefacts that hold some and whose objects are deleted. `missing`: what is not in storage any more, so
    that it is not known whether it held any, and what was made of it.
    """
    holders = {("datasets", one.metadata.name): _of_dataset(one) for one in loop.datasets}
    holders |= {("jobs", one.metadata.name): _of_job(one) for one in loop.jobs}
    holders |= {("drafters", one.metadata.name): (_of_drafter(one),) for one in loop.drafters}
    holders |= {("endpoints", one.metadata.name): _serving(loop, one.metadata.name) for one in loop.endpoints}
    graph = _Graph(loop, [one for starts in holders.values() for one in starts], read, question)
    answer: dict[str, list[Any]] = {"datasets": [], "jobs": [], "drafters": [], "endpoints": []}
    missing: dict[tuple[str, str], Json] = {}
    for (kind, name), starts in sorted(holders.items()):
        below = graph.below(starts)
        for one in below:
            if graph.made[one.key] is None:
                lost = missing.setdefault(one.key, {"kind": one.kind, **graph.named(one), "in": []})
                lost["in"].append(f"{kind[:-1]}/{name}")
        holding = [one for one in below if graph.conversations(one)]
        if holding and kind == "datasets":
            answer[kind].append(_holding(graph, name, starts, holding))
        elif holding and kind == "endpoints":
            answer[kind].append({"name": name, "drafter": starts[0].name, "digest": starts[0].digest})
        elif holding:
            answer[kind].append(name)
    return {**answer, "deleted": graph.deleted(), "missing": list(missing.values())}


def behind_tables(answer: Json) -> list[Table]:
    """Lay out what something was made of."""
    lines = []
    for dataset in answer["datasets"]:
        name = f"{dataset['name']} (deleted)" if dataset.get("deleted") else dataset["name"]
        if not dataset["objects"]:
            why = NOTHING if "digest" in dataset else "not finished"
            lines.append((name, why, NOTHING, NOTHING, NOTHING, NOTHING))
        for item in dataset["objects"]:
            cells = (item["source"], str(item["conversations"]), item["oldest"], item["newest"], item["object"])
            lines.append((name, *cells))
    lines += [
        (f"{item['kind']} {item['name']}", "no longer in storage", NOTHING, NOTHING, NOTHING, NOTHING)
        for item in answer["missing"]
    ]
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
    lines += [(item["kind"], item["name"], f"object deleted, files at {item['uri']}") for item in answer["deleted"]]
    lines = lines or [(NOTHING, "nothing holds such conversations", "")]
    why = "no longer in storage, so it is not known: {} {} made of it"
    for item in answer["missing"]:
        verb = "is" if len(item["in"]) == 1 else "are"
        lines.append((f"{item['kind']} ?", item["name"], why.format(", ".join(item["in"]), verb)))
    return [Table(("KIND", "NAME", "HOW"), tuple(lines))]


class _Graph:
    """Artefacts, and all that they are made of, each read once."""

    def __init__(self, loop: Loop, starts: Iterable[Artefact], read: Read, question: Question) -> None:
        self._loop = loop
        self._living = _living(loop)
        self._read: list[Artefact] = []
        """In the order of reading, as they were referred to: one artefact more than once."""
        self.made: dict[tuple[str, str], Made | None] = {}
        ahead = list(starts)
        while ahead:
            one = ahead.pop(0)
            self._read.append(one)
            if self.made.get(one.key) is None:  # another reference may know where it lies
                made = read(one, question) if one.digest and one.uri else None
                self.made[one.key] = made = self._or_claimed(one, made)
                ahead += made.of if made else ()

    def _or_claimed(self, one: Artefact, made: Made | None) -> Made | None:
        """Where a manifest tells nothing, take the word of the object that names it; a dataset's rows no object has."""
        if made and made.of:
            return made
        if one.kind == "dataset":
            dataset = next((item for item in self._loop.datasets if one.key in _keys(_of_dataset(item))), None)
            return replace(made, of=_reused(dataset)) if made and dataset else made
        drafter = next((item for item in self._loop.drafters if _of_drafter(item).key == one.key), None)
        return Made(one.name, tuple(_claims(self._loop, drafter))) if drafter else made

    def below(self, starts: Iterable[Artefact]) -> list[Artefact]:
        """Artefacts and all that they are made of, nearest first."""
        seen: dict[tuple[str, str], Artefact] = {}
        ahead = list(starts)
        while ahead:
            one = ahead.pop(0)
            if one.key not in seen:
                seen[one.key] = one
                made = self.made[one.key]
                ahead += made.of if made else ()
        return list(seen.values())

    def conversations(self, one: Artefact) -> int:
        """How many of its own rows are meant."""
        made = self.made[one.key]
        return sum(item.conversations for item in made.found) if made else 0

    def named(self, one: Artefact) -> Json:
        """Name an artefact as its object is named, else as it was, and say whether the object is deleted."""
        living = sorted(item.name for item in self._living if item.key == one.key)
        made, names = self.made[one.key], {item.key: item.name for item in self._read if item.name}
        name = one.name if one.name in living else next(iter(living), "")
        name = name or (made.name if made else "") or names.get(one.key, one.digest)
        return {"name": name, "digest": one.digest, **({} if living else {"deleted": True})}

    def deleted(self) -> list[Json]:
        """Return artefacts whose objects are deleted, and which hold rows that are meant, or are made of such."""
        living = {item.key for item in self._living}
        lost = {item.key: item for item in self._read if item.key not in living and self.made[item.key]}
        return [
            {"kind": one.kind, "name": self.named(one)["name"], "digest": one.digest, "uri": one.uri}
            for one in lost.values()
            if any(map(self.conversations, self.below([one])))
        ]


def _starts(loop: Loop, kind: str, name: str) -> tuple[Artefact, ...]:
    """Return what an object is, or was made of."""
    objects: Mapping[str, Iterable[SpeculatorDataset | SpeculatorTrainingJob | Drafter]] = {
        "dataset": loop.datasets,
        "job": loop.jobs,
        "drafter": loop.drafters,
    }
    if kind == "endpoint":
        return _serving(loop, name)
    found = next((item for item in objects[kind] if item.metadata.name == name), None)
    match found:
        case SpeculatorDataset():
            return _of_dataset(found)
        case SpeculatorTrainingJob():
            made = (_of_drafter(item) for item in loop.drafters if item.metadata.name == name)
            return (*made, *_of_job(found))
        case Drafter():
            return (_of_drafter(found),)
    raise CliError(f"there is no {kind} {name} in namespace {loop.namespace}")


def _serving(loop: Loop, name: str) -> tuple[Artefact, ...]:
    endpoint = next((item for item in loop.endpoints if item.metadata.name == name), None)
    if endpoint is None:
        raise CliError(f"there is no DraftedEndpoint {name} in namespace {loop.namespace}")
    one, storage = endpoint.status.drafter.serving, endpoint.spec.storage
    return (Artefact("drafter", one.digest, one.name, one.uri, storage),) if one else ()


def _of_dataset(dataset: SpeculatorDataset) -> tuple[Artefact, ...]:
    one = dataset.status.result
    return (Artefact("dataset", one.digest, dataset.metadata.name, one.uri, dataset.spec.storage),) if one else ()


def _of_job(job: SpeculatorTrainingJob) -> tuple[Artefact, ...]:
    """Return the dataset and the weights that training started from, as they were frozen."""
    one, storage = job.status.resolved, job.spec.storage
    if one is None:
        return ()
    dataset = Artefact("dataset", one.dataset_digest, job.spec.dataset_ref.name, one.dataset_uri, storage)
    start = one.warm_start
    return (dataset, Artefact("drafter", start.digest, start.name, start.uri, storage)) if start else (dataset,)


def _of_drafter(drafter: Drafter) -> Artefact:
    digest, uri = drafter.status.digest or drafter.spec.weights.digest, drafter.status.uri or drafter.spec.weights.uri
    manifest = uri if uri.endswith("/manifest.json") else ""
    return Artefact("drafter", digest or "", drafter.metadata.name, manifest, drafter.spec.storage)


def _keys(artefacts: Iterable[Artefact]) -> set[tuple[str, str]]:
    return {one.key for one in artefacts}


def _reused(dataset: SpeculatorDataset) -> tuple[Artefact, ...]:
    """Return the datasets that one is made of, as they were frozen."""
    resolved, storage = dataset.status.resolved, dataset.spec.storage
    found = resolved.datasets if resolved else ()
    return tuple(Artefact("dataset", one.digest, one.name, one.uri, storage) for one in found)


def _claims(loop: Loop, drafter: Drafter) -> Iterator[Artefact]:
    """Yield what a drafter's object says that it was made of; what has no living object is known only by name."""
    lineage = drafter.spec.lineage
    claims: tuple[tuple[Kind, LineageRef | None], ...] = ()
    if lineage:
        claims = (("dataset", lineage.dataset), ("drafter", lineage.parent))
    for kind, claim in claims:
        if claim is None:
            continue
        named = (one for one in _living(loop) if (one.kind, one.name) == (kind, claim.name))
        same = (one for one in named if claim.digest in {None, one.digest})
        yield next(same, Artefact(kind, claim.digest or "", claim.name))


def _living(loop: Loop) -> list[Artefact]:
    return [*(one for item in loop.datasets for one in _of_dataset(item)), *map(_of_drafter, loop.drafters)]


def _holding(graph: _Graph, name: str, starts: Iterable[Artefact], holding: Iterable[Artefact]) -> Json:
    own = _keys(starts)
    through = sorted(graph.named(one)["name"] for one in holding if one.key not in own)
    found: Json = {"name": name, "conversations": sum(graph.conversations(one) for one in starts)}
    return {**found, "through": through} if through else found


def _how(dataset: Json) -> str:
    parts = [f"{dataset['conversations']} conversations"] if dataset["conversations"] else []
    parts += [f"made of {name}: all of it counts" for name in dataset.get("through", ())]
    return "; ".join(parts)
