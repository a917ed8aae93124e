"""What a run needs of its node's scratch disk, reckoned before anything is downloaded.

Needed are the files that are read, and checkpoints with the export. The teacher's states take what is left of it
(`cache.py`) and are no need. What an attempt before has left in the scratch folder is this run's own, and counts as
free: a pod that starts again is not refused for what it wrote itself.
"""

import shutil
from pathlib import Path

from specop.api import reasons
from specop.api.estimate import checkpoint_bytes
from specop.common.errors import UserError
from specop.trainer.checkpoint import KEPT
from specop.trainer.config import Recipe

SPARE_BYTES = 1 << 30
"""Left free on disk beside everything that is reckoned."""
MEBIBYTE = 1 << 20


def reserved(knobs: Recipe, parameters: int) -> int:
    """Bytes for checkpoints of so many parameters, one that is being written among them, and some to spare."""
    return SPARE_BYTES + (KEPT + 1) * checkpoint_bytes(parameters, averaged=knobs.ema_decay is not None)


def taken(folder: Path) -> int:
    """Bytes of the files in and below a folder; 0 where there is none."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def check_room(work: Path, downloads: int, knobs: Recipe, parameters: int) -> None:
    """Raise UserError DiskFull where so many bytes of files, and the checkpoints, have no room in a scratch folder."""
    work.mkdir(parents=True, exist_ok=True)
    checkpoints, free = reserved(knobs, parameters), shutil.disk_usage(work).free + taken(work)
    lacking = downloads + checkpoints - free
    if lacking > 0:
        raise UserError(
            reasons.DISK_FULL,
            f"Target, dataset and parent take {downloads // MEBIBYTE} MiB of scratch space, checkpoints of the drafter "
            f"{checkpoints // MEBIBYTE}, and there are {free // MEBIBYTE}: give the pods {lacking // MEBIBYTE + 1} MiB "
            "more ephemeral storage.",
        )
