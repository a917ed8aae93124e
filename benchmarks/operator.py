"""How many endpoints the operator bears: `make bench-operator` writes build/bench/operator.json.

It is: a fresh real API server for each size, without the controllers of Deployments and Jobs, whose writes
`simulator` makes; the operator in a process of its own with the chart's settings and rights; all on this machine.
It is not: a measure of models or pods; none runs.

Clocks: every time is taken by this process, from the moment before a request is sent to the moment at which its own
watch has seen the answer in the object's status. Edits keep their schedule, however late answers are.
"""

import argparse
import asyncio
import contextlib
import importlib.metadata
import json
import math
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.server import MERGE, Json, Server, connect, samples
from benchmarks.simulator import JOB_SECONDS, READY_SECONDS, Simulator
from local import cluster, processes
from specop.api.reasons import READY
from tests.conftest import ROOT, ControlPlane, install
from tests.controllers import harness
from tests.domain import build
from tests.integration.process import OperatorProcess

REPORT = ROOT / "build" / "bench" / "operator.json"
CONTROLLERS = "*,-deployment,-replicaset,-job"
NAMESPACE = "team-a"
SIZES = (100, 1000)
CREATES_AT_A_TIME = 16
EDITS_PER_SECOND = 5
WINDOW_SECONDS = 60
QUIET_SECONDS = 5
PATIENCE_SECONDS = 900
CHART_DEFAULTS: Json = {"scrapeSeconds": 10, "measuredSeconds": 60, "resyncSeconds": 600}
"""The tests' values have shorter times."""
WRITE_VERBS = {"create", "apply", "apply_status", "patch", "delete"}


@dataclass
class Endpoints:
    """What the watch has seen of all endpoints, and who waits for what."""

    seen: dict[str, Json] = field(default_factory=dict)
    _waiting: dict[str, list[tuple[Callable[[Json], bool], asyncio.Future[float]]]] = field(default_factory=dict)

    async def run(self, server: Server) -> None:
        """Follow the watch until cancelled."""
        async for _, body in server.watch(PATH):
            name = body["metadata"]["name"]
            self.seen[name] = body
            for wanted, future in self._waiting.get(name, ()):
                if not future.done() and wanted(body):
                    future.set_result(time.monotonic())

    async def reached(self, name: str, wanted: Callable[[Json], bool]) -> float:
        """When the watch first saw the endpoint as it is wanted."""
        future: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(name, [])
        waiting.append((wanted, future))
        if name in self.seen and wanted(self.seen[name]):
            return time.monotonic()
        try:
            return await asyncio.wait_for(future, PATIENCE_SECONDS)
        finally:
            waiting[:] = [each for each in waiting if each[1] is not future]


PATH = f"/apis/specop.dev/v1alpha1/namespaces/{NAMESPACE}/draftedendpoints"


def manifest(name: str) -> bytes:
    """Return an endpoint as a user writes it: it captures, and follows a training job that is not there yet."""
    body = harness.obj(
        "DraftedEndpoint",
        name,
        servedName=name,
        capture={"uri": "s3://team-a/captured"},
        drafter=build.asks_for(),
    )
    return json.dumps(body).encode()


def is_ready(body: Json) -> bool:
    """Whether the endpoint's present generation is served."""
    status = body.get("status", {})
    tops = [each for each in status.get("conditions", ()) if each["type"] == READY]
    return any(each["status"] == "True" and each["observedGeneration"] == _generation(body) for each in tops)


def _generation(body: Json) -> int:
    generation: int = body["metadata"]["generation"]
    return generation


@dataclass
class Bench:
    """One size, on one API server."""

    size: int
    server: Server
    operator: OperatorProcess
    state: Path
    endpoints: Endpoints = field(default_factory=Endpoints)

    async def run(self) -> Json:
        """Measure everything, in the order of a life: creation, rest, edits."""
        at_first = await self.server.operator_writes()
        before = self._cpu_seconds()
        seconds = await self._converge()
        cpu = {part: round(used - before.get(part, 0.0), 1) for part, used in self._cpu_seconds().items()}
        await self._quiet()
        writes, counted = self._writes(), await self.server.operator_writes() - at_first
        print(f"  converged in {seconds:.1f} s, {writes} writes; at rest for {WINDOW_SECONDS} s")
        await asyncio.sleep(WINDOW_SECONDS)
        at_rest = max(self._writes() - writes, await self.server.operator_writes() - at_first - counted)
        print(f"  {EDITS_PER_SECOND} edits a second for {WINDOW_SECONDS} s")
        times = sorted(await self._edits())
        await self._quiet()
        return {
            "seconds_to_converged": round(seconds, 2),
            "writes_per_object": _ratio(writes, self.size),
            "writes_per_object_seen_by_api_server": _ratio(counted, self.size),
            "edit_to_status_p50_seconds": round(quantile(times, 0.50), 4),
            "edit_to_status_p99_seconds": round(quantile(times, 0.99), 4),
            "writes_per_edit": _ratio(self._writes() - writes - at_rest, len(times)),
            "writes_at_rest": at_rest,
            "rss_mib": round(self._rss_mib(), 1),
            "cpu_seconds_to_converged": cpu,
        }

    async def _converge(self) -> float:
        """Create all endpoints; seconds from the first request to the last Ready."""
        bodies = {name: manifest(name) for name in self._names()}
        slots = asyncio.Semaphore(CREATES_AT_A_TIME)

        async def create(name: str) -> float:
            async with slots:
                await self.server.send("POST", PATH, bodies[name])
            return await self.endpoints.reached(name, is_ready)

        started = time.monotonic()
        return max(await asyncio.gather(*(create(name) for name in bodies))) - started

    async def _edits(self) -> list[float]:
        """Change pods of one endpoint after the other; seconds from each edit to its generation in status."""
        names, started = self._names(), time.monotonic()

        async def edit(number: int) -> float:
            await asyncio.sleep(started + number / EDITS_PER_SECOND - time.monotonic())
            name = names[number % self.size]
            percent = {"spec": {"capture": {"samplePercent": 99 - number // self.size}}}
            sent = time.monotonic()
            answer = await self.server.send("PATCH", f"{PATH}/{name}", json.dumps(percent).encode(), MERGE)
            wanted = _generation(answer)
            return await self.endpoints.reached(name, lambda body: _observed(body) >= wanted) - sent

        return await asyncio.gather(*(edit(number) for number in range(EDITS_PER_SECOND * WINDOW_SECONDS)))

    async def _quiet(self) -> None:
        """Wait until all Jobs have ended and all pods are up, and the operator has nothing left to write."""
        await asyncio.sleep(max(JOB_SECONDS, READY_SECONDS))
        before = -1
        while (now := self._writes()) != before:
            before = now
            await asyncio.sleep(QUIET_SECONDS)

    def _names(self) -> list[str]:
        return [f"agent-{number:04d}" for number in range(self.size)]

    def _writes(self) -> int:
        """Count the writes that reached the API server, by the operator's own count."""
        found = samples(self.operator.page("/metrics")[1], "specop_api_requests_total")
        return sum(int(n) for by, n in found if by["verb"] in WRITE_VERBS and by["code"].startswith("2"))

    def _rss_mib(self) -> float:
        status = Path(f"/proc/{self.operator.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    def _cpu_seconds(self) -> dict[str, float]:
        pids = {"operator": self.operator.pid, "load and simulator": os.getpid()}
        pids |= {process.part: process.pid for process in processes.running(self.state)}
        return {part: _cpu_seconds(pid) for part, pid in pids.items()}


def _observed(body: Json) -> int:
    generation: int = body.get("status", {}).get("observedGeneration", -1)
    return generation


def _ratio(count: int, size: int) -> float | int:
    """Count per object: an integer where it is one."""
    return count // size if count % size == 0 else round(count / size, 3)


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def quantile(ordered: list[float], share: float) -> float:
    """Nearest rank: a value that was measured."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


async def measure(plane: ControlPlane, operator: OperatorProcess, size: int) -> Json:
    """Measure one size on a control plane that has nothing on it but the charts."""
    async with connect(plane.kubeconfig) as server:
        bench = Bench(size, server, operator, plane.up.state)
        helpers = [asyncio.create_task(bench.endpoints.run(server))]
        helpers.append(asyncio.create_task(Simulator(server, NAMESPACE).run()))
        work = asyncio.create_task(bench.run())
        try:
            await asyncio.wait([work, *helpers], return_when=asyncio.FIRST_COMPLETED)
            for task in (*helpers, work):
                if task.done():
                    task.result()  # a watch that ended raises here
            return work.result()
        finally:
            for task in (work, *helpers):
                task.cancel()
            await asyncio.gather(work, *helpers, return_exceptions=True)


@contextlib.contextmanager
def control_plane(size: int) -> Iterator[ControlPlane]:
    """Bring up a control plane for this size alone, and take it down afterwards."""
    state = cluster.state_of(f"bench-{os.getpid()}-{size}")
    try:
        plane = ControlPlane(cluster.up(state, node_wanted=False, controllers=CONTROLLERS))
        install(plane)
        plane.kubectl("create", "namespace", NAMESPACE)
        yield plane
    finally:
        cluster.down(state)


def bench(size: int) -> tuple[Json, Json]:
    """One size from nothing to nothing: what was measured, and on which API server."""
    print(f"{size} endpoints")
    with tempfile.TemporaryDirectory() as folder, control_plane(size) as plane:
        version: Json = json.loads(plane.kubectl("get", "--raw", "/version").stdout)
        with OperatorProcess(plane, Path(folder), NAMESPACE, **CHART_DEFAULTS) as operator:
            try:
                operator.wait_ready()
                return asyncio.run(measure(plane, operator, size)), version
            except BaseException:
                print(operator.said[-2000:], file=sys.stderr)
                raise


def machine(server: Json) -> Json:
    """Say what the figures were measured on."""
    model = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    memory = next(int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal"))
    packages = ("kopf", "kubernetes", "pydantic", "aiohttp")
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": model[0] if model else platform.machine(),
        "memory_gib": round(memory / 2**20, 1),
        "load_average_at_start": os.getloadavg()[0],
        "kernel": platform.release(),
        "python": platform.python_version(),
        "kubernetes_server": server["gitVersion"],
        **{name: importlib.metadata.version(name) for name in packages},
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def show(report: dict[str, Any]) -> None:
    """Print the figures as a table."""
    sizes = [name for name in report if name.startswith("n")]
    print(f"\n{'':40}" + "".join(f"{name:>12}" for name in sizes))
    for row in report[sizes[0]]:
        if row != "cpu_seconds_to_converged":
            print(f"{row:40}" + "".join(f"{report[name][row]:>12}" for name in sizes))
    for part in report[sizes[0]]["cpu_seconds_to_converged"]:
        cells = (f"{report[name]['cpu_seconds_to_converged'].get(part, 0):>12}" for name in sizes)
        print(f"{'CPU seconds: ' + part:40}" + "".join(cells))


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.operator", description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, metavar="N", help="endpoints: 100 1000")
    sizes = parser.parse_args().sizes
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C: everything is taken down
    results: dict[str, Json] = {}
    facts: Json = {}
    for size in sizes:
        results[f"n{size}"], server = bench(size)
        facts = facts or machine(server)
    parameters = {
        "controllers": CONTROLLERS,
        "creates_at_a_time": CREATES_AT_A_TIME,
        "edits_per_second": EDITS_PER_SECOND,
        "window_seconds": WINDOW_SECONDS,
        "simulated_ready_seconds": READY_SECONDS,
        "simulated_job_seconds": JOB_SECONDS,
        **CHART_DEFAULTS,
    }
    report = {"machine": facts, "parameters": parameters, **results}
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps(report, indent=2) + "\n")
    show(report)
    print(f"\n{REPORT.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted; everything was taken down")
