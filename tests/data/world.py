"""A folder with sources, a target and an output; the dataset Job over it, in this process or in one of its own."""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import zstandard

from specop.api.dataset import DatasetFacts
from specop.api.jobs import CONFIG_ENV, DatasetConfig
from specop.common.errors import UserError
from specop.data.main import make_dataset
from specop.data.tokens import TargetText
from specop.storage.blobs import Manifest, blob_uri, read_manifest
from specop.storage.job import Job
from specop.storage.local import LocalStore

Json = dict[str, Any]
WINDOW = {"source": "log", "since": "2026-01-01T00:02:00Z", "until": "2026-01-01T00:07:00Z"}
ROOT = Path(__file__).parents[2]
PACKED = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}


def messages(*turns: str, system: str | None = None) -> list[Json]:
    """A conversation: turns of user and assistant in alternation."""
    head = [] if system is None else [{"role": "system", "content": system}]
    roles = ("user", "assistant")
    return head + [{"role": roles[index % 2], "content": turn} for index, turn in enumerate(turns)]


def chat(*turns: str, **more: Any) -> Json:
    return {"messages": messages(*turns), **more}


def capture(number: int, prompt: str = "", answer: str = "", *, finish: str = "stop", **request: Any) -> Json:
    """What the middleware writes, a minute after the one before."""
    return {
        "v": 1,
        "id": f"chatcmpl-{number}",
        "time": f"2026-01-01T{number // 60:02d}:{number % 60:02d}:00.000Z",
        "model": "agent",
        "route": "/v1/chat/completions",
        "status": 200,
        "latency": 1.5,
        "arm": "base",
        "request": {"model": "agent", "messages": messages(prompt or f"question {number}"), **request},
        "response": {
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": answer or f"answer {number}"},
                    "finish_reason": finish,
                }
            ]
        },
    }


def jsonl(rows: Iterable[Any]) -> bytes:
    return b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows)


@dataclass(frozen=True)
class Dataset:
    """A published dataset, read back from the store by its manifest."""

    manifest: Manifest
    output: str

    def data(self, name: str) -> bytes:
        return LocalStore().get(blob_uri(self.output, self.manifest.file(name).blob))

    def path(self, name: str) -> Path:
        return Path(blob_uri(self.output, self.manifest.file(name).blob).removeprefix("file://"))

    def rows(self, split: str) -> list[Json]:
        names = [entry.name for entry in self.manifest.files if entry.name.startswith(f"{split}-0")]
        found: list[Json] = [row for name in names for row in pq.read_table(self.path(name)).to_pylist()]
        return found

    @property
    def report(self) -> Json:
        found: Json = json.loads(self.data("report.json"))
        return found

    @property
    def requests(self) -> list[Json]:
        return [json.loads(line) for line in self.data("holdout-requests.jsonl").splitlines()]


class World:
    """One object's Job; call `write`, then `make` or `start`."""

    def __init__(self, folder: Path, target: Path) -> None:
        self.folder = folder
        self.target = target
        self.output = f"file://{folder}/out"
        self.result = folder / "out" / "runs" / "u-1" / "result.json"
        self.termination = folder / "termination-log"

    def write(self, name: str, rows: Iterable[Any]) -> str:
        """Write rows as lines, packed as the name's ending says, and return their URI."""
        path = self.folder / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PACKED[path.suffix if path.suffix in PACKED else ""](jsonl(rows)))
        return f"file://{path}"

    def config(self, sources: Sequence[Json] = (), **more: Any) -> DatasetConfig:
        """A configuration; without sources, everything under `in`, as one source `log`."""
        everything = {"name": "log", "objects": {"uri": f"file://{self.folder}/in/**"}}
        body = {
            "uid": "u-1",
            "namespace": "n",
            "name": "d",
            "output": self.output,
            "target": f"file://{self.target}",
            "sources": sources or [everything],
            **more,
        }
        return DatasetConfig.model_validate(body)

    def make(self, sources: Sequence[Json] = (), **more: Any) -> DatasetFacts:
        config = self.config(sources, **more)
        return make_dataset(config, Job(config, self.folder / "work"))

    def read(self, facts: DatasetFacts) -> Dataset:
        return Dataset(read_manifest(LocalStore(), facts.uri, facts.digest), self.output)

    def start(
        self, config: DatasetConfig, *, port: int = 0, preexec: Callable[[], None] | None = None
    ) -> subprocess.Popen[str]:
        """The Job as its pod would start it."""
        options = [f"--work={self.folder}/work", f"--termination-log={self.termination}", f"--port={port}"]
        return subprocess.Popen(
            [sys.executable, "-m", "specop.data", *options],
            env={**os.environ, "PYTHONPATH": str(ROOT / "src"), CONFIG_ENV: config.model_dump_json()},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=preexec,  # noqa: PLW1509 - it writes a number to a file
        )


def failure(world: World, *sources: Json, **more: Any) -> UserError:
    """Return why no dataset is made of these sources; nothing of one is left."""
    with pytest.raises(UserError) as caught:
        world.make(sources, **more)
    assert not (world.folder / "out" / "datasets").exists()
    return caught.value


def captures(world: World, day: str, rows: list[Json], name: str = "pod-1-1") -> Json:
    """Write captures where a companion ships them; return a source that reads them by a window."""
    world.write(f"captures/n/agent/dt={day}/hour=00/{name}.jsonl.zst", rows)
    return {"name": "log", "window": {**WINDOW, "prefix": f"file://{world.folder}/in/captures/n/agent"}}


def text(world: World, row: Json) -> list[str]:
    """Whole text of a row, and of its spans."""
    tokenizer = TargetText(world.target)._tokenizer
    ids, spans = row["input_ids"], row["spans"]
    parts = [ids, *(ids[span["start"] : span["end"]] for span in spans)]
    return [tokenizer.decode(part, skip_special_tokens=False) for part in parts]
