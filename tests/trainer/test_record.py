"""What is kept and shown of a run: events over several attempts, the page, a terminal's bar, trackers, MFU."""

import contextlib
import io
import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

from specop.api import reasons
from specop.api.jobs import RunConfig
from specop.api.training_job import TrainingProgress
from specop.common.errors import UserError
from specop.storage.base import StorageUnreachable
from specop.storage.job import Job, Preempted
from specop.storage.local import LocalStore
from specop.trainer import trackers as trackers_module
from specop.trainer.bar import CLEAR, Bar
from specop.trainer.checkpoint import Progress
from specop.trainer.display import Display
from specop.trainer.events import Events
from specop.trainer.meter import Meter, flops_per_token, peak_flops
from specop.trainer.record import Record
from specop.trainer.report import render
from specop.trainer.trackers import Trackers
from tests.trainer.tiny_run import World, parts

METER = Meter(flops_per_token=2e6, peak=1e9, device=torch.device("cpu"))


def clock() -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC)


def run_config(folder: Path) -> RunConfig:
    return RunConfig(uid="u", namespace="team-a", name="run", output=f"file://{folder}/out", target="file:///target")


def progress(*steps: int, loss: float = 1.5) -> Progress:
    curve = [
        {"step": s, "tokens": 10 * s, "loss": loss, "acceptanceLength": 1 + s / 100, "expected": 1.2} for s in steps
    ]
    return Progress(step=steps[-1], tokens=10 * steps[-1], seconds=steps[-1] / 4, loss=loss, curve=curve)


def attempt(world: World, folder: Path, store: Any) -> tuple[Events, Display]:
    config = world.config("u")
    events = Events(store, f"file://{folder}/out/runs/u/events.jsonl", clock)
    job = Job(config, folder)
    return events, Display(job, [Record(events, Trackers("", config, folder, store))])


def written(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "out/runs/u/events.jsonl").read_text().splitlines()]


def test_the_record_goes_over_all_attempts_and_holds_each_step_once(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("specop.trainer.record.SECONDS", 0)
    _, display = attempt(world, tmp_path, LocalStore())
    with contextlib.suppress(Preempted), display:
        display.measure_by(METER)
        display.stage("Training")
        for step in (10, 20):
            display.training(progress(*range(10, step + 1, 10)), 40, 100.0)
        raise Preempted
    assert [event["event"] for event in written(tmp_path)] == [
        *("started", "stage", "training", "evaluation", "training", "evaluation", "ended")
    ]
    assert written(tmp_path)[2] == {
        "time": "2026-01-01T00:00:00Z",
        "event": "training",
        "step": 10,
        "tokens": 100,
        "loss": 1.5,
        "tokensPerSecond": 100,
        "mfuPercent": 20,
        "memoryMib": METER.memory_mib(),
    }
    events, display = attempt(world, tmp_path, LocalStore())
    with display:  # from a checkpoint of step 15
        display.measure_by(METER)
        for step in (20, 30):
            display.training(progress(*range(10, step + 1, 10)), 40, 100.0)
        display.trained(progress(10, 20, 30, 40))
    assert events.all == written(tmp_path)
    assert [event["step"] for event in written(tmp_path) if event["event"] == "evaluation"] == [10, 20, 30, 40]
    assert [event["step"] for event in written(tmp_path) if event["event"] == "training"] == [10, 20, 30]
    assert [event["attempt"] for event in written(tmp_path) if event["event"] == "started"] == [1, 2]
    assert [event["reason"] for event in written(tmp_path) if event["event"] == "ended"] == ["Preempted", "Completed"]


class GoneStore(LocalStore):
    """Storage that is gone for some time."""

    gone = True

    def put(self, uri: str, data: bytes) -> None:
        if self.gone:
            raise StorageUnreachable(uri)
        super().put(uri, data)


def test_storage_that_is_gone_for_a_while_stops_nothing_and_loses_nothing(world: World, tmp_path: Path) -> None:
    store = GoneStore()
    _, display = attempt(world, tmp_path, store)
    with contextlib.suppress(UserError), display:
        display.training(progress(10), 40, 100.0)
        store.gone = False
        raise UserError(reasons.DISK_FULL, "full")
    assert [event["event"] for event in written(tmp_path)] == ["training", "evaluation", "ended"]
    assert written(tmp_path)[-1]["reason"] == reasons.DISK_FULL


def test_the_page_shows_mfu_memory_and_the_last_evaluation(world: World, tmp_path: Path) -> None:
    job = Job(world.config("u"), tmp_path)
    display = Display(job)
    display.measure_by(METER)
    display.training(progress(10), 40, 123.4)
    shown = job.page.body
    assert (shown["mfuPercent"], shown["tokensPerSecond"], shown["etaSeconds"], shown["eta"]) == (25, 123, 8, "8s")
    assert shown["memoryMib"] % 64 == 0
    display.trained(progress(10, 40))
    assert job.page.body["acceptanceLength"] == "1.400"
    page = job.page.render("/metrics")[2]
    assert b"specop_training_mfu_percent 25.0" in page
    assert b"specop_training_acceptance_length 1.4" in page


def test_the_meter_counts_what_the_rows_cost(world: World, tmp_path: Path) -> None:
    model, course, _ = parts(world, tmp_path)
    dense = 6 * sum(parameter.numel() for parameter in model.parameters())
    # Every anchor passes layer and head three times.
    assert dense < flops_per_token(model.config, course.train.rows, 3) < 3 * dense
    assert all(peak_flops(torch.device("cpu"), dtype) > 1e9 for dtype in (torch.float32, torch.bfloat16))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_has_a_bar_that_makes_way_for_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    handler = logging.StreamHandler(stream)
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    bar = Bar(stream)
    shown = TrainingProgress(
        step=30, total_steps=120, tokens_per_second=2310, loss="1.2000", acceptance_length="2.130", mfu_percent=41
    )
    bar.training(shown.model_copy(update={"eta_seconds": 3723}), Progress())
    assert stream.getvalue() == (
        CLEAR
        + " 25% |██████··················| 30/120  2,310 tok/s  loss 1.2000  accepts 2.130  MFU 41 %  1:02:03 left"
    )
    handler.emit(logging.makeLogRecord({"msg": "unfiltered"}))
    logging.getLogger().handle(logging.makeLogRecord({"msg": "held out", "levelno": logging.INFO}))
    assert stream.getvalue().endswith(f"{CLEAR}held out\n")
    bar.ended("Completed")


class Page(HTMLParser):
    """Counts what opens and closes, and keeps what would be fetched."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [name for name, _ in attrs if name in {"src", "href", "action"}]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_report_is_one_page_that_fetches_nothing(tmp_path: Path) -> None:
    events = Events(LocalStore(), f"file://{tmp_path}/none", clock)
    events.add("started", attempt=1, device="2 CPU threads")
    events.training(5, loss=2.0, tokensPerSecond=10, mfuPercent=None)
    events.evaluations(progress(5, 10))
    text = render("Run <a & b>", {"Result": {"steps": 12345, "loss": [{"name": "KL", "weight": "1"}]}}, events.all)
    page = Page(text)
    assert page.open == []
    assert page.fetched == []
    assert "script" not in page.tags
    assert page.tags.count("svg") == 4  # none for what was never measured
    assert page.tags.count("circle") == 2 * 2 + 2 * 1
    assert "Run &lt;a &amp; b&gt;" in text
    assert "12,345" in text
    assert "name KL weight 1" in text


class Broken:
    """A tracker whose server is out of order."""

    def __init__(self, *_: Any) -> None:
        self.told = 0
        made.append(self)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self.told += 1
        raise ConnectionError("secret host")

    def flush(self) -> None:
        raise AssertionError

    def close(self) -> None:
        raise AssertionError


made: list[Broken] = []


def test_a_tracker_that_fails_is_told_nothing_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(trackers_module.KNOWN, "Broken", Broken)
    found = Trackers("Broken", run_config(tmp_path), tmp_path, LocalStore())
    for step in range(2):
        found.log(step, {"loss": 1.0})
    found.flush()
    found.close()
    assert made[-1].told == 1
    assert "Broken failed" in caplog.text
    assert "secret host" not in caplog.text


def test_tensorboard_reads_from_storage_what_a_run_logged(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = Trackers("TensorBoard", run_config(tmp_path), tmp_path / "work", LocalStore())
    for step in (10, 20):
        found.log(step, {"loss": 3.0 / step, "acceptanceLength": 2.0})
    found.flush()
    kept = tmp_path / "out" / "runs" / "u" / "tensorboard"
    assert list(kept.iterdir())  # while it runs, too
    found.log(30, {"loss": 0.125})
    found.close()
    shown = reader.EventAccumulator(str(kept)).Reload()
    assert sorted(shown.Tags()["scalars"]) == ["acceptanceLength", "loss"]
    assert [(event.step, event.value) for event in shown.Scalars("loss")] == [
        *((10, pytest.approx(0.3)), (20, pytest.approx(0.15)), (30, pytest.approx(0.125)))
    ]


@pytest.mark.parametrize(
    ("wanted", "module", "message"),
    [
        ("TensorBoard", "torch.utils.tensorboard", r"lacks: build one with specop\[tensorboard\]"),
        ("WandB", "wandb", r"specop\[wandb\]"),
        ("MLflow", "mlflow", r"specop\[mlflow\]"),
        (" Comet", "comet", "names Comet: what is known is TensorBoard, WandB, MLflow"),
    ],
)
def test_a_tracker_that_is_absent_or_unknown_is_refused(
    wanted: str, module: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=message) as raised:
        Trackers(wanted, run_config(tmp_path), tmp_path, LocalStore())
    assert raised.value.reason == reasons.TRACKER_UNAVAILABLE
