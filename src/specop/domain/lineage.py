"""Which drafters an endpoint may serve, and in which order: `drafter.from`, and what descends from it.

PURE. Lineage is by name and uid, never by owner: an ancestor may be gone. What is older than the drafter that serves
is no candidate while that one may serve on, whether or not its Drafter object is still there.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from specop.api import reasons
from specop.api.drafter import Drafter
from specop.api.endpoint import DrafterFrom, ServingDrafter
from specop.api.shared import Contract, Weights
from specop.domain.conditions import is_true
from specop.manifests.serving import ArmSpec


@dataclass(frozen=True, slots=True)
class Offer:
    """A drafter that could serve: what its object says, or what the endpoint's status kept of it."""

    name: str
    weights: Weights
    contract: Contract
    born: str
    """RFC 3339; offers are ordered by it, then by name."""
    acceptance_length: str | None = None

    @property
    def digest(self) -> str:
        """Digest of the weights."""
        return self.weights.digest

    @property
    def arm(self) -> ArmSpec:
        """The arm that would serve it."""
        return ArmSpec(self.weights, self.contract)

    @property
    def age(self) -> tuple[str, str]:
        """Sorts from old to new."""
        return (self.born, self.name)


def offers(drafters: Iterable[Drafter], origin: DrafterFrom) -> list[Offer]:
    """All ready drafters that `origin` names, newest first."""
    made = [offer for drafter in follow(drafters, origin) if (offer := offer_of(drafter)) is not None]
    return sorted(made, key=lambda offer: offer.age, reverse=True)


def offer_of(drafter: Drafter) -> Offer | None:
    """Make an offer of a drafter that is ready."""
    status = drafter.status
    if not is_true(status.conditions, reasons.READY) or drafter.metadata.deletion_timestamp:
        return None
    if status.digest is None or status.uri is None or status.contract is None:
        return None
    return Offer(
        name=drafter.metadata.name,
        weights=Weights(digest=status.digest, uri=status.uri),
        contract=status.contract,
        born=drafter.metadata.creation_timestamp or "",
        acceptance_length=status.evaluation.acceptance_length if status.evaluation else None,
    )


def follow(drafters: Iterable[Drafter], origin: DrafterFrom) -> list[Drafter]:
    """All drafters that `origin` names: one, or a job's drafter and every descendant by `lineage.parent`."""
    everyone = list(drafters)
    if origin.drafter_ref is not None:
        return [drafter for drafter in everyone if drafter.metadata.name == origin.drafter_ref.name]
    if origin.training_job_ref is None:
        return []
    root = origin.training_job_ref.name
    by_name = {drafter.metadata.name: drafter for drafter in everyone}
    found = {drafter.metadata.name for drafter in everyone if _made_by(drafter, root)}
    reached = {root, *found}  # the root's own drafter bears its name, and may be gone
    grew = True
    while grew:
        children = {
            drafter.metadata.name
            for drafter in everyone
            if drafter.metadata.name not in found and _parent_in(drafter, reached, by_name)
        }
        grew = bool(children)
        found |= children
        reached |= children
    return [drafter for drafter in everyone if drafter.metadata.name in found]


def serving_offer(serving: ServingDrafter, drafters: Iterable[Drafter]) -> Offer:
    """Make an offer of what serves. Without its object it is as old as its service: only what came later is newer."""
    born = next((d.metadata.creation_timestamp for d in drafters if is_object_of(d, serving)), None)
    weights = Weights(digest=serving.digest, uri=serving.uri)
    return Offer(serving.name, weights, serving.contract, born or serving.since)


def is_object_of(drafter: Drafter, serving: ServingDrafter) -> bool:
    """Whether this is the object of the drafter that serves, and not a later namesake."""
    return drafter.metadata.name == serving.name and drafter.status.digest in {None, serving.digest}


def _made_by(drafter: Drafter, job: str) -> bool:
    lineage = drafter.spec.lineage
    return lineage is not None and lineage.training_job is not None and lineage.training_job.name == job


def _parent_in(drafter: Drafter, names: set[str], by_name: dict[str, Drafter]) -> bool:
    """Whether the parent is one of these, and is not another that took its name."""
    parent = drafter.spec.lineage.parent if drafter.spec.lineage else None
    if parent is None or parent.name not in names:
        return False
    living = by_name.get(parent.name)
    return living is None or parent.uid is None or living.metadata.uid == parent.uid
