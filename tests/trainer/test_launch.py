"""A node's processes: how they end is how the node ends, and a run of several is a run like any other."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from specop.common.errors import EXIT_PREEMPTED, EXIT_USER_ERROR
from specop.trainer import launch
from tests.trainer.ranks import free_port
from tests.trainer.test_process import wait_for
from tests.trainer.tiny_run import Attempts, World

WAITS = "import time; time.sleep(60)"
SAVES = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(75)); time.sleep(60)"


@pytest.mark.parametrize(
    ("programs", "expected"),
    [
        (["pass", "pass"], 0),
        (["raise SystemExit(75)", "pass"], EXIT_PREEMPTED),
        (["raise SystemExit(75)", "raise SystemExit(64)"], EXIT_USER_ERROR),
        ([SAVES, "raise SystemExit(64)"], EXIT_USER_ERROR),
        ([WAITS, "import os; os.kill(os.getpid(), 9)"], 137),
    ],
    ids=["well", "preempted", "both", "one-fails", "one-is-killed"],
)
def test_the_exit_code_says_what_went_wrong_first(
    programs: list[str], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_options: object, _rest: object, local_rank: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", programs[local_rank]])

    monkeypatch.setattr(launch, "_start", start)
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert launch.main(["--processes=2"]) == expected
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_process_knows_its_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(_print_environment(tmp_path)))
    monkeypatch.setenv("OUT", str(tmp_path))
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert launch.main(["--nodes=2", "--processes=2", "--rendezvous=run-0.run:29400", "--port=0"]) == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    assert {path.name: path.read_text().strip() for path in tmp_path.glob("rank-*")} == {
        "rank-2": "4 0 2 run-0.run 29400 -m specop.trainer --port=0",
        "rank-3": "4 1 2 run-0.run 29400 -m specop.trainer --port=0",
    }


def _print_environment(folder: Path) -> Path:
    program = folder / "python"
    names = "$WORLD_SIZE $LOCAL_RANK $LOCAL_WORLD_SIZE $MASTER_ADDR $MASTER_PORT"
    program.write_text(f'#!/bin/sh\necho {names} "$@" >"$OUT/rank-$RANK"\n')
    program.chmod(0o755)
    return program


@pytest.mark.timeout(400)
def test_sigterm_to_one_of_two_saves_and_one_process_goes_on(world: World, tmp_path: Path) -> None:
    config = world.config("u-two", max_steps=100, evaluations=1)
    two = Attempts(world, config, tmp_path, ["--processes=2", f"--rendezvous=127.0.0.1:{free_port()}"])
    process = two.start("a")
    try:
        wait_for(process, two.log("a"), "stage: Training")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        asked = time.monotonic()
        os.kill(int(children[1]), signal.SIGTERM)
        assert process.wait() == EXIT_PREEMPTED, two.log("a").read_text()
        assert time.monotonic() - asked < 15
    finally:
        process.terminate()
    (kept,) = (two.stored / "checkpoints").iterdir()

    code, found, log = Attempts(world, config, tmp_path).run("b")
    assert code == 0, log
    assert f"goes on after step {int(kept.stem.removeprefix('step-'))}" in log
    assert found
    assert found.training
    assert (found.training.summary.steps, found.training.summary.resumes) == (100, 1)


@pytest.mark.timeout(400)
def test_two_nodes_make_one_drafter(world: World, tmp_path: Path) -> None:
    config = world.config("u-nodes", max_steps=6, evaluations=1, sharding="Full")
    where = f"--rendezvous=127.0.0.1:{free_port()}"
    nodes = [Attempts(world, config, tmp_path / str(node), ["--nodes=2", f"--node={node}", where]) for node in range(2)]
    processes = [node.start() for node in nodes]
    try:
        codes = [process.wait() for process in processes]
    finally:
        for process in processes:
            process.terminate()  # a launcher takes its processes along
    assert codes == [0, 0], [node.log("a").read_text() for node in nodes]
    assert [node.termination.exists() for node in nodes] == [True, False]
