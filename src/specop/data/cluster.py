"""Workers on Ray: the same functions over the same chunks, on several machines.

One process, the Job's, reads, decides and writes; actors do what is done to rows. So storage credentials stay in the
Job's pod, results come in the order of the chunks, and the dataset is the same as without Ray. Machines need this
package at the same version; the target's small files travel with the setup. Reading is what bounds it: some hundred
thousand rows a second, which feeds about a hundred processors.

Races: an actor that is lost with its machine is started elsewhere and its chunks are done again: they are pure.
"""

import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from specop.api import reasons
from specop.api.dataset import RayCluster
from specop.common.errors import UserError
from specop.data.chunks import Chunk
from specop.data.work import Setup, Worker
from specop.data.workers import AHEAD, Pass

_STARTS = 3


class Actors:
    """Some actors, each with a worker."""

    def __init__(self, actors: list[Any]) -> None:
        self._actors = actors

    def map(self, name: Pass, chunks: Iterable[Chunk]) -> Iterator[Any]:
        """As `Workers.map`: each actor gets every so-manieth chunk."""
        running: deque[Any] = deque()
        for index, chunk in enumerate(chunks):
            actor = self._actors[index % len(self._actors)]
            running.append(actor.work.remote(name, chunk))
            if len(running) == len(self._actors) * (AHEAD + 1):
                yield _result(running.popleft())
        while running:
            yield _result(running.popleft())


class _Actor:
    """A worker in a process of Ray's."""

    def __init__(self, setup: Setup, files: dict[str, bytes]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for name, data in files.items():
                (Path(folder) / name).write_bytes(data)
            self._worker = Worker(replace(setup, target=Path(folder)))

    def work(self, name: Pass, chunk: Chunk) -> Any:
        return getattr(self._worker, name)(chunk)


@contextmanager
def actors(setup: Setup, cluster: RayCluster) -> Iterator[Actors]:
    """Run actors on a cluster while the block runs. Raises UserError RayUnreachable."""
    _connect(cluster)
    try:
        count = cluster.workers or int(ray.cluster_resources().get("CPU", 1))
        files = {path.name: path.read_bytes() for path in setup.target.iterdir() if path.is_file()}
        make = ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=-1)(_Actor)
        shared = ray.put(files)
        yield Actors([make.remote(setup, shared) for _ in range(count)])
    except RayActorError as error:
        raise _unreachable(cluster) from error
    finally:
        ray.shutdown()


def _connect(cluster: RayCluster) -> None:
    """Join a cluster, or start one here: on a busy machine Ray gives that up after 30 s, so it is tried again."""
    local = cluster.address == "local"
    for left in reversed(range(_STARTS if local else 1)):
        try:
            ray.init(
                cluster.address,
                include_dashboard=False if local else None,
                log_to_driver=False,  # what a machine of others writes is not the Job's log
                configure_logging=False,
            )
        except Exception as error:  # Ray's own, or a bare one for a slow start
            if not left:
                raise _unreachable(cluster) from error
        else:
            return


def _result(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except RayTaskError as error:
        raise error.cause from None


def _unreachable(cluster: RayCluster) -> UserError:
    return UserError(
        reasons.RAY_UNREACHABLE,
        f"No Ray cluster with this package works at {cluster.address}: check engine.ray.address, the network policy, "
        "and that its machines have the Job's image.",
    )
