"""The shell around a Job's process, as real processes: what is said, where, and with which exit code."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from specop.api import reasons
from specop.api.dataset import DatasetFacts
from specop.api.jobs import CONFIG_ENV, Outcome, RunConfig
from specop.common.errors import EXIT_PREEMPTED, EXIT_USER_ERROR
from specop.storage.base import StorageUnreachable
from specop.storage.job import MAX_TERMINATION_BYTES, Job, Preempted, run_job
from specop.storage.local import LocalStore
from specop.storage.page import ProgressPage
from tests.storage.job_process import SECRET, facts, other_result
from tests.storage.server import free_port

PROGRAM = Path(__file__).with_name("job_process.py")
ROOT = PROGRAM.parents[2]


@dataclass(frozen=True)
class Ended:
    code: int
    log: str
    message: Outcome | None
    result: Outcome | None


class Attempts:
    """Processes for one object, as a Job would start them one after another."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.result = folder / "out" / "runs" / "u-1" / "result.json"
        self.termination = folder / "termination-log"

    def start(self, name: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        config = RunConfig(uid="u-1", namespace="n", name=name, output=f"file://{self.folder}/out", target="s3://t/t")
        self.termination.unlink(missing_ok=True)
        return subprocess.Popen(
            [
                sys.executable,
                str(PROGRAM),
                "--port=0",
                f"--work={self.folder}/work",
                f"--termination-log={self.termination}",
                *arguments,
            ],
            env={
                **os.environ,
                "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}",
                CONFIG_ENV: config.model_dump_json(),
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(self, process: subprocess.Popen[str]) -> Ended:
        _, log = process.communicate(timeout=60)
        return Ended(process.returncode, log, _read(self.termination), _read(self.result))

    def run(self, name: str, *arguments: str, **environment: str) -> Ended:
        return self.end(self.start(name, *arguments, **environment))


def _read(path: Path) -> Outcome | None:
    if not path.exists():
        return None
    assert path.stat().st_size <= MAX_TERMINATION_BYTES
    return Outcome.model_validate_json(path.read_bytes())


@pytest.fixture
def attempts(tmp_path: Path) -> Attempts:
    return Attempts(tmp_path)


def test_success_is_written_twice_and_repeated(attempts: Attempts) -> None:
    expected = Outcome(kind="dataset", ok=True, dataset=facts("works"))
    first = attempts.run("works")
    assert (first.code, first.message, first.result) == (0, expected, expected)
    again = attempts.run("user-error")  # what it would do now does not matter
    assert (again.code, again.message, again.result) == (0, expected, expected)
    assert "adopted" in again.log


def test_the_first_of_two_attempts_counts(attempts: Attempts) -> None:
    expected = Outcome(kind="dataset", ok=True, dataset=facts("other"))
    ended = attempts.run("races")
    assert (ended.code, ended.message, ended.result) == (0, expected, expected)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("user-error", reasons.NO_USABLE_ROWS), ("memory", reasons.OUT_OF_MEMORY), ("disk", reasons.DISK_FULL)],
)
def test_what_a_user_can_mend_fails_at_once_and_may_be_tried_again(attempts: Attempts, name: str, reason: str) -> None:
    ended = attempts.run(name)
    assert (ended.code, ended.result) == (EXIT_USER_ERROR, None)
    assert ended.message
    assert (ended.message.ok, ended.message.reason, ended.message.dataset) == (False, reason, None)
    assert attempts.run("works").code == 0


def test_the_unexpected_is_retried_and_quotes_nothing(attempts: Attempts) -> None:
    ended = attempts.run("unexpected")
    assert (ended.code, ended.message, ended.result) == (1, None, None)
    assert "ValueError" in ended.log
    assert "job_process.py" in ended.log
    assert SECRET not in ended.log


def test_a_killed_attempt_leaves_nothing(attempts: Attempts) -> None:
    ended = attempts.run("killed")
    assert (ended.code, ended.message, ended.result) == (-9, None, None)
    assert attempts.run("works").code == 0


def test_sigterm_ends_with_a_code_of_its_own(attempts: Attempts) -> None:
    process = attempts.start("waits")
    assert process.stdout
    assert process.stdout.readline() == "working\n"
    process.send_signal(signal.SIGTERM)
    ended = attempts.end(process)
    assert (ended.code, ended.message, ended.result) == (EXIT_PREEMPTED, None, None)


def test_an_unreachable_store_has_a_reason_and_is_tried_again(attempts: Attempts) -> None:
    config = {
        **json.loads(
            RunConfig(uid="u", namespace="n", name="works", output="s3://b/o", target="s3://t/t").model_dump_json()
        ),
        "store": {"endpointUrl": "http://127.0.0.1:9"},
    }
    keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_MAX_ATTEMPTS": "1"}
    ended = attempts.run("works", **keys, **{CONFIG_ENV: json.dumps(config)})
    assert (ended.code, ended.result) == (1, None)
    assert ended.message
    assert ended.message.reason == reasons.STORAGE_UNREACHABLE


@pytest.mark.parametrize(
    ("config", "place"),
    [("", CONFIG_ENV), ("{", "JSON"), ('{"uid": "u", "extra": "' + SECRET + '"}', "extra")],
    ids=["none", "no JSON", "unknown field"],
)
def test_a_wrong_configuration_names_the_place_and_not_the_value(attempts: Attempts, config: str, place: str) -> None:
    ended = attempts.run("works", **{CONFIG_ENV: config})
    assert ended.code == EXIT_USER_ERROR
    assert ended.message
    assert (ended.message.reason, place in ended.message.message) == (reasons.INVALID_SPEC, True)
    assert SECRET not in ended.log


def test_of_success_only_rank_0_speaks_and_the_others_end_as_there_is_a_result(attempts: Attempts) -> None:
    ended = attempts.run("works", RANK="1")
    assert (ended.code, ended.message, ended.result) == (EXIT_PREEMPTED, None, None)
    ended = attempts.run("races", RANK="1")
    assert (ended.code, ended.message) == (0, None)
    assert ended.result


def test_every_rank_tells_of_its_failure(attempts: Attempts) -> None:
    ended = attempts.run("user-error", RANK="1")
    assert ended.code == EXIT_USER_ERROR
    assert ended.message
    assert ended.message.reason == reasons.NO_USABLE_ROWS


def test_the_log_is_json_lines(attempts: Attempts) -> None:
    lines = [json.loads(line) for line in attempts.run("user-error").log.splitlines()]
    assert [line["level"] for line in lines] == ["error"]


def test_the_page_while_the_work_runs(attempts: Attempts) -> None:
    port = free_port()
    process = attempts.start("waits", f"--port={port}")
    assert process.stdout
    process.stdout.readline()
    pages = {name: _fetch(port, name) for name in ("progress", "metrics", "healthz")}
    process.send_signal(signal.SIGTERM)
    attempts.end(process)
    assert json.loads(pages["progress"]) == {"stage": "waits", "rows": 7, "bytes": 0}
    assert "specop_rows_total 7.0" in pages["metrics"]
    assert json.loads(pages["healthz"]) == {}


def test_other_pages_do_not_exist() -> None:
    assert ProgressPage(CollectorRegistry()).render("/secrets")[0] == 404


def _fetch(port: int, name: str) -> str:
    deadline = time.monotonic() + 20
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/{name}", timeout=5) as answer:
                return answer.read().decode()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def test_what_must_not_be_lost_waits_for_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("specop.storage.job.RETRY_SECONDS", 0.01)
    job, calls = Job(RunConfig(uid="u", namespace="n", name="j", output="s3://t/o", target="s3://t/t"), tmp_path), []

    def publishes() -> str:
        calls.append("call")
        if len(calls) < 4:
            raise StorageUnreachable("no answer")
        return "published"

    assert job.patiently(publishes) == "published"
    calls.clear()
    job.stopping.set()
    with pytest.raises(Preempted):
        job.patiently(publishes)
    monkeypatch.setattr("specop.storage.job.PATIENCE_SECONDS", -1.0)
    with pytest.raises(StorageUnreachable):
        job.patiently(publishes)


class Away(LocalStore):
    """Storage that does not answer, so and so many times."""

    refusals = 0

    def get(self, uri: str) -> bytes:
        self._answers()
        return super().get(uri)

    def put_if_absent(self, uri: str, data: bytes) -> bool:
        self._answers()
        return super().put_if_absent(uri, data)

    def _answers(self) -> None:
        if self.refusals:
            self.refusals -= 1
            raise StorageUnreachable("no answer")


@pytest.mark.parametrize(("rank", "raced"), [("0", False), ("0", True), ("1", True)], ids=["first", "second", "rank 1"])
def test_the_result_of_a_work_waits_for_the_store(
    rank: str, raced: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, config = Away(), RunConfig(uid="u", namespace="n", name="j", output=f"file://{tmp_path}", target="s3://t/t")
    monkeypatch.setattr("specop.storage.job.RETRY_SECONDS", 0.01)
    monkeypatch.setattr("specop.storage.job.open_store", lambda *_: store)
    monkeypatch.setattr("specop.storage.job.json_logging.setup", lambda: None)
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv(CONFIG_ENV, config.model_dump_json())

    def work(_: RunConfig, __: Job[RunConfig]) -> DatasetFacts:
        if raced:
            store.put(f"file://{tmp_path}/runs/u/result.json", other_result())
        store.refusals = 3
        return facts("works")

    said = tmp_path / "termination-log"
    assert run_job("dataset", RunConfig, work, ["--port=0", f"--work={tmp_path}/w", f"--termination-log={said}"]) == 0
    expected = Outcome(kind="dataset", ok=True, dataset=facts("other" if raced else "works"))
    assert (store.refusals, _read(tmp_path / "runs" / "u" / "result.json")) == (0, expected)
    assert _read(said) == (expected if rank == "0" else None)
