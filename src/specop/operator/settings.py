"""What an administrator chooses: one JSON file, written by the chart from its values."""

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from specop.api.base import Model
from specop.manifests.runtime import Runtimes

PATH_ENV = "SPECOP_SETTINGS"
DEFAULT_PATH = "/etc/specop/settings.json"


class Settings(Model):
    """Everything that the operator can be told."""

    runtimes: Runtimes = Field(description="Images and commands of the pods that it makes.")
    watch_namespaces: list[str] = Field(default_factory=list, description="Empty means all namespaces.")
    workers: Annotated[int, Field(ge=1, le=256)] = Field(default=16, description="Reconciles at a time.")
    resync_seconds: Annotated[float, Field(ge=10)] = Field(default=600, description="Time between full lists.")
    scrape_seconds: Annotated[float, Field(gt=0)] = Field(default=10, description="Time between looks at pods' pages.")
    measured_seconds: Annotated[float, Field(gt=0)] = Field(
        default=60, description="Least time between two figures of an endpoint in status."
    )
    lease: bool = Field(default=False, description="Stand by until the Lease is free; for more than one replica.")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(default=8080, description="/metrics, /healthz, /readyz.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"


def load() -> Settings:
    """Read the settings file; raises OSError or pydantic's ValidationError, both fit for a person to read."""
    return Settings.model_validate_json(Path(os.environ.get(PATH_ENV, DEFAULT_PATH)).read_text())
