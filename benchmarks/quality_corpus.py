"""What `make bench-quality` trains and judges on: a target's own answers, split by request into three parts.

It is: rows in the dataset's format, made once a size and kept: `train` and `validation` as a published dataset (its
holdout is the validation part, by which runs choose their best weights), and `test`, which no run ever sees. Sizes:
`demo` is SmolLM2-135M answering the demo's concierge, held to JSON (T=0 and T=1), the same users' questions in prose
(T=0 and T=1) and, as general text, the demo's foreign tasks; `tiny` is the random target of the tests, and shows
nothing but that the harness works.
"""

import json
import random
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from specop.api.shared import Weights
from tests.tiny import build_tiny
from tests.trainer.tiny_run import SCHEMA, generated, publish

Rows = list[dict[str, Any]]
VALIDATION, TEST = 0.1, 0.2
"""Shares of the requests."""
FEW = 24
"""Rows by which speeds are found: a short run reads them several times, so the teacher's states are kept there too."""
SEED = 0


class Corpus:
    """One set of rows for one target, on disk."""

    def __init__(self, folder: Path, target: Path) -> None:
        self.folder = folder
        self.target = target

    @property
    def dataset(self) -> Weights:
        """The published dataset: train and validation."""
        return Weights.model_validate_json((self.folder / "dataset.json").read_text())

    @property
    def test(self) -> Path:
        """Rows that judge."""
        return self.folder / "test-00000.parquet"

    @property
    def train(self) -> Path:
        """Rows that are trained on."""
        return self.folder / "train-00000.parquet"

    @property
    def few(self) -> "Corpus":
        """Some of the rows, as a dataset of their own."""
        return Corpus(self.folder.with_name(f"{self.folder.name}-few"), self.target)

    def write(self, rows: Rows) -> None:
        """Split the rows and publish them."""
        order = list(rows)
        random.Random(SEED).shuffle(order)
        test, validation = (max(4, round(len(rows) * share)) for share in (TEST, VALIDATION))
        held, chosen, train = order[:test], order[test : test + validation], order[test + validation :]
        self.few.publish(train[:FEW], chosen[:4])
        self.publish(train, chosen)
        pq.write_table(pa.Table.from_pylist(held, schema=SCHEMA), self.test)

    def publish(self, train: Rows, holdout: Rows) -> None:
        """Publish these rows as the dataset."""
        dataset = publish(self.folder, f"file://{self.target}", train, holdout)
        (self.folder / "dataset.json").write_text(dataset.model_dump_json(by_alias=True))


def corpora(size: str, folder: Path) -> dict[str, Corpus]:
    """Make what is missing of a size's corpora, and return them by name."""
    if size == "tiny":
        target = folder / "target"
        if not target.exists():
            build_tiny(target)
        found = {"own": Corpus(folder / "own", target)}
        if not found["own"].test.exists():
            found["own"].write(generated(target, 96))
        return _with_few(found)
    from demo import model  # noqa: PLC0415 - downloads where it is needed

    target = model.prepare()
    names = ("own", "own-sampled", "prose", "prose-sampled", "general")
    found = {name: Corpus(folder / name, target) for name in names}
    if not all(corpus.test.exists() for corpus in found.values()):
        # An engine's processes spin until their parent ends, and what is timed next would share the machine with them.
        subprocess.run([sys.executable, "-m", __name__, str(folder), str(target)], check=True)
    return _with_few(found)


def _with_few(found: dict[str, Corpus]) -> dict[str, Corpus]:
    return found | {f"{name}-few": corpus.few for name, corpus in found.items()}


def _write_answers(folder: Path, target: Path) -> None:
    from demo import traffic  # noqa: PLC0415 - as above

    held = traffic.concierge()
    # Neither a form nor the system prompt that asks for it.
    prose = [{"messages": request["messages"][-1:], "max_tokens": request["max_tokens"]} for request in held]
    wanted = {
        "own": (held, 0.0),
        "own-sampled": (held, 1.0),
        "prose": (prose, 0.0),
        "prose-sampled": (prose, 1.0),
        "general": (traffic.foreign(), 0.0),
    }
    missing = {name: what for name, what in wanted.items() if not Corpus(folder / name, target).test.exists()}
    for name, rows in _answered(target, missing).items():
        Corpus(folder / name, target).write(rows)


def _answered(target: Path, wanted: Mapping[str, tuple[Sequence[dict[str, Any]], float]]) -> dict[str, Rows]:
    """Let a real engine answer requests; the grammar of a request holds its answer, as when it is served."""
    from vllm import LLM, SamplingParams  # noqa: PLC0415 - takes a while
    from vllm.sampling_params import StructuredOutputsParams  # noqa: PLC0415

    engine = LLM(model=str(target), enforce_eager=True, max_model_len=2048, max_num_seqs=32, gpu_memory_utilization=0.5)
    found: dict[str, Rows] = {}
    for name, (requests, temperature) in wanted.items():
        schemas = [request.get("response_format", {}).get("json_schema", {}).get("schema") for request in requests]
        sampling = [
            SamplingParams(
                temperature=temperature,
                max_tokens=request["max_tokens"],
                seed=number,
                structured_outputs=StructuredOutputsParams(json=schema) if schema else None,
            )
            for number, (request, schema) in enumerate(zip(requests, schemas, strict=True))
        ]
        answers = engine.chat([request["messages"] for request in requests], sampling)
        found[name] = [
            _row(f"{name}-{number}", name, answer, schema, temperature)
            for number, (answer, schema) in enumerate(zip(answers, schemas, strict=True))
        ]
    return found


def _row(key: str, source: str, answer: Any, schema: Any, temperature: float) -> dict[str, Any]:
    prompt, said = list(answer.prompt_token_ids), list(answer.outputs[0].token_ids)
    row = {
        "key": key,
        "source": source,
        "time": "",
        "input_ids": prompt + said,
        "spans": [{"start": len(prompt), "end": len(prompt) + len(said)}],
        "constrained": schema is not None,
        "grammar": json.dumps({"jsonSchema": schema}) if schema else None,
        "temperature": temperature,
    }
    return {name: row[name] for name in SCHEMA.names}


if __name__ == "__main__":
    _write_answers(*map(Path, sys.argv[1:]))
