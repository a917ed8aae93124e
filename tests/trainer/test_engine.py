"""A real vLLM engine loads an exported drafter unchanged, and accepts what it drafts as often as the trainer says."""

import re
import urllib.request
from pathlib import Path

import pytest
from openai import OpenAI

from specop.api.jobs import Outcome
from specop.storage.job import Job
from specop.trainer.main import train
from tests.serving.pod import Pod, running
from tests.trainer.tiny_run import World

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]
TOLERANCE = 0.15


@pytest.mark.parametrize(("architecture", "layout"), [("Eagle31", "Speculators"), ("Eagle3", "Eagle")])
def test_the_engine_accepts_what_it_drafts(architecture: str, layout: str, tmp_path: Path) -> None:
    world = World(tmp_path, train=24, holdout=12)
    config = world.config("u-engine", architecture=architecture, layout=layout, max_steps=200)
    facts = train(config, Job(config, tmp_path / "work"))
    assert facts
    info = world.manifest(Outcome(kind="training", ok=True, training=facts)).info
    (judged,) = (point["expected"] for point in info["curve"] if point["step"] == info["bestStep"])
    with running(Pod(tmp_path, world.target, facts.drafter, facts.contract)) as pod:
        pod.wait_ready()
        client = OpenAI(base_url=f"http://127.0.0.1:{pod.engine_port}/v1", api_key="none", max_retries=0)
        before = counters(pod)
        for row in world.holdout:
            start, end = row["spans"][0]["start"], row["spans"][0]["end"]
            answer = client.completions.create(
                model="agent",
                prompt=row["input_ids"][:start],
                max_tokens=end - start,
                temperature=0,
                extra_body={"return_token_ids": True, "ignore_eos": True},
            )
            assert (answer.choices[0].model_extra or {})["token_ids"] == row["input_ids"][start:end]
        steps, accepted = (after - first for after, first in zip(counters(pod), before, strict=True))
        pod.stop()
    assert judged > 1.1
    assert 1 + accepted / steps == pytest.approx(judged, rel=TOLERANCE)


def counters(pod: Pod) -> tuple[float, float]:
    """Steps of the target after first tokens, and accepted draft tokens, so far."""
    with urllib.request.urlopen(f"http://127.0.0.1:{pod.engine_port}/metrics") as answer:
        page = answer.read().decode()
    names = ("inter_token_latency_seconds_count", "spec_decode_num_accepted_tokens_total")
    steps, accepted = (re.search(rf"^vllm:{name}\{{.*\}} (\S+)$", page, re.MULTILINE) for name in names)
    assert steps
    assert accepted
    return float(steps[1]), float(accepted[1])
