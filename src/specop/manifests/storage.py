"""How a pod reaches object storage: which settings hold, and what of them goes into a container.

PURE. Each setting comes from the most special place that says something: the source or the capture, then the object,
then the operator's defaults. Credentials never pass through here: a pod gets them by `envFrom` or its ServiceAccount.
"""

from dataclasses import dataclass

from specop.api.base import Uri
from specop.api.jobs import StoreConfig
from specop.api.shared import Credentials, Json, KeyRef, Storage
from specop.manifests.runtime import StorageDefaults

CA_FOLDER = "/etc/specop/ca"
"""Certificates lie at `<folder>/<ConfigMap>/<key>`."""


@dataclass(frozen=True, slots=True)
class ResolvedStorage:
    """Storage with nothing left to look up."""

    output: Uri | None
    endpoint_url: str | None
    region: str | None
    ca_bundle: KeyRef | None
    credentials: Credentials

    def store_config(self) -> StoreConfig:
        """Give the settings of the store as the process in the pod reads them."""
        path = f"{CA_FOLDER}/{self.ca_bundle.name}/{self.ca_bundle.key}" if self.ca_bundle else None
        return StoreConfig(endpoint_url=self.endpoint_url, region=self.region, ca_bundle=path)

    def env_from(self) -> list[Json]:
        """Give the Secret as environment, where the credentials are a Secret."""
        secret = self.credentials.secret_ref
        return [{"secretRef": {"name": secret.name}}] if secret else []


def resolve_storage(defaults: StorageDefaults, *layers: Storage | None) -> ResolvedStorage:
    """Merge storage blocks field by field; the first layer that sets a field wins, then the defaults."""
    chain = [layer for layer in layers if layer is not None]
    return ResolvedStorage(
        output=next((layer.output for layer in chain if layer.output), defaults.output),
        endpoint_url=next((layer.endpoint_url for layer in chain if layer.endpoint_url), defaults.endpoint_url),
        region=next((layer.region for layer in chain if layer.region), defaults.region),
        ca_bundle=next((layer.ca_bundle_ref for layer in chain if layer.ca_bundle_ref), None),
        credentials=next((layer.credentials for layer in chain if layer.credentials), defaults.credentials),
    )


def ca_volumes(*storages: ResolvedStorage) -> tuple[list[Json], list[Json]]:
    """Volumes and mounts of every certificate bundle that these storages name; both empty where none does."""
    names = sorted({storage.ca_bundle.name for storage in storages if storage.ca_bundle})
    volumes: list[Json] = [{"name": f"ca-{index}", "configMap": {"name": name}} for index, name in enumerate(names)]
    mounts: list[Json] = [
        {"name": f"ca-{index}", "mountPath": f"{CA_FOLDER}/{name}", "readOnly": True}
        for index, name in enumerate(names)
    ]
    return volumes, mounts
