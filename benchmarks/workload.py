"""What both trainers train on: random rows of realistic lengths, random states, one set of weights, on disk.

A folder holds `workload.json` (sizes, rows, packs in order), `weights.safetensors`, and, in the peer's format,
`states/hs_<row>.safetensors`: captured and final states of every token, in bfloat16. Our blocks hold the same numbers.
How fast a step is does not depend on what the states say; how long the rows are and what is supervised does.

Minds: the peer norms the final state itself, ours is kept normed; with a norm weight of 1 both are the same.
"""

import json
import math
import random
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from specop.api.hyperparameters import Hyperparameters
from specop.api.preset import DEFAULTS
from specop.trainer.batches import Plan, Row
from specop.trainer.config import DTYPES, Recipe, recipe
from specop.trainer.model import DrafterConfig, Eagle3
from specop.trainer.states import Sizes, States
from specop.trainer.teacher import RowStates

MEDIAN_TOKENS, SPREAD, LEAST_TOKENS = 380, 0.6, 64
"""Of the log-normal lengths of rows: requests of an agent, with their history."""
TURNS = 2
DIGEST = "bench"


@dataclass(frozen=True, slots=True)
class Workload:
    """What is trained on; tensors are functions of it."""

    drafter: DrafterConfig
    steps: int
    """Draft steps."""
    pack_tokens: int
    dtype: str
    """Of the matrix products."""
    optimiser_steps: int
    rows: Sequence[Row]
    seed: int

    @property
    def recipe(self) -> Recipe:
        """Our trainer's recipe for it: plain KL, and nothing but training until the end."""
        changed = {
            "architecture": self.drafter.architecture,
            "decodingHeads": self.steps,
            "draftVocabSize": self.drafter.draft_vocab_size,
            "loss": [{"name": "KL", "weight": "1"}],
            "batchTokens": self.pack_tokens,
            "computeDtype": self.dtype,
            "epochs": 1000,
            "maxSteps": self.optimiser_steps,
            "evaluations": 1,
            "checkpointSeconds": 86_400,
            "seed": self.seed,
        }
        return recipe(Hyperparameters.model_validate({**DEFAULTS.to_json(), **changed}))

    @property
    def packs(self) -> list[list[int]]:
        """Rows of each optimiser step, as our trainer plans them: one pack each."""
        plan = Plan([row.length for row in self.rows], DIGEST, self.recipe)
        return [members for step in range(self.optimiser_steps) for members in plan.batch(step)]

    @property
    def fraction(self) -> float:
        """Share of the input tokens that are anchors."""
        return sum(row.labels(1)[0] for row in self.rows) / sum(row.length for row in self.rows)


def draw_rows(
    count: int, fraction: float, max_length: int, vocab_size: int, *, median: int = MEDIAN_TOKENS, seed: int = 1
) -> list[Row]:
    """Draw rows of which about `fraction` of the tokens were generated, in turns that end where the row ends."""
    chance = random.Random(seed)
    found = []
    for number in range(count):
        drawn = round(chance.lognormvariate(math.log(median), SPREAD))
        turn = min(max(drawn, LEAST_TOKENS), max_length) // TURNS
        length, said = turn * TURNS, max(3, round(fraction * turn))
        ends = range(turn, length + 1, turn)
        spans = ((0, length),) if fraction >= 1 else tuple((end - said, end) for end in ends)
        ids = tuple(chance.randrange(vocab_size) for _ in range(length))
        found.append(Row(f"{seed}-{number}", ids, spans, constrained=False, temperature=0.0))
    return found


class Tensors:
    """The random tensors of a workload, the same in every process."""

    def __init__(self, workload: Workload, device: str = "cpu") -> None:
        c = workload.drafter
        self._workload, self._device = workload, device
        self.embedding_VH = self._random(0, c.vocab_size, c.hidden_size).bfloat16()
        self.head_DH = self._random(1, c.draft_vocab_size, c.hidden_size) * c.hidden_size**-0.5
        self.vocabulary_D = self._random(2, c.vocab_size).argsort()[: c.draft_vocab_size].sort().values

    def _random(self, what: int, *shape: int) -> Tensor:
        generator = torch.Generator(self._device).manual_seed(self._workload.seed + what)
        return torch.randn(shape, generator=generator, device=self._device)

    def states(self, row: int) -> Tensor:
        """Draw a row's captured states and, last, the final one before its norm; one token more: (n + 1, C + 1, H)."""
        c = self._workload.drafter
        return self._random(
            3 + row, self._workload.rows[row].length + 1, len(c.aux_layers) + 1, c.hidden_size
        ).bfloat16()

    def drafter(self) -> Eagle3:
        """Return a new drafter, with the weights from which both trainers start."""
        model = Eagle3(self._workload.drafter, self.embedding_VH.float())
        model.initialise(self.head_DH, self._workload.seed)
        return model

    def teacher(self, last_CH: Tensor) -> Tensor:
        """Return the teacher's logits on the draft vocabulary, in the dtype of the run."""
        dtype = DTYPES[self._workload.dtype]
        logits_CD: Tensor = last_CH.to(dtype) @ self.head_DH.to(last_CH.device, dtype).T
        return logits_CD


class Drawn:
    """A teacher that takes what it says from the workload instead of running a model."""

    def __init__(self, workload: Workload, tensors: Tensors) -> None:
        self.config = workload.drafter
        self.layers = workload.drafter.aux_layers
        self._tensors = tensors
        self._index = {row.key: index for index, row in enumerate(workload.rows)}

    def states(self, rows: Sequence[Row]) -> list[RowStates]:
        """States of some rows; all of the target's probability lies on the draft vocabulary."""
        return [self._row(row) for row in rows]

    def _row(self, row: Row) -> RowStates:
        states_nCH = self._tensors.states(self._index[row.key])
        label_a = torch.cat([torch.arange(start + 1, end + 1) for start, end in row.anchors])
        last_aH = normed(states_nCH[label_a, -1].float(), self.config).bfloat16()
        logits_aD = last_aH.float() @ self._tensors.head_DH.T
        lse_a, best = logits_aD.logsumexp(-1), logits_aD.max(-1)
        scalars = (lse_a, self._tensors.vocabulary_D[best.indices].int(), best.values - lse_a)
        return RowStates(*(x.cpu() for x in (states_nCH[: row.length, :-1], last_aH, *scalars)))


def normed(last_aH: Tensor, config: DrafterConfig) -> Tensor:
    """Norm final states as a target does, with weight 1."""
    normed_aH: Tensor = functional.rms_norm(last_aH, (config.hidden_size,), eps=config.rms_norm_eps)
    return normed_aH


def sizes(workload: Workload) -> Sizes:
    """Return what a row's states weigh."""
    return Sizes(workload.drafter.hidden_size, len(workload.drafter.aux_layers))


def blocks(folder: Path, workload: Workload, tensors: Tensors) -> States:
    """Return the workload's states as our trainer keeps them."""
    states = States(folder / "blocks", workload.rows, Drawn(workload, tensors), sizes(workload))
    states.fit(sys.maxsize)
    states.make(states.missing(), lambda _: None)
    return states


def write(folder: Path, workload: Workload) -> None:
    """Write all that the peer reads, and our blocks."""
    tensors = Tensors(workload)
    (folder / "states").mkdir(parents=True)
    for number, row in enumerate(workload.rows):
        ids = row.ids[: row.length + 1]
        file = folder / "states" / f"hs_{number}.safetensors"
        save_file({"hidden_states": tensors.states(number), "token_ids": torch.tensor(ids)}, file)
    weights = {f"drafter.{name}": tensor for name, tensor in tensors.drafter().state_dict().items()}
    save_file({**weights, "embedding": tensors.embedding_VH, "head": tensors.head_DH}, folder / "weights.safetensors")
    write_plan(folder, workload)
    blocks(folder, workload, tensors)


def write_plan(folder: Path, workload: Workload) -> None:
    """Write what `read` reads."""
    rows = []
    for row in workload.rows:
        taught = torch.zeros(row.length + 1, dtype=torch.bool)
        for start, end in row.anchors:
            taught[start + 1 : end + 1] = True
        rows.append({"ids": row.ids, "spans": row.spans, "taught": taught.int().tolist()})
    plan = {
        **{name: getattr(workload, name) for name in ("steps", "pack_tokens", "dtype", "optimiser_steps", "seed")},
        "drafter": asdict(workload.drafter),
        "layer": workload.drafter.llama(),
        "step_decay": workload.recipe.step_decay,
        "learning_rate": workload.recipe.learning_rate,
        "max_grad_norm": workload.recipe.max_grad_norm,
        "packs": workload.packs,
        "rows": rows,
    }
    (folder / "workload.json").write_text(json.dumps(plan))


def read(folder: Path) -> Workload:
    """Read what `write_plan` wrote."""
    plan: dict[str, Any] = json.loads((folder / "workload.json").read_text())
    drafter = DrafterConfig(**{**plan["drafter"], "aux_layers": tuple(plan["drafter"]["aux_layers"])})
    rows = [
        Row(f"{plan['seed']}-{n}", tuple(row["ids"]), tuple(map(tuple, row["spans"])), constrained=False, temperature=0)
        for n, row in enumerate(plan["rows"])
    ]
    return Workload(
        drafter, plan["steps"], plan["pack_tokens"], plan["dtype"], plan["optimiser_steps"], rows, plan["seed"]
    )
