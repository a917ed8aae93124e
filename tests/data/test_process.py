"""The dataset Job as a process: adoption, death at any moment, what it shows and never shows, how much it holds."""

import http.client
import json
import random
import re
import signal
import subprocess
import time
from contextlib import closing
from pathlib import Path

import pytest

from specop.api import reasons
from specop.api.jobs import Outcome
from specop.common.errors import EXIT_PREEMPTED, EXIT_USER_ERROR
from tests.data.limited import limited, was_killed
from tests.data.world import Json, World, capture, chat, messages
from tests.storage.server import free_port

SECRET = "mellon-friend"
LONG = 20_000
"""Rows that take seconds to read: a loaded machine still sees the process at work."""


def end(process: subprocess.Popen[str], seconds: int = 60) -> tuple[int, str]:
    output, log = process.communicate(timeout=seconds)
    return process.returncode, output + log


def outcome(path: Path) -> Outcome:
    return Outcome.model_validate_json(path.read_bytes())


def manifests(world: World) -> list[Path]:
    return list((world.folder / "out").rglob("manifest.json"))


def many(count: int) -> list[Json]:
    return [capture(number % 1440, f"question {number}", "answer " * 40) for number in range(count)]


def test_a_second_attempt_adopts_the_result_of_the_first(world: World) -> None:
    world.write("a.jsonl", [capture(number) for number in range(9)])
    assert end(world.start(world.config()))[0] == 0
    first = outcome(world.result)
    assert (first.ok, first.dataset and first.dataset.rows, outcome(world.termination)) == (True, 8, first)
    (manifest,) = manifests(world)
    written = manifest.stat().st_mtime_ns
    world.write("a.jsonl", [capture(number) for number in range(5)])
    code, log = end(world.start(world.config()))
    assert (code, outcome(world.result), outcome(world.termination)) == (0, first, first)
    assert "adopted" in log
    assert [path.stat().st_mtime_ns for path in manifests(world)] == [written]


@pytest.mark.parametrize("stage", ["Reading", "Writing"])
def test_killed_at_any_stage_it_leaves_no_manifest_and_starts_over(world: World, stage: str) -> None:
    rows = many(LONG)
    world.write("a.jsonl.gz", rows)
    port = free_port()
    process = world.start(world.config(), port=port)
    wait_for(process, port, stage)
    process.send_signal(signal.SIGKILL)
    assert end(process)[0] == -signal.SIGKILL
    assert (manifests(world), world.result.exists(), world.termination.exists()) == ([], False, False)
    world.write("a.jsonl.gz", rows[:20])  # the same work folder, with what the killed one left in it
    assert end(world.start(world.config()))[0] == 0
    facts = outcome(world.result).dataset
    assert facts
    assert (facts.counts.read, facts.rows, facts.holdout_rows) == (20, 18, 2)


def test_sigterm_ends_with_a_code_of_its_own_and_nothing_published(world: World) -> None:
    world.write("a.jsonl.gz", many(LONG))
    port = free_port()
    process = world.start(world.config(), port=port)
    wait_for(process, port, "Reading")
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    assert end(process)[0] == EXIT_PREEMPTED
    assert time.monotonic() - began < 5
    assert (manifests(world), world.result.exists(), world.termination.exists()) == ([], False, False)


def test_no_content_of_traffic_is_said_anywhere(world: World) -> None:
    world.target = refusing(world)
    good = [
        {"messages": messages(f"{SECRET} {number}", f"{SECRET}!", system=SECRET if number == 7 else None)}
        for number in range(1500)
    ]
    odd = [
        f'{{"{SECRET}'.encode(),
        f'"{SECRET}"'.encode(),
        {"messages": SECRET},
        {"messages": [{"role": 7, "content": SECRET}]},
        chat(SECRET, SECRET, tools=SECRET),
        chat(SECRET, SECRET, time=SECRET),
        chat(SECRET, "\ud800" + SECRET),
    ]
    world.write("a.jsonl", good + odd)
    port = free_port()
    process = world.start(world.config(), port=port)
    pages = []
    while process.poll() is None:
        pages += [page for name in ("/progress", "/metrics") if (page := fetch(port, name))]
        time.sleep(0.01)
    code, log = end(process)
    assert code == 0
    facts = outcome(world.result).dataset
    assert facts
    assert (facts.counts.set_aside, facts.counts.read) == (len(odd), len(good) + len(odd))
    made = world.read(facts)
    assert made.report["sources"][0]["lines"]["refused"] == 1
    said = [log, *pages, world.result.read_text(), world.termination.read_text(), json.dumps(made.report)]
    assert len(pages) > 2
    assert not [text for text in (*said, made.manifest.model_dump_json()) if SECRET in text]
    assert SECRET in made.data("holdout-requests.jsonl").decode()


def test_a_users_error_has_its_reason_and_quotes_nothing(world: World) -> None:
    world.write("a.jsonl", [b"{" + SECRET.encode()])
    code, log = end(world.start(world.config()))
    found = outcome(world.termination)
    assert (code, found.ok, found.reason) == (EXIT_USER_ERROR, False, reasons.TOO_MANY_BAD_LINES)
    assert SECRET not in log + world.termination.read_text()
    assert not world.result.exists()


def test_memory_does_not_grow_with_the_input(world: World) -> None:
    world.write("few.jsonl", many(600))
    small = peak(world)
    long = [random.Random(number).randbytes(50_000).hex() for number in range(10)]
    rows = (capture(number % 1440, long[number % 10]) | {"latency": number} for number in range(1000))
    world.write("much.jsonl", ({**row, "response": capture(0, answer="yes")["response"]} for row in rows))
    assert (world.folder / "in" / "much.jsonl").stat().st_size > 100_000_000
    assert peak(world) - small < 300 << 20


def peak(world: World) -> int:
    """Run the Job to its end and return its largest resident memory, in bytes."""
    world.result.unlink(missing_ok=True)
    process = world.start(world.config(transform={"maxLength": 200_000}, privacy={"action": "Keep"}))
    status, largest = Path(f"/proc/{process.pid}/status"), 0
    while process.poll() is None:
        if found := re.search(r"VmHWM:\s+(\d+) kB", status.read_text()):  # gone once it has ended
            largest = int(found[1]) << 10
        time.sleep(0.02)
    assert end(process)[0] == 0
    return largest


def refusing(world: World) -> Path:
    """A target whose template raises, with the content, about system prompts."""
    folder = world.folder / "target"
    folder.mkdir()
    for path in world.target.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    template = folder / "chat_template.jinja"
    refuse = "{% if messages[0].role == 'system' %}{{ raise_exception(messages[0].content) }}{% endif %}"
    template.write_text(refuse + template.read_text())
    return folder


def fetch(port: int, name: str) -> str:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
        try:
            connection.request("GET", name)
            return connection.getresponse().read().decode()
        except OSError:
            return ""


def wait_for(process: subprocess.Popen[str], port: int, stage: str) -> None:
    deadline = time.monotonic() + 60
    while f'"{stage}"' not in fetch(port, "/progress"):
        assert process.poll() is None, f"it ended before it was seen at {stage}"
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.node
def test_half_a_gigabyte_under_700_megabytes(world: World) -> None:
    """The log is surveyed whole and a share of it taken; whoever passes the limit is killed by the kernel."""
    path = world.folder / "in" / "much.jsonl"
    path.parent.mkdir()
    tail = json.dumps(messages("?", "word " * 172))[1:]
    with path.open("w") as file:
        for number in range(500_000):
            turn = f'{{"role": "system", "content": "{number}"}}'
            file.write(f'{{"created": {number}, "messages": [{turn}, {tail}}}\n')
    assert path.stat().st_size > 500_000_000
    source = {"name": "log", "maxConversations": 20_000, "objects": {"uri": f"file://{path}"}}
    with limited(700 << 20) as (enter, folder):
        process = world.start(world.config([source]), preexec=enter)
        code, log = end(process, seconds=110)
        assert (code, was_killed(folder)) == (0, False), log
    facts = outcome(world.result).dataset
    assert facts
    assert (facts.counts.read, facts.counts.kept, facts.counts.outweighed) == (500_000, 20_000, 480_000)
