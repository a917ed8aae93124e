"""The whole loop on the real node with a tiny random target: real pods, a real engine, real storage.

What the demo shows with a real model is asserted here in minutes: the loop closes twice, no request fails while an arm
takes over, greedy answers stay the same, killed processes come back and finish what they began.
"""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from demo import install, leave, story
from demo.client import Endpoint
from demo.traffic import Request
from demo.world import World
from local import cluster, env
from specop.api.dataset import SpeculatorDataset
from specop.api.drafter import Drafter
from specop.api.endpoint import DraftedEndpoint
from specop.api.training_job import SpeculatorTrainingJob
from tests.tiny import build_tiny

pytestmark = [pytest.mark.node, pytest.mark.timeout(1500)]
REQUESTS = 60
NEWER = 20
SIZES = {
    r"smollm2-135m-instruct": "tiny",
    r"minRequests: \d+": f"minRequests: {REQUESTS}",
    r"draftVocabSize: \d+": "draftVocabSize: 128",
    r"batchTokens: \d+": "batchTokens: 1024",
    r"--max-num-seqs=\d+": "--max-num-seqs=8",
}
KILL = """
import os, signal
for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
    if pid not in (1, os.getpid()):
        os.kill(pid, signal.SIGKILL)
os.kill(1, signal.SIGTERM)
"""
"""The engine's process dies, its parent is asked to go: nothing inside a container can kill its process 1."""
QUESTIONS = ("What is on tonight?", "Book a table for two.", "Will it rain on Sunday?", "Find me a hotel in Rome.")


def requests(first: int, count: int) -> list[Request]:
    """Different questions of one kind, answered greedily."""
    return [
        {
            "messages": [{"role": "user", "content": f"{number}: {QUESTIONS[number % len(QUESTIONS)]}"}],
            "max_tokens": 24,
            "temperature": 0,
        }
        for number in range(first, first + count)
    ]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    out = tmp_path_factory.mktemp("e2e")
    state = cluster.state_of("e2e")
    cluster.down(state)
    try:
        found = install.install(out, "e2e", build_tiny(out / "tiny"))
        yield replace(found, manifests=manifests(found, out / "manifests"))
    finally:
        cluster.down(state)


def manifests(world: World, folder: Path) -> Path:
    """Write the demo's manifests at the tiny target's size."""
    folder.mkdir()
    for path in world.manifests.iterdir():
        text = path.read_text()
        for pattern, value in SIZES.items():
            text = re.sub(pattern, value, text)
        (folder / path.name).write_text(text)
    return folder


@contextmanager
def steady_traffic(agent: Endpoint, failures: list[str]) -> Iterator[None]:
    """Send one request after another beside whatever happens; what fails is noted."""
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            try:
                agent.replay(requests(0, 1)[0])
            except Exception as error:  # noqa: BLE001 - any failure counts
                failures.append(repr(error))

    with ThreadPoolExecutor(1) as pool:
        pool.submit(ask)
        try:
            yield
        finally:
            over.set()


def until(seconds: float, look: str, happened: Callable[[], bool]) -> None:
    """Wait until a callable is true."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, look
        time.sleep(1)


def pod(world: World, role: str) -> str:
    """Name of the newest pod of a role."""
    names = world.kubectl(
        *("get", "pods", "-l", f"specop.dev/role={role}", "--sort-by=.metadata.creationTimestamp"),
        *("-o", r'jsonpath={range .items[*]}{.metadata.name}{"\n"}{end}'),
    )
    return names.split()[-1] if names.split() else ""


def test_the_loop_closes_twice_and_loses_nothing(world: World) -> None:
    with logged(world):
        first_generation(world)
        engine_killed(world)
        second_generation(world)


SEEDED = """
apiVersion: specop.dev/v1alpha1
kind: SpeculatorDataset
metadata: {name: seeded}
spec:
  target: {uri: "s3://models/tiny"}
  sources: [{name: code, seeds: {set: code}, maxConversations: 12}]
  regenerate:
    maxTokens: 16
    engine: {dtype: Float32, maxModelLength: 2048, args: [--enforce-eager, --max-num-seqs=8]}
"""


def test_an_engine_beside_the_job_answers_seeds(world: World) -> None:
    seeds_answered(world, "seeded", SEEDED, 420)
    job = lambda: json.loads(world.kubectl("get", "job", "seeded-dataset", "-o", "json"))["status"]  # noqa: E731
    until(60, "the engine ends with the Job's process", lambda: job().get("succeeded") == 1)


ASKED = """
apiVersion: specop.dev/v1alpha1
kind: SpeculatorDataset
metadata: {name: asked}
spec:
  target: {uri: "s3://models/tiny"}
  sources: [{name: code, seeds: {set: code}, maxConversations: 12}]
  regenerate: {maxTokens: 16, endpointRef: {name: agent}}
"""


def test_an_endpoint_found_by_its_name_answers_seeds(world: World) -> None:
    seeds_answered(world, "asked", ASKED, 240)


def seeds_answered(world: World, name: str, manifest: str, seconds: float) -> None:
    """Make a dataset of seeds, each of which is answered or counted."""
    (world.out / f"{name}.yaml").write_text(manifest)
    world.kubectl("apply", "-f", str(world.out / f"{name}.yaml"))
    made = lambda: world.objects.get(SpeculatorDataset, name).status.result  # noqa: E731
    with logged(world):
        until(seconds, "all are answered, and the dataset is there", lambda: made() is not None)
    result = made()
    assert result is not None
    assert result.counts.regenerated + result.counts.unanswered == 12, "as many as it asks for"


TWO_NODES = """
apiVersion: specop.dev/v1alpha1
kind: SpeculatorTrainingJob
metadata: {name: together}
spec:
  target: {uri: "s3://models/tiny"}
  datasetRef: {name: agent-v1}
  parallelism: {nodes: 2}
  hyperparameters: {draftVocabSize: 128, batchTokens: 1024, maxSteps: 12}
"""


def test_two_pods_that_find_each_other_by_name_train_one_drafter(world: World) -> None:
    (world.out / "together.yaml").write_text(TWO_NODES)
    world.kubectl("apply", "-f", str(world.out / "together.yaml"))
    with logged(world):
        until(300, "both have trained", lambda: _finished(world, "together"))
    names = world.kubectl("get", "pods", "-l", "batch.kubernetes.io/job-name=together-training", "-o", "name")
    assert len(names.split()) == 2, names


@contextmanager
def logged(world: World) -> Iterator[None]:
    """Leave the logs of all pods where what is done here fails."""
    try:
        yield
    except BaseException:
        leave.logs(world)
        raise


def first_generation(world: World) -> None:
    agent = story.serve_base(world)
    story.send(agent, requests(0, REQUESTS))
    one = story.generation(world, "agent-v1")
    assert one.dataset.counts.read == REQUESTS
    base = [agent.replay(request).text for request in requests(0, 5)]
    endpoint = world.objects.get(DraftedEndpoint, story.AGENT)
    assert endpoint.status.drafter.serving is None, "nothing serves that nobody approved"
    failures: list[str] = []
    with steady_traffic(agent, failures):
        story.approve(world, one.digest)
        drafted = story.serve_drafted(world, one.digest)
    assert failures == []
    assert [drafted.replay(request).text for request in requests(0, 5)] == base
    assert drafted.speculation().draft_tokens > 0
    table = world.kubectl("get", leave.KINDS)
    assert re.search(r"draftedendpoint\S*/agent +True +ServingDrafter +agent-v1 ", table), table
    assert re.search(r"drafter\S*/agent-v1 +True ", table), table


def engine_killed(world: World) -> None:
    """The engine dies; the pod comes back by itself and serves the same drafter."""
    name = pod(world, "engine")
    world.kubectl("exec", name, "-c", "engine", "--", env.POD_PYTHON, "-c", KILL)

    def restarts() -> int:
        found = json.loads(world.kubectl("get", "pod", name, "-o", "json"))["status"]["containerStatuses"]
        return int(found[0]["restartCount"])

    until(120, "the engine is started again", lambda: restarts() >= 1)
    until(240, "and ready", lambda: _ready(world))


def _ready(world: World) -> bool:
    status = world.objects.get(DraftedEndpoint, story.AGENT).status
    return status.ready_replicas == 1 and status.drafter.serving is not None


def second_generation(world: World) -> None:
    """Newer traffic, a warm start; its training pod is killed on the way, and what was done is not lost."""
    agent = world.endpoint(story.AGENT, story.MODEL)
    story.send(agent, requests(REQUESTS, NEWER))
    world.kubectl(
        "wait", "--for=jsonpath={.status.capture.requests}", f"draftedendpoint/{story.AGENT}", "--timeout=60s"
    )
    shipped = lambda: (world.objects.get(DraftedEndpoint, story.AGENT).status.capture or 0).requests  # noqa: E731
    until(120, "newer traffic is shipped", lambda: shipped() >= REQUESTS + NEWER)
    world.specop("retrain", f"endpoint/{story.AGENT}", "--min-requests", str(NEWER))
    until(240, "the second run trains", lambda: _step(world, "agent-v2") > 0 or _finished(world, "agent-v2"))
    if not _finished(world, "agent-v2"):
        world.kubectl("delete", "pod", pod(world, "training"), "--wait=false")
    two = story.generation(world, "agent-v2")
    parent = world.objects.get(Drafter, "agent-v2").spec.lineage
    assert parent is not None
    assert parent.parent is not None
    assert parent.parent.name == "agent-v1"
    story.approve(world, two.digest)
    story.serve_drafted(world, two.digest)


def _step(world: World, name: str) -> int:
    progress = world.objects.get(SpeculatorTrainingJob, name).status.progress
    return progress.step if progress else 0


def _finished(world: World, name: str) -> bool:
    return world.objects.get(SpeculatorTrainingJob, name).status.drafter is not None
