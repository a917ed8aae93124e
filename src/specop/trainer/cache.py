"""How many of the teacher's states a node keeps, and making them before the training begins.

The room is what is free on the scratch disk, less what checkpoints and the export need (`disk.py`), and no more than
was allowed.
The holdout goes first: it is read at every evaluation. Rows that a node will read once at most (fewer passes over the
dataset than there are nodes) are not worth a write: their states are made with the packs that they are in.

Every process of a node makes a part of its node's blocks; nodes share nothing.
"""

import logging
import shutil
from pathlib import Path

from specop.api import reasons
from specop.api.jobs import TrainingConfig
from specop.common.errors import UserError
from specop.common.hashing import digest, short
from specop.storage.job import Job
from specop.trainer.config import Recipe
from specop.trainer.disk import reserved, taken
from specop.trainer.grammar import taught
from specop.trainer.group import Group
from specop.trainer.inputs import Inputs
from specop.trainer.states import NAMES, Sizes, States
from specop.trainer.teacher import Teacher

log = logging.getLogger(__name__)


def make_states(
    job: Job[TrainingConfig], knobs: Recipe, inputs: Inputs, teacher: Teacher, group: Group, *, parameters: int
) -> tuple[States, States]:
    """Return the states of training rows and holdout, those on disk that are to be there. Collective.

    `parameters`: how many the drafter has. Raises UserError DiskFull, before the teacher starts, where not even
    checkpoints would fit.
    """
    depends = {
        "dataset": job.config.dataset.digest,
        "target": inputs.facts.fingerprint,
        "quantization": inputs.facts.quantization,
        "layers": list(teacher.layers),
        "dtype": knobs.compute_dtype,
        "length": knobs.max_length,
        "long": knobs.long_rows,
        "constrained": knobs.constrained,
        "tensors": NAMES,
    }
    folder = job.work_dir / "states" / short(digest(depends), 16)
    sizes = Sizes(teacher.config.hidden_size, len(teacher.layers))
    grammars = teacher.grammars
    rows = grammars.known(inputs.train, job.check) if knobs.constrained == "Masked" else inputs.train
    train = States(folder / "train", taught(rows, knobs.constrained), teacher, sizes, grammars.masks)
    judged = grammars.known(inputs.holdout, job.check)
    holdout = States(folder / "holdout", judged, teacher, sizes, grammars.masks)
    first = group.place.rank - group.place.local_rank
    room = group.gather(_room(job, folder, train.present() + holdout.present(), reserved(knobs, parameters)))[first]
    left = holdout.fit(room)
    if passes(inputs, knobs) > group.place.nodes:
        train.fit(left)
    part = slice(group.place.local_rank, None, group.place.local_size)
    for name, states in (("holdout", holdout), ("train", train)):
        states.make(states.missing(part), lambda _: job.check())
        group.meet(f"states/{name}")
        states.load()
        log.info("states of %s: %d of %d blocks are on disk", name, states.kept, states.blocks)
    return train, holdout


def passes(inputs: Inputs, knobs: Recipe) -> float:
    """How often the run reads the dataset."""
    if knobs.max_steps is None:
        return knobs.epochs
    tokens = sum(row.length for row in inputs.train)
    return min(knobs.epochs, knobs.max_steps * knobs.batch_tokens / tokens)


def _room(job: Job[TrainingConfig], folder: Path, present: int, needed: int) -> int:
    """Bytes that states may take on this node, beside so many for checkpoints and the export."""
    folder.mkdir(parents=True, exist_ok=True)
    needed -= sum(taken(job.work_dir / name) for name in ("checkpoints", "drafter"))
    free = shutil.disk_usage(folder).free + present - needed
    if free < 0:
        raise UserError(
            reasons.DISK_FULL,
            f"Checkpoints of this target's drafter need {-free >> 20} MiB more scratch space than there is: give the "
            "pods more ephemeral storage.",
        )
    allowed = job.config.state_cache_bytes
    return free if allowed is None else min(free, allowed)
