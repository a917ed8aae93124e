import io
import json

import pytest
from rich.console import Console

from specop.cli import report
from specop.cli.errors import CliError
from specop.cli.loop import Loop, Table, duration, tables, waits
from specop.cli.main import _loop_page, main
from specop.cli.render import page
from tests.cli.objects import MEASURED, ONE, TWO, candidate, condition, dataset, drafter, endpoint, job, serving


def text(shown: list[Table]) -> str:
    console = Console(file=io.StringIO(), width=400, no_color=True)
    console.print(page(shown))
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def test_a_loop_whose_first_training_runs() -> None:
    loop = Loop(
        "team-a",
        endpoints=[endpoint()],
        datasets=[dataset("agent-v1"), dataset("agent-v2", done=False)],
        jobs=[job("agent-v1", "running"), job("agent-v2", "new")],
    )
    assert (
        text(_loop_page(loop))
        == """\
ENDPOINT  READY  REASON       SERVING  ACCEPTLEN  TOK/S  CAPTURED  CANDIDATE
agent     True   ServingBase  base     -          -      -         -

DATASET   SUCCEEDED  REASON              ROWS  HOLDOUT  TOKENS  DIGEST
agent-v1  True       Completed           360   40       90000   1a1a1a1a
agent-v2  Unknown    WaitingForRequests  -     -        -       -

JOB       SUCCEEDED  REASON   STEP     TOK/S  LOSS  ACCEPTLEN  ETA    DRAFTER
agent-v1  Unknown    Running  120/330  2400   1.93  2.10       2m20s  -
agent-v2  Unknown    Pending  -        -      -     -          -      -

WAITS                           REASON              FOR
SpeculatorDataset agent-v2      WaitingForRequests  82 of 100 requests shipped
SpeculatorTrainingJob agent-v1  Running             -
SpeculatorTrainingJob agent-v2  Pending             -"""
    )


def whole_loop() -> Loop:
    status = {
        "conditions": [condition("Ready", "True", "ServingDrafter")],
        "drafter": {"serving": serving(), "candidate": candidate()},
        "capture": {"requests": 514, "shippedUntil": "2026-01-01T02:00:00Z"},
        "measured": MEASURED,
    }
    return Loop(
        "team-a",
        endpoints=[endpoint(status=status)],
        datasets=[dataset("agent-v1")],
        jobs=[job("agent-v1")],
        drafters=[drafter("agent-v1", by="ann"), drafter("agent-v2", TWO, parent="agent-v1")],
    )


def test_a_loop_whose_second_generation_waits_for_a_person() -> None:
    assert (
        text(_loop_page(whole_loop()))
        == """\
ENDPOINT  READY  REASON          SERVING            ACCEPTLEN  TOK/S  CAPTURED  CANDIDATE
agent     True   ServingDrafter  agent-v1 1a1a1a1a  2.89       51.8   514       agent-v2 2b2b2b2b AwaitingApproval

DATASET   SUCCEEDED  REASON     ROWS  HOLDOUT  TOKENS  DIGEST
agent-v1  True       Completed  360   40       90000   1a1a1a1a

JOB       SUCCEEDED  REASON     STEP  TOK/S  LOSS  ACCEPTLEN  ETA  DRAFTER
agent-v1  True       Completed  330   2374   -     2.81       -    agent-v1 1a1a1a1a

DRAFTER   READY  ACCEPTLEN  DIGEST    PARENT    APPROVEDBY
agent-v1  True   2.81       1a1a1a1a  -         ann
agent-v2  True   2.81       2b2b2b2b  agent-v1  -

WAITS                  REASON            FOR
DraftedEndpoint agent  AwaitingApproval  specop approve endpoint/agent (agent-v2 2b2b2b2b)"""
    )


def test_what_a_user_has_to_mend_comes_before_what_is_only_not_ready() -> None:
    stalled = [
        condition("Ready", "False", "NotReady"),
        condition("Stalled", "True", "NoOutputStorage", "set storage.output"),
    ]
    loop = Loop("team-a", endpoints=[endpoint(status={"conditions": stalled})])
    assert waits(loop).rows == (("DraftedEndpoint agent", "NoOutputStorage", "set storage.output"),)


def test_an_empty_namespace_says_so() -> None:
    assert tables(Loop("team-a")) == []
    assert text(_loop_page(Loop("team-a"))) == "nothing of specop in namespace team-a"


@pytest.mark.parametrize(
    ("seconds", "expected"), [(None, "-"), (0, "0s"), (59, "59s"), (60, "1m00s"), (200, "3m20s"), (7500, "2h05m")]
)
def test_durations(seconds: int | None, expected: str) -> None:
    assert duration(seconds) == expected


def test_the_report_of_a_lineage() -> None:
    content = report.build(whole_loop(), "agent")
    json.dumps(content)
    assert [item["drafter"] for item in content["generations"]] == ["agent-v1", "agent-v2"]
    assert content["serving"]["digest"] == ONE
    assert content["candidate"]["digest"] == TWO
    assert (
        text(report.tables(content))
        == f"""\
ENDPOINT           team-a/agent
target             s3://models/small
ready              True ServingDrafter
serving            agent-v1 {ONE}
serving since      2026-01-01T01:10:00Z
captured requests  514
captured until     2026-01-01T02:00:00Z

MEASURED
acceptance length         2.89
acceptance rate           0.63
per position              0.80 0.63 0.45
tokens/s, one stream      51.8
time to first token, p50  210 ms
request, p50 / p90        1400 ms / 1900 ms
requests in window        24

GENERATION  DIGEST    ACCEPTLEN  PER POSITION    STEPS  SECONDS  ROWS  SUPERVISED  PARENT    APPROVEDBY
agent-v1    1a1a1a1a  2.81       0.80 0.60 0.41  330    198      360   30000       -         ann
agent-v2    2b2b2b2b  2.81       0.80 0.60 0.41  -      -        -     -           agent-v1  -"""
    )


def test_a_report_before_anything_was_trained() -> None:
    content = report.build(Loop("team-a", endpoints=[endpoint()]), "agent")
    assert content["generations"] == []
    assert "base alone" in text(report.tables(content))


def test_a_report_of_nothing() -> None:
    with pytest.raises(CliError, match="there is no DraftedEndpoint agent in namespace team-a"):
        report.build(Loop("team-a"), "agent")


def test_the_proven_families(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[0] == "FAMILY"
    assert ["Gemma-3", "Gemma3ForCausalLM", "transformers"] in [line.split() for line in lines]
    assert main(["models", "-o", "json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["families"]) == len(lines) - 1
