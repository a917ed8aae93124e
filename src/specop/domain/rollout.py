"""Arms: from the one that serves (the keeper) to the one that is wanted, without a moment that nobody serves.

PURE, and stateless: what to do follows from what is there. With surge, the wanted arm comes up beside the keeper, which
goes when the wanted one is ready. Without, the keeper makes place one pod at a time. The races it minds: a cache that
is behind counts a pod too few or too many, which delays a step or lets a pod wait for room, never more; a Deployment
is applied only when the spec's part of it changed (`inputs`), so that an operator upgrade rolls nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from specop.api.endpoint import DraftedEndpoint
from specop.api.shared import Json
from specop.common.names import ANNOTATION_INPUTS, LABEL_ARM
from specop.domain.observed import Children
from specop.domain.plan import Apply, Delete
from specop.domain.pods import Trouble, trouble
from specop.manifests.runtime import Runtimes
from specop.manifests.serving import (
    ArmSpec,
    Images,
    default_images,
    deployment,
    inputs,
    live_images,
    scale,
    shape_digest,
)


@dataclass(frozen=True, slots=True)
class ArmView:
    """One arm: what it should be, and what is there."""

    spec: ArmSpec
    live: Json | None
    current: bool
    """The Deployment is made from what the spec says now."""
    ready: int
    """Pods that are ready and current; a lower bound while old ones are being replaced."""
    any_ready: int
    """Ready pods, old ones too."""
    pods: int
    """Pods of the Deployment, ready or not; those on their way out no longer count."""
    trouble: Trouble | None


@dataclass(frozen=True, slots=True)
class Step:
    """What to do to the arms now."""

    applies: tuple[Apply, ...] = ()
    deletes: tuple[Delete, ...] = ()
    available: bool = False
    """All pods of the wanted arm are ready: it has taken over."""


def images(obj: DraftedEndpoint, runtimes: Runtimes, children: Children) -> Images:
    """Images for arms that are made now: those of a live arm of the same shape, else the operator's."""
    shape = shape_digest(obj)
    for live in children.deployments:
        if _inputs_of(live).partition(".")[0] == shape:
            found = live_images(live)
            if found is not None:
                return found
    return default_images(obj, runtimes)


def look(obj: DraftedEndpoint, arm: ArmSpec, children: Children) -> ArmView:
    """See how an arm is."""
    live = live_arm(children, arm.name)
    current = live is not None and _inputs_of(live) == inputs(obj, arm)
    status = (live or {}).get("status") or {}
    any_ready = status.get("readyReplicas", 0)
    seen = live is not None and status.get("observedGeneration", 0) >= live["metadata"].get("generation", 0)
    old = max(0, status.get("replicas", 0) - status.get("updatedReplicas", 0))
    return ArmView(
        spec=arm,
        live=live,
        current=current,
        ready=max(0, any_ready - old) if current and seen else 0,
        any_ready=any_ready,
        pods=status.get("replicas", 0),
        trouble=trouble(pods_of(children, arm.name)),
    )


def arm_of(body: Json) -> str | None:
    """Name of the arm that a Deployment or a pod belongs to."""
    name: str | None = (body["metadata"].get("labels") or {}).get(LABEL_ARM)
    return name


def pods_of(children: Children, arm: str) -> list[Json]:
    """Pods of an arm's Deployment, without those of an earlier namesake that a cache may still hold."""
    live = live_arm(children, arm)
    if live is None:
        return []
    since = live["metadata"].get("creationTimestamp", "")
    pods = [pod for pod in children.pods if arm_of(pod) == arm]
    return [pod for pod in pods if pod["metadata"].get("creationTimestamp", since) >= since]


def live_arm(children: Children, arm: str) -> Json | None:
    """Deployment of an arm."""
    return next((item for item in children.deployments if arm_of(item) == arm), None)


@dataclass(frozen=True, slots=True)
class Arms:
    """The arms of one endpoint, and what is needed to make them."""

    obj: DraftedEndpoint
    runtimes: Runtimes
    children: Children

    def step(self, keeper: ArmView, wanted: ArmView) -> Step:
        """Bring the wanted arm up and every other arm down, the keeper last."""
        replicas = self.obj.spec.replicas
        names = {keeper.spec.name, wanted.spec.name}
        strays = tuple(_delete(live) for live in self.children.deployments if arm_of(live) not in names)
        if keeper.spec.name == wanted.spec.name:
            return Step(self._bring(wanted, replicas), strays, available=wanted.ready >= replicas)
        if wanted.ready >= replicas:
            return Step(self._bring(wanted, replicas), (*strays, *_remove(keeper)), available=True)
        if self.obj.spec.rollout.surge == "IfPossible":
            return Step((*self._keep(keeper, replicas), *self._bring(wanted, replicas)), strays)
        return self._in_place(keeper, wanted, strays)

    def _in_place(self, keeper: ArmView, wanted: ArmView, strays: tuple[Delete, ...]) -> Step:
        """Never more pods than the spec says: the keeper makes place for one pod more than is ready."""
        replicas = self.obj.spec.replicas
        kept = max(0, replicas - 1 - wanted.any_ready)
        there = (((wanted.live or {}).get("spec")) or {}).get("replicas", 0)
        room = min(replicas, max(there, replicas - keeper.pods))
        bring = self._bring(wanted, room) if room else ()
        if kept == 0:
            return Step(bring, (*strays, *_remove(keeper)))
        return Step((*self._scaled(keeper, kept), *bring), strays)

    def _keep(self, keeper: ArmView, replicas: int) -> tuple[Apply, ...]:
        """Leave the keeper as it is; a base that is gone comes back, since the other arm may yet fail."""
        if keeper.live is None and keeper.spec.drafter is None:
            return self._bring(keeper, replicas)
        return self._scaled(keeper, replicas)

    def _bring(self, arm: ArmView, replicas: int) -> tuple[Apply, ...]:
        """Make the arm as the spec wants it; nothing where it is so."""
        if arm.current:
            return self._scaled(arm, replicas)
        body = deployment(self.obj, self.runtimes, arm.spec, images(self.obj, self.runtimes, self.children))
        if arm.live is not None:
            return (Apply(body), *self._scaled(arm, replicas))
        return (Apply(body), Apply(scale(self.obj, arm.spec.name, replicas), manager="specop/scale"))

    def _scaled(self, arm: ArmView, replicas: int) -> tuple[Apply, ...]:
        if arm.live is None or arm.live.get("spec", {}).get("replicas") == replicas:
            return ()
        return (Apply(scale(self.obj, arm.spec.name, replicas), manager="specop/scale"),)


def arms_in(children: Children) -> Iterable[tuple[str, Json]]:
    """Live Deployments by arm, sorted by name."""
    named = [(name, live) for live in children.deployments if (name := arm_of(live)) is not None]
    return sorted(named, key=lambda pair: pair[0])


def _inputs_of(live: Json) -> str:
    return str((live["metadata"].get("annotations") or {}).get(ANNOTATION_INPUTS, ""))


def _remove(arm: ArmView) -> tuple[Delete, ...]:
    return (_delete(arm.live),) if arm.live is not None else ()


def _delete(live: Json) -> Delete:
    metadata = live["metadata"]
    return Delete("apps/v1", "Deployment", metadata.get("namespace", ""), metadata["name"], metadata.get("uid", ""))
