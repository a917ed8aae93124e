"""A whole serving pod with a real vLLM engine on a tiny target, drafted: readiness, captures, drain, the end."""

import json
import re
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard
from openai import OpenAI

from specop.api.shared import Contract, Weights
from specop.storage.blobs import read_manifest
from specop.storage.local import LocalStore
from tests.data.world import World
from tests.serving.drafters import published
from tests.serving.pod import Pod, running
from tests.tiny import build_tiny

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]
MESSAGES: Any = [{"role": "user", "content": "What is on tonight?"}]


@pytest.fixture(scope="module")
def pod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    root = tmp_path_factory.mktemp("pod")
    target = f"file://{build_tiny(root / 'target')}"
    uri, digest = published(root, target)
    contract = Contract.model_validate(read_manifest(LocalStore(), uri).contract)
    with running(Pod(root, target, Weights(digest=digest, uri=uri), contract)) as pod:
        assert pod.ask_companion("/ready")[0] in {0, 503}
        pod.wait_ready()
        yield pod


@pytest.fixture(scope="module")
def client(pod: Pod) -> OpenAI:
    return OpenAI(base_url=f"http://127.0.0.1:{pod.engine_port}/v1", api_key="none", max_retries=0)


def lines(pod: Pod, count: int) -> list[dict[str, Any]]:
    """Captured lines in storage, once there are so many."""
    while True:
        found = [
            json.loads(line)
            for path in sorted((pod.root / "captured").rglob("*.zst"))
            for line in zstandard.ZstdDecompressor().stream_reader(path.read_bytes()).read().splitlines()
        ]
        if len(found) >= count:
            return found
        time.sleep(0.2)


def test_what_the_client_got_is_what_lies_in_storage(pod: Pod, client: OpenAI) -> None:
    asked: dict[str, Any] = {"model": "agent", "messages": MESSAGES, "max_tokens": 40, "temperature": 0}
    token_ids = {"return_token_ids": True}
    whole = client.chat.completions.with_raw_response.create(**asked)
    answer = json.loads(whole.content)
    text, tokens, usage = "", [], None
    for chunk in client.chat.completions.create(
        **asked, stream=True, stream_options={"include_usage": True}, extra_body=token_ids
    ):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            tokens += (choice.model_extra or {}).get("token_ids") or []
    client.chat.completions.create(**asked, extra_headers={"X-Specop-No-Train": "1"})
    completion = client.completions.create(model="agent", prompt="a", max_tokens=4)
    with pytest.raises(Exception, match="does not exist"):
        client.chat.completions.create(**{**asked, "model": "other"})

    first, second, third = lines(pod, 3)
    assert first["request"] == asked
    noted = first["response"]["choices"][0].pop("token_ids"), first["response"].pop("prompt_token_ids")
    assert noted == (tokens, second["response"]["prompt_token_ids"])  # also of who did not ask for it
    answer["choices"][0].pop("token_ids")
    answer.pop("prompt_token_ids")
    assert first["response"] == answer
    assert (first["arm"], first["status"], first["route"]) == ("d-test", 200, "/v1/chat/completions")
    streamed = second["response"]["choices"][0]
    assert (streamed["message"], streamed["token_ids"]) == ({"role": "assistant", "content": text}, tokens)
    assert usage
    assert second["response"]["usage"] == usage.model_dump(exclude_unset=True)
    assert text == answer["choices"][0]["message"]["content"]  # greedy, float32
    assert third["response"]["choices"][0]["text"] == completion.choices[0].text
    while (counted := json.loads(pod.ask_companion("/capture")[1])["requests"]) < 3:
        time.sleep(0.2)
    assert counted == 3  # neither the probe nor the opted out


def test_the_drafter_drafts(pod: Pod) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{pod.engine_port}/metrics") as answer:
        page = answer.read().decode()
    drafts = re.search(r"^vllm:spec_decode_num_drafts_total\{.*\} (\S+)$", page, re.MULTILINE)
    drafted = re.search(r"^vllm:spec_decode_num_draft_tokens_total\{.*\} (\S+)$", page, re.MULTILINE)
    assert drafts
    assert drafted
    assert 0 < float(drafts[1]) <= float(drafted[1]) <= 4 * float(drafts[1])


def test_a_dataset_asks_it_for_answers(pod: Pod, client: OpenAI, tmp_path: Path) -> None:
    captured = len(lines(pod, 3))
    world = World(tmp_path, Path(pod.target.removeprefix("file://")))
    schema = {"type": "object", "properties": {"at": {"type": "integer"}}, "required": ["at"]}
    form = {"type": "json_schema", "json_schema": {"name": "form", "schema": schema}}
    prompts = [{"prompt": f"What is on at {hour}?", "temperature": 0, "max_tokens": 24} for hour in range(6)]
    uri = world.write("prompts.jsonl", [{**prompts[0], "response_format": form}, *prompts[1:], {"prompt": "a" * 5000}])
    asked = {"url": f"http://127.0.0.1:{pod.engine_port}/v1", "model": "agent"}
    facts = world.make([{"name": "seeds", "seeds": {"uri": uri}}], regenerate=asked)
    made = world.read(facts)
    rows = [*made.rows("train"), *made.rows("holdout")]
    assert (facts.counts.read, facts.counts.regenerated, facts.counts.unanswered) == (7, 6, 1)  # one is too long
    tokens: Any = {"return_token_ids": True}
    for prompt in prompts[1:]:
        messages: Any = [{"role": "user", "content": prompt["prompt"]}]
        whole = client.chat.completions.with_raw_response.create(
            model="agent",
            messages=messages,
            temperature=0,
            max_tokens=24,
            extra_body=tokens,
            extra_headers={"X-Specop-No-Train": "1"},
        )
        said = json.loads(whole.content)
        ids = [*said["prompt_token_ids"], *said["choices"][0]["token_ids"]]
        (row,) = [row for row in rows if row["input_ids"] == ids]
        assert row["spans"] == [{"start": len(said["prompt_token_ids"]), "end": len(ids)}]
    (held,) = [row for row in rows if row["constrained"]]
    assert json.loads(held["grammar"]) == {"jsonSchema": schema}
    assert len(lines(pod, captured)) == captured


def test_drain_ends_when_the_last_request_has_its_answer(pod: Pod, client: OpenAI) -> None:
    ended: list[tuple[float, int]] = []

    def ask() -> None:
        answer = client.completions.create(model="agent", prompt="a", max_tokens=900, extra_body={"ignore_eos": True})
        assert answer.usage
        ended.append((time.monotonic(), answer.usage.completion_tokens))

    asking = threading.Thread(target=ask)
    asking.start()
    time.sleep(0.5)
    status, said = pod.ask_companion("/drain?seconds=120&settle=0", timeout=130)
    drained = time.monotonic()
    asking.join()
    assert (status, said) == (200, "drained")
    ((answered, tokens),) = ended
    assert tokens == 900
    assert drained > answered - 0.5


def test_at_the_end_everything_is_shipped_and_nothing_is_told(pod: Pod, client: OpenAI, tmp_path: Path) -> None:
    client.completions.create(model="agent", prompt="the very last", max_tokens=4)
    pod.stop()
    assert pod.companion
    assert pod.companion.returncode == 0
    assert lines(pod, 5)[4]["request"]["prompt"] == "the very last"
    assert not list((pod.root / "capture").glob("*.jsonl"))
    for log in ("companion.log", "fetch.log"):
        assert "the very last" not in (pod.root / log).read_text()
        assert "tonight" not in (pod.root / log).read_text()
