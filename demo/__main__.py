"""`python3 -m demo`: the whole loop on this machine, then a comparison. `python3 -m demo down` takes it away.

Starts with nothing but the standard library: it makes the project's environment and goes on in that.
Ctrl-C, at any point, and every error leave a clean machine; `--keep` leaves the cluster after an error, to look at it.
"""

import argparse
import os
import signal
import sys
import time

from local import cache, cluster, console, env

_STARTED = "SPECOP_DEMO_STARTED"
"""Unix time of the first start; set in the environment that the demo goes on in."""
OUT = cache.REPOSITORY / "build" / "demo"


def main() -> int:
    """Run the demo, or take it down; what a person can act on is one line and code 1."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    arguments = _parser().parse_args()
    try:
        if arguments.command == "down":
            cluster.down(cluster.state_of("demo"))
            console.say(f"the demo's cluster is gone; its figures stay in build/demo, what was built in {cache.root()}")
        elif _STARTED not in os.environ:
            _go_on_in_environment()
        else:
            _run(keep=arguments.keep)
    except console.LocalError as error:
        console.say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _go_on_in_environment() -> None:
    started = str(time.time())
    interpreter = env.path() / "venv/bin/python"
    paths = os.pathsep.join([str(cache.REPOSITORY / "src"), str(cache.REPOSITORY)])
    os.chdir(cache.REPOSITORY)
    os.execve(  # noqa: S606 - the same program, in its environment
        interpreter,
        [str(interpreter), "-m", "demo", *sys.argv[1:]],
        {**os.environ, _STARTED: started, "PYTHONPATH": paths},
    )


def _run(*, keep: bool) -> None:
    from demo import run  # noqa: PLC0415 - needs the environment

    state = cluster.state_of("demo")
    cluster.down(state)  # what an earlier demo left
    OUT.mkdir(parents=True, exist_ok=True)
    try:
        run.run(OUT, float(os.environ[_STARTED]))
    except BaseException as error:
        if not keep or isinstance(error, KeyboardInterrupt):
            console.say("taking the cluster down")
            cluster.down(state)
        raise


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m demo", description=__doc__.partition("\n")[0])
    parser.add_argument("command", nargs="?", choices=["up", "down"], default="up")
    parser.add_argument("--keep", action="store_true", help="leave the cluster after an error")
    return parser


if __name__ == "__main__":
    sys.exit(main())
