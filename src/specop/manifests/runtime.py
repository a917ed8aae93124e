"""How pods of each role run on this cluster: all that differs between a GPU cluster and one small machine."""

from typing import Annotated, Literal

from pydantic import Field

from specop.api.base import Model, Uri
from specop.api.shared import Credentials, SecretRef


class Mount(Model):
    """A read-only PersistentVolumeClaim, by name, in the pod's namespace."""

    claim_name: str
    mount_path: str


class Runtime(Model):
    """Image and command of one role. `command` is the interpreter; what to run (`-m specop.…`) is appended."""

    image: str
    image_pull_policy: str = "IfNotPresent"
    command: list[str] = Field(default_factory=lambda: ["python3"])
    env: dict[str, str] = Field(default_factory=dict)
    mounts: list[Mount] = Field(default_factory=list)
    resources: dict[str, dict[str, str]] = Field(default_factory=dict, description="Default requests and limits.")


class StorageDefaults(Model):
    """Storage of objects that say nothing."""

    output: Uri | None = None
    endpoint_url: str | None = None
    region: str | None = None
    credentials: Credentials = Field(default_factory=lambda: Credentials(secret_ref=SecretRef(name="specop-storage")))


class Runtimes(Model):
    """All roles, from chart values."""

    data: Runtime = Field(description="Dataset and inspect Jobs.")
    trainer: Runtime
    serving: Runtime = Field(description="The engine.")
    companion: Runtime = Field(description="fetch and the companion, beside the engine.")
    storage: StorageDefaults = Field(default_factory=StorageDefaults)
    job_ttl_seconds: Annotated[int, Field(ge=60)] = 86_400
    unproven_targets: Literal["Warn", "Refuse"] = Field(
        default="Warn", description="Whether a drafter may be trained for a target of a family that is not proven."
    )
