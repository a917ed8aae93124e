"""A file of tensors that is whole or not there: safetensors, a checksum, a name that it gets last.

A process killed while it writes leaves a `.part` file that nobody reads; bytes that changed on a disk or in transit are
found by the checksum. Readers treat a damaged file as an absent one.
"""

import errno
import json
import logging
import zlib
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from specop.api.shared import Json

log = logging.getLogger(__name__)


def write_tensors(file: Path, tensors: dict[str, Tensor], info: Json) -> None:
    """Write tensors and JSON-ready `info`; the file appears under its name when it is complete.

    Raises OSError ENOSPC where the disk is full; the library says so in words only.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(info)
    part = file.with_suffix(".part")
    try:
        save_file(tensors, part, metadata={"info": text, "checksum": _checksum(tensors, text)})
    except SafetensorError as error:
        part.unlink(missing_ok=True)
        if f"os error {errno.ENOSPC}" in str(error):
            raise OSError(errno.ENOSPC, "No space left on device", str(part)) from error
        raise
    part.replace(file)


def read_tensors(file: Path, *, check: bool = True) -> tuple[dict[str, Tensor], Json] | None:
    """Tensors, mapped from the file, and info; None where the file is absent or damaged.

    `check=False` trusts the bytes: for what was written a moment ago.
    """
    try:
        with safe_open(file, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - it is no dict
            metadata = opened.metadata() or {}
    except FileNotFoundError:
        return None
    except (SafetensorError, OSError):
        log.warning("%s is damaged and ignored", file.name)
        return None
    text = metadata.get("info", "")
    if check and metadata.get("checksum") != _checksum(tensors, text):
        log.warning("%s is damaged and ignored", file.name)
        return None
    return tensors, json.loads(text)


def _checksum(tensors: dict[str, Tensor], info: str) -> str:
    total = zlib.crc32(info.encode())
    for name in sorted(tensors):
        total = zlib.crc32(tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy().data, total)
    return f"{total:08x}"
