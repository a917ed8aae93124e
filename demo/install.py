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
from local import binaries, cache, cluster, env, images, volumes

CHARTS = cache.REPOSITORY / "charts"
OUTPUT = f"s3://{TRAFFIC}/specop"
_MOUNTS = [
    {"claimName": volumes.ENV_CLAIM, "mountPath": env.POD_ENV},
    {"claimName": volumes.SRC_CLAIM, "mountPath": env.POD_SRC},
]
_THREADS = {"OMP_NUM_THREADS": "2"}
_ENGINE = {
    "LD_PRELOAD": f"{env.POD_ENV}/venv/lib/libiomp5.so",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}


def install(out: Path) -> World:
    """Return a cluster in which the operator runs and a team's namespace is ready."""
    binaries.path("kube")
    binaries.path("versitygw")
    binaries.path("helm")
    folder = model.prepare()
    with progress.line("a cluster with one node"):
        up = cluster.up(cluster.state_of(NAME), node_wanted=True)
    world = World(up, out)
    with progress.line("object storage, with the model"):
        for bucket in (MODELS, TRAFFIC):
            world.s3.create_bucket(Bucket=bucket)
        world.upload(folder, MODELS, model.NAME)
    with progress.line("the project's images, built and given to the node"):
        built = images.load(up)
    with progress.line("namespaces, where Pod Security is restricted"):
        _namespaces(world)
    with progress.line("the operator, by its charts"):
        _charts(world, built)
    return world


def values(world: World, built: dict[str, str]) -> dict[str, Any]:
    """Return the values that differ from a cluster with GPUs and a registry: images, interpreters, small requests."""
    repository, _, tag = built["operator"].rpartition(":")
    operator = _runtime(built["operator"], _THREADS, cpu="100m", memory="256Mi")
    return {
        "image": {"repository": repository, "tag": tag, "pullPolicy": "Never"},
        "runtimes": {
            "data": operator,
            "companion": operator,
            "trainer": _runtime(built["trainer"], {}, cpu="250m", memory="2Gi"),
            "serving": _runtime(built["serving"], _ENGINE, cpu="250m", memory="3Gi"),
        },
        "storage": {"output": OUTPUT, "endpointUrl": world.cluster.s3.pod_endpoint, "region": "us-east-1"},
        "operator": {
            "command": [env.POD_PYTHON],
            "env": env.POD_VARIABLES,
            "mounts": _MOUNTS,
            "scrapeSeconds": 2,
            "measuredSeconds": 10,
        },
    }


def _runtime(image: str, variables: dict[str, str], *, cpu: str, memory: str) -> dict[str, Any]:
    """Return how pods of a role run: packages are mounted from this machine instead of copied into the image."""
    return {
        "image": image,
        "imagePullPolicy": "Never",
        "command": [env.POD_PYTHON],
        "env": {**env.POD_VARIABLES, **variables},
        "mounts": _MOUNTS,
        # null takes the chart's default away: there is no GPU to ask for, and nothing to be gained from a limit
        "resources": {"requests": {"nvidia.com/gpu": None, "cpu": cpu, "memory": memory}, "limits": None},
    }


def _charts(world: World, built: dict[str, str]) -> None:
    chosen = world.out / "values.yaml"
    chosen.write_text(yaml.safe_dump(values(world, built), sort_keys=False))
    world.helm("install", "specop-crds", CHARTS / "specop-crds", "--wait")
    world.helm("install", "specop", CHARTS / "specop", "--namespace", SYSTEM, "--values", chosen, "--wait")


def _namespaces(world: World) -> None:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    for name in (SYSTEM, NAMESPACE):
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
        world.apply(namespace, *volumes.manifests(name))
    storage = world.cluster.s3
    keys = {"AWS_ACCESS_KEY_ID": storage.access_key, "AWS_SECRET_ACCESS_KEY": storage.secret_key}
    metadata = {"name": "specop-storage", "namespace": NAMESPACE}
    world.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": keys})
