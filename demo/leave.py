"""What the demo leaves: an invitation to look around, or, where it failed, what tells why."""

import shlex
import sys
from pathlib import Path

from demo import progress, story
from demo.world import World
from local import cache, console

KINDS = "speculatordatasets,speculatortrainingjobs,drafters,draftedendpoints"
_POD_NAMES = r'jsonpath={range .items[*]}{.metadata.namespace}/{.metadata.name}{"\n"}{end}'


def invitation(world: World) -> None:
    """Show the whole story as the cluster tells it, and what a person may try."""
    progress.heading("What there is now")
    console.say(f"$ kubectl get {KINDS}")
    console.say(world.kubectl("get", KINDS))
    console.say(f"""Look around:
  source {_shell(world)}
  kubectl get {KINDS}
  specop status --watch
  specop report endpoint/{story.AGENT}
  kubectl describe draftedendpoint {story.AGENT}
Figures: {world.out / "report.json"}
Take it all away: make demo-down""")


def logs(world: World) -> None:
    """Save objects, events and logs of all pods before the cluster goes."""
    folder = world.out / "logs"
    folder.mkdir(exist_ok=True)
    for name, arguments in {
        "objects.yaml": ("get", KINDS, "-o", "yaml"),
        "pods.yaml": ("get", "pods,jobs,deployments,services", "-o", "yaml", "--all-namespaces"),
        "events.txt": ("get", "events", "--all-namespaces", "--sort-by=.lastTimestamp"),
    }.items():
        _save(world, folder / name, *arguments)
    for pod in world.kubectl("get", "pods", "--all-namespaces", "-o", _POD_NAMES).split():
        namespace, _, name = pod.partition("/")
        arguments = ("logs", "--namespace", namespace, name, "--all-containers", "--prefix", "--ignore-errors")
        _save(world, folder / f"{name}.log", *arguments)
    console.say(f"objects, events and logs of all pods lie in {folder}")


def _save(world: World, path: Path, *arguments: str) -> None:
    """Save what kubectl says, be it an error: one log that cannot be had must not cost the others."""
    try:
        path.write_text(world.kubectl(*arguments))
    except console.LocalError as error:
        path.write_text(f"{error}\n")


def _shell(world: World) -> Path:
    """Write a script to source: the cluster, its storage and the programs; for its owner only."""
    programs = world.out / "bin"
    programs.mkdir(exist_ok=True)
    for name in ("specop", "kubectl-specop"):
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} -m specop.cli.main "$@"\n')
        (programs / name).chmod(0o755)
    world.kubectl("config", "set-context", "--current", "--namespace", world.namespace)
    settings = {**world.cluster.environment(), "PYTHONPATH": str(cache.REPOSITORY / "src")}
    paths = f"{programs}:{world.cluster.programs['kubectl'].parent}"
    lines = [f"export {name}={shlex.quote(value)}" for name, value in settings.items()]
    script = world.out / "env.sh"
    script.touch(mode=0o600)
    script.write_text("\n".join([*lines, f'export PATH={shlex.quote(paths)}:"$PATH"']) + "\n")
    return script
