"""What the machine must have, asked before anything is started: each thing that is missing is one clear line."""

from __future__ import annotations

from local import console
from local.settings import Settings


def check(chosen: Settings) -> None: ...
