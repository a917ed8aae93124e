"""The Python API of a local cluster: bring one up, load a running one, take it down.

    cluster = up(Path("build/local/test"), node=False)
    ...
    down(cluster.state)

Races: one start or end of the same cluster at a time (a file lock). A start that fails or is
interrupted takes down what it started; a start of a cluster that runs, or whose processes were killed, completes it.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local import binaries, cache, console, control, node, preflight, processes, settings

DEFAULT_NAME = "default"
ALL_CONTROLLERS = "*"


@dataclass(frozen=True)
class S3:
    """The object storage: one endpoint for the host, one for pods, and the keys of its root user."""

    endpoint: str
    pod_endpoint: str
    access_key: str
    secret_key: str


@dataclass(frozen=True)
class Cluster:
    """A running cluster, as `cluster.json` in its state folder describes it."""

    state: Path
    kubeconfig: Path
    apiserver: str
    s3: S3
    nodes: tuple[str, ...]
    programs: dict[str, Path]

    @classmethod
    def load(cls, state: Path) -> Cluster:
        """Read the description of a cluster that was brought up."""
        path = state / "cluster.json"
        if not path.exists():
            message = f"no cluster at {state}: bring it up with 'python -m local up'"
            raise console.LocalError(message)
        content = json.loads(path.read_text())
        storage = content["s3"]
        return cls(
            state=state,
            kubeconfig=Path(content["kubeconfig"]),
            apiserver=content["apiserver"],
            s3=S3(storage["endpoint"], storage["podEndpoint"], storage["accessKey"], storage["secretKey"]),
            nodes=tuple(content["nodes"]),
            programs={name: Path(path) for name, path in content["programs"].items()},
        )

    def describe(self) -> dict[str, Any]:
        """Return the content of `cluster.json`."""
        return {
            "state": str(self.state),
            "kubeconfig": str(self.kubeconfig),
            "apiserver": self.apiserver,
            "s3": {
                "endpoint": self.s3.endpoint,
                "podEndpoint": self.s3.pod_endpoint,
                "accessKey": self.s3.access_key,
                "secretKey": self.s3.secret_key,
            },
            "nodes": list(self.nodes),
            "programs": {name: str(path) for name, path in self.programs.items()},
        }

    def environment(self) -> dict[str, str]:
        """Return the variables that kubectl, boto3 and the AWS tools read."""
        return {
            "KUBECONFIG": str(self.kubeconfig),
            "AWS_ENDPOINT_URL": self.s3.endpoint,
            "AWS_ACCESS_KEY_ID": self.s3.access_key,
            "AWS_SECRET_ACCESS_KEY": self.s3.secret_key,
            "AWS_REGION": "us-east-1",
        }

    def save(self) -> None:
        """Write `cluster.json` and `cluster.env`, for their owner only: they hold keys."""
        lines = [f"export {name}={shlex.quote(value)}\n" for name, value in self.environment().items()]
        for name, content in {
            "cluster.env": "".join(lines),
            "cluster.json": json.dumps(self.describe(), indent=2) + "\n",
        }.items():
            path = self.state / name
            path.touch(mode=0o600)
            path.write_text(content)


def state_of(name: str) -> Path:
    """Return the default state folder of a named cluster."""
    return cache.REPOSITORY / "build" / "local" / name


def up(state: Path, *, node_wanted: bool, controllers: str = ALL_CONTROLLERS) -> Cluster:
    """Bring a cluster up, or complete one that was; return when it is usable."""
    state = state.absolute()
    with _only_one(state):
        chosen = settings.load(state)
        if chosen is None:
            chosen = settings.choose(state, node=node_wanted, controllers=controllers)
        elif (chosen.node, chosen.controllers) != (node_wanted, controllers):
            message = f"the cluster at {state} was made with other options: take it down first"
            raise console.LocalError(message)
        preflight.check(chosen)
        try:
            chosen.save()
            return _start(chosen)
        except BaseException:
            _remove(state)
            raise


def _start(chosen: settings.Settings) -> Cluster:
    chosen.sockets.mkdir(mode=0o700, exist_ok=True)
    if chosen.node:
        node.prepare(chosen)
    control.start(chosen)
    if chosen.node:
        node.start(chosen)
    cluster = Cluster(
        state=chosen.state,
        kubeconfig=chosen.state / "kubeconfig",
        apiserver=chosen.apiserver,
        s3=S3(chosen.s3, chosen.s3, chosen.access_key, chosen.secret_key),
        nodes=(settings.NODE,) if chosen.node else (),
        programs={
            "kubectl": binaries.path("kube") / "kubectl",
            "helm": binaries.location("helm") / "helm",
            "versitygw": binaries.path("versitygw") / "versitygw",
        },
    )
    shutil.copy(chosen.pki / "admin.kubeconfig", cluster.kubeconfig)
    cluster.save()
    return cluster


def down(state: Path) -> None:
    """Take a cluster down and remove all of it, whatever is left of it; there may be nothing."""
    state = state.absolute()
    with _only_one(state):
        _remove(state)


def _remove(state: Path) -> None:
    with _uninterrupted():
        processes.kill(state)
        node.remove(state)
        chosen = settings.load(state)
        if chosen is not None and not chosen.node:
            shutil.rmtree(chosen.sockets, ignore_errors=True)
        if state.exists():
            shutil.rmtree(state)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let a second Ctrl-C wait until the clean-up that the first one began has ended."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _only_one(state: Path) -> Iterator[None]:
    with cache.locked(cache.folder("locks") / cache.key(str(state))):  # outside of what is removed
        yield


def status(state: Path) -> dict[str, list[int]]:
    """Return the pids of every part that runs."""
    found: dict[str, list[int]] = {}
    for process in processes.running(state.absolute()):
        found.setdefault(process.part, []).append(process.pid)
    return found
