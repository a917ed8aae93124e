"""What is in a dataset and what is not, in numbers: status counts, `report.json`, and why nothing was usable.

Nothing of any row is in it: places, reasons and sums only. `specop.data.card` shows it to a person.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from specop.api.dataset import DatasetCounts
from specop.api.jobs import DatasetConfig
from specop.api.shared import TargetFacts
from specop.data.build import Built
from specop.data.chunks import Place
from specop.data.decide import Likeness, Mix
from specop.data.formats import DROPPED, Fate, Json
from specop.data.sources import SourceObject
from specop.data.work import Note

_LISTED = 1000


@dataclass
class Unused:
    """Lines that became no row: counted by reason, the malformed ones listed by place; never what they hold."""

    reasons: Counter[str] = field(default_factory=Counter)
    places: list[Json] = field(default_factory=list)

    def note(self, place: Place, notes: Iterable[Note]) -> None:
        """Count lines of one object, and list those that were malformed while the list is not long."""
        for offset, fate, reason in notes:
            self.reasons[reason] += 1
            if fate is Fate.SET_ASIDE and len(self.places) < _LISTED:
                self.places.append({"object": place.uri, "offset": offset, "reason": reason})


@dataclass(frozen=True)
class Result:
    """Everything that is known of a dataset before it is published."""

    config: DatasetConfig
    target: TargetFacts
    built: Built
    fates: Counter[tuple[int, Fate]]
    """Lines by source and by what became of them."""
    mix: dict[int, Mix]
    """By source."""
    likeness: Likeness
    languages: Counter[str]
    """Of lines that may be used, where `quality.languages` looks at them."""
    unused: Unused
    objects: list[SourceObject]

    def by_fate(self) -> Counter[Fate]:
        """Lines of all sources by what became of them."""
        found: Counter[Fate] = Counter()
        for (_, fate), count in self.fates.items():
            found[fate] += count
        return found

    def counts(self) -> DatasetCounts:
        """Return what status shows of them: read = kept + regenerated + dropped + setAside."""
        fates, regenerated = self.by_fate(), self.built.regenerated.total()
        return DatasetCounts(
            read=fates.total(),
            kept=fates[Fate.TRAIN] + fates[Fate.HOLDOUT] - regenerated,
            regenerated=regenerated,
            dropped=sum(fates[fate] for fate in DROPPED),
            set_aside=fates[Fate.SET_ASIDE],
            duplicates=fates[Fate.DUPLICATE],
            failed_responses=fates[Fate.FAILED],
            unsupervised=fates[Fate.UNSUPERVISED],
            outweighed=fates[Fate.OUTWEIGHED],
            near_duplicates=fates[Fate.NEAR_DUPLICATE],
            excluded=fates[Fate.EXCLUDED],
            unfit=fates[Fate.UNFIT],
            unanswered=fates[Fate.UNANSWERED],
            no_consent=fates[Fate.NO_CONSENT],
            private=fates[Fate.PRIVATE],
            altered=self.built.altered,
            filtered=fates[Fate.FILTERED],
            truncated_rows=self.built.truncated,
        )

    def why_unusable(self) -> str:
        """Say where the rows went."""
        fates = self.by_fate()
        return (
            f"Of {fates.total()} conversations {fates[Fate.TRAIN]} are left to train on and {fates[Fate.HOLDOUT]} to "
            f"hold out ({fates[Fate.DUPLICATE]} duplicates, {fates[Fate.FAILED]} failed, {fates[Fate.UNSUPERVISED]} "
            f"without a generated token, {fates[Fate.UNSUPPORTED]} not of text alone, {fates[Fate.REFUSED]} refused by "
            f"the chat template, {fates[Fate.UNANSWERED]} refused by the target, {fates[Fate.SET_ASIDE]} malformed); "
            "at least one of each is needed. Look at the sources."
        )

    def recipe(self) -> Json:
        """Return what decides about rows, without where they lie: part of the dataset's digest."""
        names = ("weight", "maxConversations", "repeat", "filter", "excludePeriods")
        sources = {source.name: source.to_json() for source in self.config.sources}
        asked = self.config.regenerate
        quality = self.config.quality.to_json()
        anew = asked.model_dump(include={"mode", "model", "target_names", "max_tokens"}) if asked else None
        return {
            **({"regenerate": anew} if anew else {}),
            "holdout": self.config.holdout.to_json(),
            "transform": self.config.transform.to_json(),
            "consent": self.config.consent.to_json(),
            "privacy": self.config.privacy.to_json(),
            "quality": {name: limit for name, limit in quality.items() if limit != []},
            "sources": {name: {key: of[key] for key in names if key in of} for name, of in sources.items()},
        }

    def report(self) -> Json:
        """`report.json`: what is in the dataset and what is not, by source, without content."""
        built = self.built
        return {
            "name": self.config.name,
            "counts": self.counts().to_json(),
            "rows": {
                "train": built.rows,
                "holdout": built.holdout_rows,
                "constrained": built.constrained,
                "respelled": built.respelled,
                "tokens": built.tokens,
                "supervisedTokens": built.supervised.total(),
            },
            "sources": [self._source(index, source.name) for index, source in enumerate(self.config.sources)],
            "lengths": {"tokens": _buckets(built.lengths), "supervisedTokens": _buckets(built.supervised_lengths)},
            "privacy": {"altered": built.altered, "entities": dict(sorted(built.entities.items()))},
            "likeness": {
                "nearDuplicates": self.likeness.near_duplicates,
                "nearDuplicatesDropped": self.by_fate()[Fate.NEAR_DUPLICATE],
                "holdoutLikeTrain": self.likeness.seen,
            },
            **({"languages": dict(sorted(self.languages.items()))} if self.config.quality.languages else {}),
            "unused": dict(self.unused.reasons),
            "setAside": self.unused.places,
        }

    def _source(self, index: int, name: str) -> Json:
        mine, mix = [item for item in self.objects if item.source == index], self.mix.get(index, Mix())
        supervised, dataset, origins = self.built.supervised, self.config.sources[index].dataset, self.built.origins
        of_dataset = {"dataset": dataset.digest, "of": dict(sorted(origins.get(name, {}).items()))} if dataset else {}
        return {
            "name": name,
            **of_dataset,
            "objects": len(mine),
            "bytes": sum(item.info.size for item in mine),
            "lines": {fate.name.lower(): count for fate in Fate if (count := self.fates[index, fate])},
            "conversations": mix.conversations,
            "conversationPercent": _percent(mix.conversations, sum(of.conversations for of in self.mix.values())),
            "repeated": mix.repeated,
            "regenerated": self.built.regenerated[index],
            "oldest": mix.oldest,
            "newest": mix.newest,
            "supervisedTokens": supervised[name],
            "supervisedPercent": _percent(supervised[name], supervised.total()),
        }


def _percent(part: int, whole: int) -> float:
    return round(100 * part / whole, 1) if whole else 0.0


def _buckets(counts: Counter[int]) -> list[Json]:
    """Rows by length: up to 1, 2, 4, 8, … tokens."""
    return [{"upTo": 1 << power, "rows": counts[power]} for power in sorted(counts)]
