"""How good a drafter is for what it costs: `make bench-quality` writes build/bench/quality.json; about two hours.

It is: our trainer as its Job runs it, and speculators' model in the plainest loop (`quality_peer`), each with the best
of the same three learning rates by a validation part, three seeds, judged by our evaluator on requests that no run has
seen. A figure is a ratio of accepted tokens per draft (acceptance length - 1), its interval a paired bootstrap over
those requests. Rows: equal time and equal tokens against the peer; losses, architectures, teacher modes and training
data of ours against each other.
It is not: a figure of a large target. Teacher states are made before both sides' clocks start.

Two rows are confirmed by what a real engine accepts (`quality_served`).

How many steps fit the time is found first, one arm after the other with all threads and nothing beside it; the runs
then have that many steps, and go side by side with one thread each, which takes a third less time for all of them.

Resumable: each run is a JSON file under build/bench/quality/<size>/runs, its drafter and what the judge found beside
it, and what is there is not made again.
`--size tiny` takes minutes and shows only that all of this works.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks import peer
from benchmarks.quality_corpus import Corpus, corpora
from benchmarks.quality_judge import CONFIDENCE, Counts, Judge, accepted_length, bootstrap
from benchmarks.quality_plan import SIZES, Arm, Comparison
from specop.api.hyperparameters import Hyperparameters
from specop.api.jobs import CONFIG_ENV, Outcome, TrainingConfig
from specop.api.preset import defaults
from specop.storage.blobs import download_files, read_manifest
from specop.storage.local import LocalStore
from specop.trainer.batches import Plan, Row, read_rows
from specop.trainer.config import Recipe, recipe
from specop.trainer.export import read_drafter, write_drafter
from specop.trainer.model import Eagle3
from specop.trainer.teacher import Teacher
from specop.trainer.vocabulary import draft_vocabulary

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "build" / "bench"
CORES = len(os.sched_getaffinity(0))
TRIAL_STEPS = 36
ENGINE = {"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
Json = dict[str, Any]


class Bench:
    """All runs of a size. `work`: a folder's name, for what only one process writes; `threads`: those of a run."""

    def __init__(self, name: str, work: str = "alone", threads: int = CORES) -> None:
        self.size = SIZES[name]
        self.folder = OUT / "quality" / name
        self.work, self.threads = self.folder / "work" / work, threads
        self.corpora = corpora(name, self.folder / "corpora")
        self._judges: dict[str, Judge] = {}

    def judge(self, corpus: str) -> Judge:
        """Return the judge of a corpus."""
        if corpus not in self._judges:
            of = self.corpora[corpus]
            self._judges[corpus] = Judge(of.target, of.test, of.folder / "judged")
        return self._judges[corpus]

    def knobs(self, arm: Arm, rate: str, seed: int, steps: int) -> Hyperparameters:
        """Complete hyperparameters of a run."""
        changed = {"learningRate": rate, "seed": seed, "maxSteps": steps, "epochs": 1000, "checkpointSeconds": 86_400}
        given = {**self.size.knobs, **arm.knobs, **changed}
        usual = defaults(Hyperparameters.model_validate(given))
        return Hyperparameters.model_validate({**usual.to_json(), **given})

    def run(self, arm: Arm, rate: str, seed: int) -> Json:
        """Return a run and its judgement, each made if its file is missing."""
        file = self._file(arm, rate, seed)
        judged = file.with_suffix(".judged.json")
        if not file.exists():
            steps = self._steps(arm)
            print(f"{arm.name}, learning rate {rate}, seed {seed}: {steps} steps", flush=True)
            made = self._train(arm, self.knobs(arm, rate, seed, steps), self.corpora[arm.corpus])
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(self.drafter, file.with_suffix(""), dirs_exist_ok=True)
            judged.unlink(missing_ok=True)
            file.write_text(json.dumps({"arm": asdict(arm), "rate": rate, "seed": seed, "steps": steps, **made}))
        found: Json = json.loads(file.read_text())
        if not judged.exists():
            numbers = recipe(self.knobs(arm, rate, seed, found["steps"]))
            judged.write_text(json.dumps(self._judged(arm, numbers, file.with_suffix(""))))
        return {**found, **json.loads(judged.read_text())}

    def _file(self, arm: Arm, rate: str, seed: int) -> Path:
        name = arm.name.replace(", ", "-").replace(" ", "-")
        return self.folder / "runs" / f"{name}_{rate.replace('.', '')}_{seed}.json"

    def _steps(self, arm: Arm) -> int:
        """Optimiser steps that fit the budget: of time, by a short run's speed; or of another arm's tokens."""
        if arm.tokens_of is not None:
            steps: int = self.best(self.arm(arm.tokens_of))[0]["steps"]
            return max(2, steps)
        return max(12, round(self.size.seconds * self.speed(arm)))

    def speed(self, arm: Arm) -> float:
        """Return optimiser steps per second: of the faster of two short runs over few rows, states made before."""
        file = self.folder / "speeds.json"
        known: dict[str, float] = json.loads(file.read_text()) if file.exists() else {}
        if arm.name not in known:
            knobs = self.knobs(arm, self.size.rates[0], 0, TRIAL_STEPS)
            trials = [self._train(arm, knobs, self.corpora[f"{arm.corpus}-few"])["seconds"] for _ in range(2)]
            known[arm.name] = TRIAL_STEPS / min(trials)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(known))
        return known[arm.name]

    def best(self, arm: Arm) -> list[Json]:
        """Choose the learning rate on the validation part with the first seed, and make the other seeds' runs."""
        first = [self.run(arm, rate, 0) for rate in self.size.rates]
        rate = max(first, key=lambda run: accepted_length(run["validation"]["joint"]))["rate"]
        return [self.run(arm, rate, seed) for seed in range(self.size.seeds)]

    def arm(self, name: str) -> Arm:
        """Return an arm by its name."""
        return next(arm for arm in self.size.arms if arm.name == name)

    @property
    def drafter(self) -> Path:
        """Where training leaves what it made."""
        return self.work / "drafter"

    def _train(self, arm: Arm, knobs: Hyperparameters, corpus: Corpus) -> Json:
        """Train into the drafter's folder; seconds and tokens that it took."""
        shutil.rmtree(self.drafter, ignore_errors=True)
        return (self._peer if arm.peer else self._ours)(knobs, corpus)

    def _timed(self, name: str) -> Arm:
        """Return the arm whose speed an arm has."""
        arm = self.arm(name)
        return self.arm("ours") if arm.tokens_of else arm

    def _ours(self, knobs: Hyperparameters, corpus: Corpus) -> Json:
        """Run a training Job's process."""
        run = self.work / "ours"
        shutil.rmtree(run, ignore_errors=True)
        run.mkdir(parents=True)
        shared = self.folder / "work" / f"states-{corpus.folder.name}"
        shared.mkdir(parents=True, exist_ok=True)
        (run / "states").symlink_to(shared)  # the teacher's states are the same for all runs
        config = TrainingConfig(
            uid="bench",
            namespace="bench",
            name="run",
            output=f"file://{run}/out",
            target=f"file://{corpus.target}",
            dataset=corpus.dataset,
            hyperparameters=knobs,
        )
        environment = {CONFIG_ENV: json.dumps(config.to_json()), "OMP_NUM_THREADS": str(self.threads)}
        log = run / "termination.json"
        command = [sys.executable, "-m", "specop.trainer", "--port=0", f"--work={run}", f"--termination-log={log}"]
        done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr[-2000:])
        facts = Outcome.model_validate_json(log.read_text()).training
        assert facts
        manifest = read_manifest(LocalStore(), facts.drafter.uri, facts.drafter.digest)
        download_files(LocalStore(), facts.drafter.uri, manifest, self.drafter)
        point = manifest.info["curve"][-1]
        return {"seconds": point["seconds"], "tokens": point["tokens"]}

    def _peer(self, knobs: Hyperparameters, corpus: Corpus) -> Json:
        """Run the peer on the same packs, states and first weights."""
        teacher, numbers = self.judge("own").teacher, recipe(knobs)
        run = self.work / "peer"
        rows = read_rows([corpus.train], numbers.max_length, teacher.config.vocab_size)
        vocabulary_D = draft_vocabulary(rows, numbers.draft_vocab_size, teacher.config.vocab_size)
        model = Eagle3(teacher.drafter_config(numbers.architecture, len(vocabulary_D)), teacher.embedding_VH.float())
        model.initialise(teacher.head_VH[vocabulary_D].float(), numbers.seed)
        self._workload(run, corpus, rows, numbers, model, vocabulary_D)
        script = Path(__file__).with_name("quality_peer.py")
        command = [peer.binary(), "-P", script, run, run / "trained.safetensors", f"--threads={self.threads}"]
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr[-2000:])
        weights, steps = load_file(run / "trained.safetensors"), numbers.decoding_heads
        verifier = {"name_or_path": str(corpus.target), "architectures": []}
        write_drafter(self.drafter, model.config, weights, vocabulary_D, steps=steps, verifier=verifier)
        answer: Json = json.loads(done.stdout.splitlines()[-1])
        return answer

    def _workload(  # noqa: PLR0917 - all of one run
        self, run: Path, corpus: Corpus, rows: Sequence[Row], numbers: Recipe, model: Eagle3, vocabulary_D: Tensor
    ) -> None:
        """Write what `train_peer` reads. It norms final states itself, so the norm's weight goes into its head."""
        shutil.rmtree(run, ignore_errors=True)
        run.mkdir(parents=True)
        teacher = self.judge("own").teacher
        (run / "states").symlink_to(self._peer_states(corpus, rows, teacher))
        told = []
        for row in rows:
            taught = torch.zeros(row.length + 1, dtype=torch.int)
            for start, end in row.anchors:
                taught[start + 1 : end + 1] = 1
            told.append({"taught": taught.tolist()})
        plan = Plan([row.length for row in rows], "bench", numbers)
        packs = [members for step in range(plan.total) for members in plan.batch(step)]
        head_DH = teacher.head_VH[vocabulary_D].float() * teacher.model.base_model.norm.weight.float()
        weights = {f"drafter.{name}": tensor for name, tensor in model.state_dict().items()}
        save_file({**weights, "embedding": teacher.embedding_VH.clone(), "head": head_DH}, run / "weights.safetensors")
        said = {
            "drafter": asdict(model.config),
            "layer": model.config.llama(),
            "steps": numbers.decoding_heads,
            "dtype": numbers.compute_dtype,
            "step_decay": 1.0,
            "learning_rate": numbers.learning_rate,
            "warmup": numbers.warmup_fraction,
            "max_grad_norm": numbers.max_grad_norm,
            "packs": packs,
            "rows": told,
        }
        (run / "workload.json").write_text(json.dumps(said))

    def _peer_states(self, corpus: Corpus, rows: Sequence[Row], teacher: Teacher) -> Path:
        """Make the states of these rows in the peer's format, which all runs share."""
        folder = self.folder / "work" / f"peer-states-{corpus.folder.name}"
        if folder.exists():
            return folder
        part = self.work / "states"
        part.mkdir(parents=True, exist_ok=True)
        kept: list[Tensor] = []
        hook = teacher.model.base_model.norm.register_forward_pre_hook(lambda _module, given: kept.append(given[0]))
        with torch.no_grad():
            for number, row in enumerate(rows):
                kept.clear()
                ids = torch.tensor([row.ids[: row.length + 1]])
                out = teacher.model.base_model(input_ids=ids, use_cache=False, output_hidden_states=True)
                layers = [*(out.hidden_states[layer][0] for layer in teacher.layers), kept[0][0]]
                states = torch.stack(layers, dim=1).bfloat16()
                save_file({"hidden_states": states, "token_ids": ids[0]}, part / f"hs_{number}.safetensors")
        hook.remove()
        part.rename(folder)
        return folder

    def _judged(self, arm: Arm, numbers: Recipe, drafter: Path) -> Json:
        """Judge what was trained: on the test part, and on the validation part, by which learning rates are chosen."""
        judge = self.judge(arm.judged_on)
        wanted = judge.teacher.drafter_config(numbers.architecture, 0)
        model, vocabulary_D = read_drafter(drafter, judge.teacher.embedding_VH.float(), wanted)
        return {
            "test": judge.counts(model, vocabulary_D, numbers),
            "validation": self._validation(arm.corpus).counts(model, vocabulary_D, numbers),
        }

    def _validation(self, corpus: str) -> Judge:
        name = f"{corpus}/validation"
        if name not in self._judges:
            of = self.corpora[corpus]
            self._judges[name] = Judge(of.target, of.folder / "holdout-00000.parquet", of.folder / "chosen-by")
        return self._judges[name]

    def served(self, name: str) -> float:
        """Return accepted tokens per step of the target in an engine, of an arm's first seed."""
        arm = self.arm(name)
        run = self.best(arm)[0]
        file = self._file(arm, run["rate"], 0).with_suffix(".served.json")
        if not file.exists():
            corpus = self.corpora[arm.judged_on]
            steps = self.knobs(arm, run["rate"], 0, 1).decoding_heads
            given = (corpus.target, self._file(arm, run["rate"], 0).with_suffix(""), corpus.test, steps)
            command = [sys.executable, "-m", "benchmarks.quality_served", *map(str, given)]
            done = subprocess.run(command, env={**os.environ, **ENGINE}, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(done.stderr[-2000:])
            file.write_text(done.stdout.splitlines()[-1])
        return float(json.loads(file.read_text())["accepted_per_step"])

    def compare(self, row: Comparison) -> Json:
        """Compare two arms: means over seeds, an interval over requests."""
        arms = [self.best(self.arm(name)) for name in (row.arm, row.than)]
        served = [self.served(name) for name in (row.arm, row.than)] if row.name in self.size.served else None
        return {
            "row": row.name,
            **{way: _ratio([[run["test"][way] for run in runs] for runs in arms]) for way in ("joint", "walked")},
            **_served(served),
            "arms": [
                {
                    "arm": name,
                    "learning_rate": runs[0]["rate"],
                    "joint_length": [round(1 + accepted_length(run["test"]["joint"]), 4) for run in runs],
                    "walked_length": [round(1 + accepted_length(run["test"]["walked"]), 4) for run in runs],
                    "steps": runs[0]["steps"],
                    "tokens": [run["tokens"] for run in runs],
                    "seconds_alone": round(runs[0]["steps"] / self.speed(self._timed(name)), 1),
                }
                for name, runs in zip((row.arm, row.than), arms, strict=True)
            ],
        }


def _ratio(arms: Sequence[Sequence[Counts]]) -> Json:
    ratio, low, high = bootstrap(*arms)
    return {"ratio": round(ratio, 4), "interval": [round(low, 4), round(high, 4)]}


def _served(found: list[float] | None) -> Json:
    if found is None:
        return {}
    return {"served": [round(value, 4) for value in found], "served_ratio": round(found[0] / found[1], 4)}


def _cell(found: Json) -> str:
    low, high = found["interval"]
    return f"{found['ratio']:7.3f} [{low:.3f}, {high:.3f}]"


def make(size: str, name: str) -> None:
    """Make the runs of an arm, in a process of its own, with one thread."""
    torch.set_num_threads(1)
    bench = Bench(size, name.replace(" ", "-"), threads=1)
    bench.best(bench.arm(name))


def main() -> None:
    """Run what is missing, print and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__.partition("\n")[0])
    parser.add_argument("--size", choices=list(SIZES), default="demo")
    given = parser.parse_args()
    bench = Bench(given.size)
    for arm in bench.size.arms:
        bench.knobs(arm, bench.size.rates[0], 0, 1)  # what this version does not know ends it now, not in an hour
    for arm in bench.size.arms:  # one after the other, so that no arm has a busier machine than the next
        if arm.tokens_of is None:
            print(f"{arm.name}: {bench.speed(arm):.2f} steps/s", flush=True)
    with ProcessPoolExecutor(CORES, mp_context=multiprocessing.get_context("spawn")) as pool:
        for after in (False, True):
            names = [arm.name for arm in bench.size.arms if bool(arm.tokens_of) is after]
            list(pool.map(partial(make, given.size), names))
    rows = []
    print(f"{'':32} joint at every position     as an engine walks")
    for row in bench.size.rows:
        rows.append(bench.compare(row))
        print(f"{row.name:32} " + "   ".join(_cell(rows[-1][way]) for way in ("joint", "walked")), flush=True)
    report = OUT / ("quality.json" if given.size == "demo" else f"quality-{given.size}.json")
    said = {
        "size": given.size,
        "seconds_each_run": bench.size.seconds,
        "learning_rates": list(bench.size.rates),
        "seeds": bench.size.seeds,
        "requests": len(bench.judge("own").rows),
        "confidence": CONFIDENCE,
        "peer": "unmodified Eagle3DraftModel of speculators in the plainest loop, head trained, its own step weights",
        "rows": rows,
    }
    report.write_text(json.dumps(said, indent=1) + "\n")
    print(report.relative_to(ROOT))


if __name__ == "__main__":
    main()
