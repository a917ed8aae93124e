"""From a URI to the store that holds it."""

from specop.api.jobs import StoreConfig
from specop.storage.base import Store
from specop.storage.local import LocalStore
from specop.storage.s3 import S3Store
from specop.storage.uri import parse


def open_store(uri: str, config: StoreConfig) -> Store:
    """Return the store of this URI's scheme, without a request. Raises UserError(InvalidSpec) for other schemes."""
    return LocalStore() if parse(uri).scheme == "file" else S3Store(config)
