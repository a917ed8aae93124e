"""A run on the tiny target: rows that it generated itself, published as a dataset, and the parts of a run by hand."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import AutoModelForCausalLM

from specop.api.jobs import CONFIG_ENV, Outcome, TrainingConfig
from specop.api.preset import DEFAULTS
from specop.api.shared import Weights
from specop.storage.blobs import Manifest, dataset_digest, put_files, read_manifest, write_manifest
from specop.storage.local import LocalStore
from specop.storage.target import target_facts
from specop.trainer.batches import Row, read_rows
from specop.trainer.checkpoint import Checkpoints
from specop.trainer.config import Recipe, recipe
from specop.trainer.grammar import taught
from specop.trainer.loop import Course, Loop
from specop.trainer.model import Eagle3
from specop.trainer.states import Sizes, States
from specop.trainer.teacher import Teacher
from specop.trainer.vocabulary import draft_vocabulary
from tests.tiny import SPECIAL, VOCAB_SIZE, build_tiny

ROOT = Path(__file__).parents[2]
FIRST_BYTE = len(SPECIAL)
KNOBS: dict[str, Any] = {
    "decoding_heads": 3,
    "draft_vocab_size": 128,
    "batch_tokens": 512,
    "epochs": 1000,
    "max_steps": 30,
    "learning_rate": "0.002",
    "evaluations": 3,
    "compute_dtype": "Float32",
}
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("source", pa.string()),
        ("time", pa.string()),
        ("input_ids", pa.list_(pa.int32())),
        ("spans", pa.list_(pa.struct([("start", pa.int32()), ("end", pa.int32())]))),
        ("constrained", pa.bool_()),
        ("grammar", pa.string()),
        ("temperature", pa.float32()),
    ]
)


@torch.no_grad()
def generated(target: Path, count: int, seed: int = 0, temperature: float = 0.0) -> list[dict[str, Any]]:
    """Rows of a dataset: random prompts, and what the target says to them."""
    model = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for index in range(count):
        length = int(torch.randint(4, 24, (1,), generator=generator))
        ids = torch.randint(FIRST_BYTE + 32, FIRST_BYTE + 48, (1, length), generator=generator)
        end = length + int(torch.randint(6, 40, (1,), generator=generator))
        while ids.shape[1] < end:
            logits = model(ids).logits[:, -1]
            token = (
                torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)
                if temperature
                else logits.argmax(-1, keepdim=True)
            )
            ids = torch.cat([ids, token], dim=1)
        found = ids[0].tolist()
        rows.append(
            {
                "key": f"{seed:x}-{index:08x}",
                "source": "logs",
                "time": "",
                "input_ids": found,
                "spans": [{"start": length, "end": end}],
                "constrained": False,
                "grammar": None,
                "temperature": temperature,
            }
        )
    return rows


def publish(folder: Path, target: str, train: list[dict[str, Any]], holdout: list[dict[str, Any]]) -> Weights:
    """Store a dataset as the dataset Job does."""
    store, output, files = LocalStore(), f"file://{folder}/out", []
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in (("train", train), ("holdout", holdout)):
        files.append(folder / f"{split}-00000.parquet")
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), files[-1])
    contract = {"target": target_facts(store, target).to_json()}
    entries = put_files(store, output, files)
    rows_digest = entries[0].blob
    digest = dataset_digest(rows_digest, {}, contract["target"])
    manifest = Manifest(format="specop.dataset/1", digest=digest, files=entries, contract=contract)
    return Weights(digest=digest, uri=write_manifest(store, output, manifest))


class World:
    """A tiny target, a dataset for it, an output."""

    def __init__(self, root: Path, train: int = 24, holdout: int = 8, temperature: float = 0.0) -> None:
        self.root = root
        self.folder = build_tiny(root / "target")
        self.target = f"file://{self.folder}"
        self.train, self.holdout = (
            generated(self.folder, count, seed, temperature) for seed, count in enumerate((train, holdout))
        )
        self.dataset = publish(root, self.target, self.train, self.holdout)

    def config(self, uid: str, **changed: Any) -> TrainingConfig:
        """Configuration of a run; `changed` are hyperparameters, or fields of the configuration."""
        fields = {name: changed.pop(name) for name in list(changed) if name in TrainingConfig.model_fields}
        values: dict[str, Any] = {
            "uid": uid,
            "namespace": "team-a",
            "name": "run",
            "output": f"file://{self.root}/out",
            "target": self.target,
            "dataset": self.dataset,
            "hyperparameters": DEFAULTS.model_copy(update={**KNOBS, **changed}),
        }
        return TrainingConfig.model_validate({**values, **fields})

    def rows(self) -> tuple[list[Row], list[Row]]:
        """Rows of both splits."""
        train, holdout = (
            read_rows([self.root / f"{split}-00000.parquet"], 2048, VOCAB_SIZE) for split in ("train", "holdout")
        )
        return train, holdout

    def manifest(self, outcome: Outcome) -> Manifest:
        """Manifest of the drafter that a run made."""
        assert outcome.training
        return read_manifest(LocalStore(), outcome.training.drafter.uri, outcome.training.drafter.digest)


def made(folder: Path, rows: list[Row], teacher: Teacher, room: int = 1 << 40) -> States:
    """States of these rows, on disk as far as there is room."""
    sizes = Sizes(teacher.config.hidden_size, len(teacher.layers))
    states = States(folder, rows, teacher, sizes, teacher.grammars.masks)
    states.fit(room)
    states.make(states.missing(), lambda _: None)
    return states


def parts(world: World, folder: Path, room: int = 1 << 40, **changed: Any) -> tuple[Eagle3, Course, Teacher]:
    """Drafter, course and teacher of a run, without a process; `room`: bytes for the states of either split."""
    knobs: Recipe = recipe(DEFAULTS.model_copy(update={**KNOBS, **changed}))
    train, holdout = world.rows()
    teacher = Teacher(world.folder, torch.float32, torch.device("cpu"))
    vocabulary_D = draft_vocabulary(train, knobs.draft_vocab_size, VOCAB_SIZE)
    model = Eagle3(teacher.drafter_config(knobs.architecture, len(vocabulary_D)), teacher.embedding_VH)
    model.initialise(teacher.head_VH[vocabulary_D].float(), knobs.seed)
    learned = taught(teacher.grammars.known(train), knobs.constrained)
    judged = teacher.grammars.known(holdout)
    states = [made(folder / name, rows, teacher, room) for name, rows in (("train", learned), ("holdout", judged))]
    head_DH = teacher.head_VH[vocabulary_D]
    course = Course(
        recipe=replace(knobs),
        digest=world.dataset.digest,
        train=states[0],
        holdout=states[1],
        vocabulary_D=vocabulary_D,
        teacher=lambda last_CH: teacher.logits(last_CH, head_DH),
        device=torch.device("cpu"),
    )
    return model, course, teacher


def loop(model: Eagle3, course: Course, folder: Path) -> Loop:
    """Make a loop that keeps its checkpoints in `folder`."""
    checkpoints = Checkpoints(folder / "local", LocalStore(), f"file://{folder}/stored", "inputs")
    return Loop(model, course, checkpoints, threading.Event())


class Attempts:
    """Processes for one object, as a Job would start them one after another; each `pod` has its own scratch folder."""

    def __init__(self, world: World, config: TrainingConfig, folder: Path, launch: Sequence[str] = ()) -> None:
        """`launch`: arguments of the launcher, for several processes."""
        self.module = ["specop.trainer.launch", *launch] if launch else ["specop.trainer"]
        self.world = world
        self.config = config
        self.folder = folder
        self.termination = folder / "termination-log"
        self.stored = world.root / "out" / "runs" / config.uid

    def log(self, pod: str) -> Path:
        return self.folder / f"{pod}.log"

    def start(self, pod: str = "a") -> subprocess.Popen[bytes]:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.termination.unlink(missing_ok=True)
        options = ["--port=0", f"--work={self.folder}/{pod}", f"--termination-log={self.termination}"]
        environment = {"PYTHONPATH": str(ROOT / "src"), CONFIG_ENV: json.dumps(self.config.to_json())}
        with self.log(pod).open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", *self.module, *options], env={**os.environ, **environment}, stderr=log
            )

    def run(self, pod: str = "a") -> tuple[int, Outcome | None, str]:
        """Exit code, termination message, log."""
        code = self.start(pod).wait()
        said = Outcome.model_validate_json(self.termination.read_bytes()) if self.termination.exists() else None
        return code, said, self.log(pod).read_text()
