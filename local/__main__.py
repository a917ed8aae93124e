"""The command line: `python -m local`, run from the root of the repository."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from pathlib import Path

from local import binaries, cluster, console, env, image, lock, processes, setup


def main() -> int:
    """Run one command; what a person can act on is one line and code 1, not a traceback."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C: with a clean machine
    arguments = _parser().parse_args()
    try:
        return int(arguments.run(arguments) or 0)
    except console.LocalError as error:
        console.say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m local", description="a small, real Kubernetes on this machine")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    where = argparse.ArgumentParser(add_help=False)
    where.add_argument("--name", default=cluster.DEFAULT_NAME, help="name of the cluster (default: %(default)s)")
    where.add_argument("--state", type=Path, help="its state folder (default: build/local/NAME)")

    up = commands.add_parser("up", parents=[where], help="bring a cluster up")
    up.add_argument("--control-plane-only", action="store_true", help="no node: needs no root, runs no pods")
    up.add_argument("--controllers", default=cluster.ALL_CONTROLLERS, help="which controllers run (default: all)")
    up.add_argument("--detach", action="store_true", help="return when it is up; else Ctrl-C takes it down")
    up.set_defaults(run=_up)

    for name, run, text in (
        ("down", _down, "take a cluster down and remove all of it"),
        ("status", _status, "say which parts run"),
        ("kubeconfig", _kubeconfig, "print the path of the administrator's kubeconfig"),
    ):
        commands.add_parser(name, parents=[where], help=text).set_defaults(run=run)

    whole = commands.add_parser("setup", parents=[where], help="make everything that is missing, in one go")
    whole.add_argument("--control-plane-only", action="store_true", help="only what needs no node")
    whole.set_defaults(run=_setup)

    build = commands.add_parser("build", help="compile the programs that are not in the cache, and print their folders")
    build.add_argument("programs", nargs="*", metavar="PROGRAM", help=f"of {', '.join(binaries.NAMES)} (default: all)")
    build.set_defaults(run=_build)

    images = commands.add_parser("image", parents=[where], help="build the images and give them to a node")
    images.set_defaults(run=_image)

    locks = commands.add_parser("lock", help="resolve requirements/*.lock anew")
    locks.set_defaults(run=_lock)

    environment = commands.add_parser("env", help="make the Python environment if it is missing, and print its folder")
    environment.set_defaults(run=_env)
    return parser


def _state(arguments: argparse.Namespace) -> Path:
    return arguments.state or cluster.state_of(arguments.name)


def _up(arguments: argparse.Namespace) -> None:
    state = _state(arguments)
    started = time.monotonic()
    up = cluster.up(state, node_wanted=not arguments.control_plane_only, controllers=arguments.controllers)
    console.say(f"cluster is up after {time.monotonic() - started:.1f} s: source {up.state / 'cluster.env'}")
    if arguments.detach:
        return
    console.say("Ctrl-C takes it down")
    try:
        while processes.running(up.state):
            time.sleep(1)
    finally:
        cluster.down(state)


def _down(arguments: argparse.Namespace) -> None:
    cluster.down(_state(arguments))


def _status(arguments: argparse.Namespace) -> int:
    found = cluster.status(_state(arguments))
    print(json.dumps(found, indent=2, sort_keys=True))
    return 0 if found else 1


def _kubeconfig(arguments: argparse.Namespace) -> None:
    print(cluster.Cluster.load(_state(arguments)).kubeconfig)


def _setup(arguments: argparse.Namespace) -> None:
    setup.run(_state(arguments), node=not arguments.control_plane_only)


def _build(arguments: argparse.Namespace) -> None:
    for name in arguments.programs or binaries.NAMES:
        print(f"{name}\t{binaries.path(name)}")


def _image(arguments: argparse.Namespace) -> None:
    image.load(_state(arguments))


def _lock(_: argparse.Namespace) -> None:
    lock.write()


def _env(_: argparse.Namespace) -> None:
    print(env.path())


if __name__ == "__main__":
    sys.exit(main())
