"""The loop, told once from the first request to the second generation, as a user of specop goes through it.

It is: applying manifests, sending traffic, waiting for what `status` says, approving, comparing.
It is not: the set-up (`install`), nor arithmetic (`figures`).
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from demo import progress, traffic
from demo.client import Endpoint, alternate
from demo.figures import Answer, Speculation
from demo.traffic import Request
from demo.world import World
from local import console
from specop.api import reasons
from specop.api.dataset import DatasetFacts, SpeculatorDataset
from specop.api.endpoint import CandidateDrafter, DraftedEndpoint
from specop.api.training_job import SpeculatorTrainingJob, TrainingSummary
from specop.cli.loop import condition, duration
from specop.common.names import LABEL_NAME, LABEL_ROLE
from specop.manifests.serving import ROLE

HERE = Path(__file__).parent
AGENT, BASE, MODEL = "agent", "agent-base", "agent"
STREAMS = 16
FIRST_REQUESTS = 400
"""What generation 1 learns from; the rest is newer traffic, for generation 2."""
REPLAYED = 24
WARM_UP = 16
"""Older held-out requests, sent first: engines that have served a while know how prompts begin."""
FOREIGN = 8

_SERVE_SECONDS, _DATASET_SECONDS, _TRAIN_SECONDS = 600, 300, 1800


@dataclass(frozen=True)
class Generation:
    """One turn of the loop: what was learned from, how, and the bytes that came out."""

    dataset: DatasetFacts
    training: TrainingSummary
    digest: str


@dataclass(frozen=True)
class Comparison:
    """The same requests, on both endpoints."""

    base: list[Answer]
    drafted: list[Answer]
    speculation: Speculation


def serve_base(world: World) -> Endpoint:
    """Apply the three manifests at once; return when the model answers, without a drafter."""
    progress.heading("The three manifests, applied at once")
    console.say(world.kubectl("apply", "-f", world.manifests).rstrip())
    _wait_ready(world, AGENT, "the endpoint starts the model alone")
    return world.endpoint(AGENT, MODEL)


def send(agent: Endpoint, requests: Sequence[Request]) -> None:
    """Send traffic, many streams at once."""
    with progress.line(f"{len(requests)} users' questions, {STREAMS} at once") as line:
        started = time.monotonic()

        def answered(done: int, tokens: int) -> None:
            rate = tokens / (time.monotonic() - started)
            left = (len(requests) - done) * (time.monotonic() - started) / done
            line.tell(f"{done} of {len(requests)} answered, {rate:.0f} tokens/s, about {duration(int(left))} left")

        agent.send(requests, STREAMS, answered)


def generation(world: World, name: str) -> Generation:
    """Wait for the dataset, the training and the drafter of one generation."""
    progress.wait(f"dataset {name}", _DATASET_SECONDS, lambda: _dataset_line(world, name))
    dataset = world.objects.get(SpeculatorDataset, name).status.result
    progress.wait(f"training {name}", _TRAIN_SECONDS, lambda: _training_line(world, name))
    training = world.objects.get(SpeculatorTrainingJob, name).status.result
    waiting = f"drafter {name} waits for a person"
    progress.wait(waiting, _SERVE_SECONDS, lambda: None if _candidate(world, name) else "the drafter is looked at")
    candidate = _candidate(world, name)
    if dataset is None or training is None or candidate is None:
        message = f"generation {name} is complete, yet its status is not: see `specop status`"
        raise console.LocalError(message)
    return Generation(dataset, training, candidate.digest)


def approve(world: World, digest: str) -> None:
    """Approve the candidate, as a user does."""
    world.specop("approve", f"endpoint/{AGENT}", "--digest", digest)


def serve_drafted(world: World, digest: str) -> Endpoint:
    """Return when the endpoint serves that drafter, and nothing else."""
    progress.wait("the drafted arm starts, then takes over", _SERVE_SECONDS, lambda: _rollout_line(world, digest))
    progress.wait("the arm before it ends", _SERVE_SECONDS, lambda: _pods_line(world))
    return world.endpoint(AGENT, MODEL)


def start_base(world: World) -> None:
    """Apply the endpoint without a drafter that the other is compared with."""
    world.kubectl("apply", "-f", HERE / "base-endpoint.yaml")


def base_endpoint(world: World) -> Endpoint:
    """Return the endpoint without a drafter, once it answers."""
    _wait_ready(world, BASE, "the endpoint to compare with, without a drafter")
    return world.endpoint(BASE, MODEL)


def held_out(world: World, dataset: DatasetFacts) -> list[Request]:
    """Return the requests of the dataset's holdout, on which nothing was trained; the newest come last."""
    manifest = json.loads(world.read(dataset.uri))
    blob = next(file["blob"] for file in manifest["files"] if file["name"] == "holdout-requests.jsonl")
    root = dataset.uri.partition("/datasets/")[0]
    lines = world.read(f"{root}/blobs/sha256/{blob.removeprefix('sha256:')}").splitlines()
    requests = [json.loads(line)["request"] for line in lines]
    return [{name: value for name, value in request.items() if name != "model"} for request in requests]


def compare(
    title: str, base: Endpoint, drafted: Endpoint, requests: Sequence[Request], warm_up: Sequence[Request]
) -> Comparison:
    """Replay requests on both, one at a time and in turn, after others that warm both up."""
    alternate(base, drafted, warm_up, lambda _: None)
    before = drafted.speculation()
    with progress.line(title) as line:
        of_base, of_drafted = alternate(base, drafted, requests, lambda done: line.tell(f"{done} of {len(requests)}"))
    return Comparison(of_base, of_drafted, drafted.speculation().since(before))


def acceptance_length(drafted: Endpoint, requests: Sequence[Request]) -> float:
    """Measure the served acceptance length on requests."""
    before = drafted.speculation()
    with progress.line(f"{len(requests)} held-out requests, on the new generation") as line:
        for number, request in enumerate(requests):
            drafted.replay(request)
            line.tell(f"{number + 1} of {len(requests)}")
    return drafted.speculation().since(before).acceptance_length


def retrain(world: World, total: int, newer: int) -> None:
    """Wait until all traffic has been shipped, then ask for the next generation from the newer, as a user does."""
    progress.wait("newer traffic is shipped", _DATASET_SECONDS, lambda: _shipped_line(world, total))
    world.specop("retrain", f"endpoint/{AGENT}", "--min-requests", str(newer))


def foreign_requests() -> list[Request]:
    """Return the questions that the drafter was not made for, after one that warms up."""
    return traffic.foreign()[: FOREIGN + 1]


def _wait_ready(world: World, name: str, title: str) -> None:
    def look() -> str | None:
        endpoint = world.objects.get(DraftedEndpoint, name)
        _fail_if_stalled(endpoint)
        ready = condition(endpoint, reasons.READY)
        return None if ready.status == "True" else f"{ready.reason} {ready.message}"

    progress.wait(title, _SERVE_SECONDS, look)


def _dataset_line(world: World, name: str) -> str | None:
    dataset = world.objects.get(SpeculatorDataset, name)
    _fail_if_stalled(dataset)
    now = dataset.status.progress
    detail = f"{now.stage}, {now.rows} rows" if now else ""
    return _unfinished(dataset, detail)


def _training_line(world: World, name: str) -> str | None:
    job = world.objects.get(SpeculatorTrainingJob, name)
    _fail_if_stalled(job)
    now = job.status.progress
    if now is None or not now.step:
        return _unfinished(job, now.stage if now else "")
    figures = f"step {now.step} of {now.total_steps}, {now.tokens_per_second} tokens/s, loss {now.loss or '?'}"
    return _unfinished(job, f"{figures}, acceptance {now.acceptance_length or '?'}, {duration(now.eta_seconds)} left")


def _unfinished(item: SpeculatorDataset | SpeculatorTrainingJob, detail: str) -> str | None:
    succeeded = condition(item, reasons.SUCCEEDED)
    return None if succeeded.status == "True" else detail or f"{succeeded.reason} {succeeded.message}"


def _candidate(world: World, name: str) -> CandidateDrafter | None:
    candidate = world.objects.get(DraftedEndpoint, AGENT).status.drafter.candidate
    return candidate if candidate is not None and candidate.name == name else None


def _rollout_line(world: World, digest: str) -> str | None:
    endpoint = world.objects.get(DraftedEndpoint, AGENT)
    _fail_if_stalled(endpoint)
    drafter = endpoint.status.drafter
    for failed in drafter.failed:
        if failed.digest == digest:
            message = f"the drafter did not come up: {failed.reason} {failed.message}"
            raise console.LocalError(message)
    arms = [arm.name for arm in endpoint.status.arms]
    served = drafter.serving is not None and drafter.serving.digest == digest
    if served and len(arms) == 1 and condition(endpoint, reasons.READY).status == "True":
        return None
    return f"{condition(endpoint, reasons.READY).reason}, arms: {', '.join(arms)}"


def _pods_line(world: World) -> str | None:
    """Wait for one pod: while two answer, nobody can say whose counters a page shows."""
    labels = f"{LABEL_NAME}={AGENT},{LABEL_ROLE}={ROLE}"
    pods = world.kubectl("get", "pods", "--selector", labels, "--output", "name").split()
    return None if len(pods) == 1 else f"{len(pods)} pods"


def _shipped_line(world: World, requests: int) -> str | None:
    capture = world.objects.get(DraftedEndpoint, AGENT).status.capture
    shipped = capture.requests if capture else 0
    return None if shipped >= requests else f"{shipped} of {requests}"


def _fail_if_stalled(item: DraftedEndpoint | SpeculatorDataset | SpeculatorTrainingJob) -> None:
    for kind, status in ((reasons.STALLED, "True"), (reasons.SUCCEEDED, "False")):
        found = condition(item, kind)
        if found.status == status:
            message = f"{item.KIND} {item.metadata.name}: {found.reason}: {found.message}"
            raise console.LocalError(message)
