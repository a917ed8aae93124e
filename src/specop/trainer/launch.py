"""`python -m specop.trainer.launch`: starts one node's processes and ends as they end.

torchrun in small, with its environment, and without two of its habits: it ends with 1 whatever its processes ended
with, and it kills them 30 s after SIGTERM. A Job decides by exit codes (64 fails it, 75 is no failure), and to save may
take longer; Kubernetes' own grace period is the limit. There is no restart here, a Job does that.

    exit code 0    all ended with 0
    the first that is neither 0 nor 75, if there is one: what went wrong first; the others are stopped
    75             the rest: all saved, or lost a peer

The node's number comes from an Indexed Job (JOB_COMPLETION_INDEX). Arguments that are not known here go to the
processes. Nothing of torch is imported: this process waits, for hours.
"""

import argparse
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from specop.common.errors import EXIT_OK, EXIT_PREEMPTED

RENDEZVOUS_PORT = 29400
STOP_SECONDS = 15.0
"""For the others to end by themselves after one has failed: they may wait in a collective that never ends."""
POLL_SECONDS = 0.05


def main(argv: Sequence[str] | None = None) -> int:
    """Run the processes of this node and return the exit code for them all."""
    options, rest = _parser().parse_known_args(argv)
    told = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: told.set())
    processes = [_start(options, rest, local_rank) for local_rank in range(options.processes)]
    forwarded, first, deadline = False, EXIT_OK, math.inf
    while None in [process.poll() for process in processes]:
        time.sleep(POLL_SECONDS)
        if told.is_set() and not forwarded:
            forwarded = True
            _signal(processes, signal.SIGTERM)
        if first == EXIT_OK and (first := _first_failure(processes, told.is_set())) != EXIT_OK:
            deadline = time.monotonic() + STOP_SECONDS
            _signal(processes, signal.SIGTERM)
        if time.monotonic() > deadline:
            _signal(processes, signal.SIGKILL)
    if first != EXIT_OK or (first := _first_failure(processes, told.is_set())) != EXIT_OK:
        return first
    return EXIT_PREEMPTED if any(process.returncode for process in processes) else EXIT_OK


def _first_failure(processes: Sequence[subprocess.Popen[bytes]], told: bool) -> int:
    """Exit code of a process that failed, as a shell would give it; 0 where none has."""
    fine = {None, EXIT_OK, EXIT_PREEMPTED}
    if told:
        fine.add(-signal.SIGTERM)  # it had not begun, so it had nothing to save
    failed = next((process.returncode for process in processes if process.returncode not in fine), EXIT_OK)
    return failed if failed >= 0 else 128 - failed


def _start(options: argparse.Namespace, rest: Sequence[str], local_rank: int) -> subprocess.Popen[bytes]:
    host, _, port = options.rendezvous.rpartition(":")
    environment = {
        "RANK": str(options.node * options.processes + local_rank),
        "WORLD_SIZE": str(options.nodes * options.processes),
        "LOCAL_RANK": str(local_rank),
        "LOCAL_WORLD_SIZE": str(options.processes),
        "MASTER_ADDR": host,
        "MASTER_PORT": port,
    }
    threads = {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // options.processes))}
    command = [sys.executable, "-m", "specop.trainer", *rest]
    return subprocess.Popen(command, env={**threads, **os.environ, **environment})


def _signal(processes: Sequence[subprocess.Popen[bytes]], number: signal.Signals) -> None:
    for process in processes:
        process.send_signal(number)  # one that has ended is left alone


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="The processes of one node of a training run.", allow_abbrev=False)
    parser.add_argument("--nodes", type=int, default=1, help="of the run (%(default)s)")
    parser.add_argument("--processes", type=int, default=1, help="of this node, one a GPU (%(default)s)")
    parser.add_argument(
        "--node", type=int, default=int(os.environ.get("JOB_COMPLETION_INDEX", "0")), help="which of them (%(default)s)"
    )
    parser.add_argument(
        "--rendezvous",
        default=f"127.0.0.1:{RENDEZVOUS_PORT}",
        metavar="HOST:PORT",
        help="where the first process of node 0 listens (%(default)s)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
