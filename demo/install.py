"""The set-up: what the cache lacks, a cluster with a node, storage, images, the charts, a namespace for a team.

It is: what an administrator does once, with the same charts as anywhere; only the values say that this is one machine.
Minds: two engines and a trainer share two cores, so requests are small and nothing is limited; OpenMP threads of the
engines must not spin (libiomp5), or speculation collapses under contention.
"""

from pathlib import Path
from typing import Any

import yaml

from demo import model, progress
from demo.world import MODELS, NAME, NAMESPACE, SYSTEM, TRAFFIC, World
from local import binaries, cache, cluster, env, image, volumes

CHARTS = cache.REPOSITORY / "charts"
OUTPUT = f"s3://{TRAFFIC}/specop"
_ENGINE = {
    "LD_PRELOAD": f"{env.POD_ENV}/venv/lib/libiomp5.so",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}


def install(out: Path, name: str = NAME, target: Path | None = None) -> World:
    """Return a cluster in which the operator runs, a team's namespace is ready and a target (the demo's) is stored."""
    binaries.path("kube")
    binaries.path("versitygw")
    binaries.path("helm")
    folder = target or model.prepare()
    with progress.line("a cluster with one node"):
        up = cluster.up(cluster.state_of(name), node_wanted=True)
    world = World(up, out)
    with progress.line("object storage, with the model"):
        for bucket in (MODELS, TRAFFIC):
            world.s3.create_bucket(Bucket=bucket)
        world.upload(folder, MODELS, folder.name)
    with progress.line("the project's images, built and given to the node"):
        image.load(up.state)
    with progress.line("namespaces, where Pod Security is restricted"):
        _namespaces(world)
    with progress.line("the operator, by its charts"):
        _charts(world)
    return world


def values(world: World) -> dict[str, Any]:
    """Return the values that differ from a cluster with GPUs and a registry: images, interpreters, small requests."""
    repository, _, tag = image.OPERATOR.rpartition(":")
    small = {"image": image.OPERATOR, "imagePullPolicy": "Never", "resources": _resources("100m", "256Mi")}
    return {
        "image": {"repository": repository, "tag": tag, "pullPolicy": "Never"},
        "runtimes": {
            "data": small,
            "companion": small,
            "trainer": _mounted({}, "2Gi"),
            "serving": _mounted(_ENGINE, "3Gi"),
        },
        "storage": {"output": OUTPUT, "endpointUrl": world.cluster.s3.pod_endpoint, "region": "us-east-1"},
        "operator": {"scrapeSeconds": 2, "measuredSeconds": 10},
    }


def _mounted(variables: dict[str, str], memory: str) -> dict[str, Any]:
    """Return how pods run whose packages are mounted from this machine: five gigabytes that no image has to copy."""
    return {
        "image": image.RUNTIME,
        "imagePullPolicy": "Never",
        "command": [env.POD_PYTHON],
        "env": {**env.POD_VARIABLES, **variables},
        "mounts": [
            {"claimName": volumes.ENV_CLAIM, "mountPath": env.POD_ENV},
            {"claimName": volumes.SRC_CLAIM, "mountPath": env.POD_SRC},
        ],
        "resources": _resources("250m", memory),
    }


def _resources(cpu: str, memory: str) -> dict[str, Any]:
    """Return small requests and no limits; null takes the chart's default away: there is no GPU to ask for."""
    return {"requests": {"nvidia.com/gpu": None, "cpu": cpu, "memory": memory}, "limits": None}


def _charts(world: World) -> None:
    chosen = world.out / "values.yaml"
    chosen.write_text(yaml.safe_dump(values(world), sort_keys=False))
    world.helm("install", "specop-crds", CHARTS / "specop-crds", "--wait")
    world.helm("install", "specop", CHARTS / "specop", "--namespace", SYSTEM, "--values", chosen, "--wait")


def _namespaces(world: World) -> None:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    for name in (SYSTEM, NAMESPACE):
        world.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    storage = world.cluster.s3
    keys = {"AWS_ACCESS_KEY_ID": storage.access_key, "AWS_SECRET_ACCESS_KEY": storage.secret_key}
    metadata = {"name": "specop-storage", "namespace": NAMESPACE}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": keys}
    world.apply(secret, *volumes.manifests(NAMESPACE))
