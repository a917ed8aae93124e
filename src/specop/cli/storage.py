"""Object storage as the command line reaches it: with the user's own credentials, never the cluster's.

It is: lineage of datasets read, files of a user put where a dataset's `upload` source looks for them.
It is not: imported by other commands, which do without `specop[data]` (boto3, pyarrow).
"""

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from specop.api.dataset import SpeculatorDataset
from specop.api.jobs import StoreConfig
from specop.api.shared import Storage
from specop.cli.errors import CliError
from specop.cli.lineage import Found, Question
from specop.common.errors import Retryable, UserError
from specop.common.names import upload_prefix
from specop.storage.blobs import blob_uri, read_manifest
from specop.storage.stores import open_store
from specop.storage.uri import join

_LINEAGE = "lineage.parquet"
_COLUMNS = ["source", "object", "etag", "time", "tenant"]


def store_config(storage: Storage | None, endpoint_url: str | None) -> StoreConfig:
    """Say how the user reaches a store: what the command line says, else the environment, else the object's spec."""
    url = endpoint_url or os.environ.get("AWS_ENDPOINT_URL") or (storage.endpoint_url if storage else None)
    region = os.environ.get("AWS_REGION") or (storage.region if storage else None)
    return StoreConfig(endpoint_url=url, region=region, ca_bundle=os.environ.get("AWS_CA_BUNDLE"))


def lineage_rows(dataset: SpeculatorDataset, question: Question, endpoint_url: str | None) -> list[Found]:
    """Sum the conversations of a dataset that are meant, by object. Raises CliError."""
    result = dataset.status.result
    resolved = dataset.status.resolved
    if result is None or resolved is None:
        return []
    try:
        store = open_store(result.uri, store_config(dataset.spec.storage, endpoint_url))
        manifest = read_manifest(store, result.uri, result.digest)
        if all(entry.name != _LINEAGE for entry in manifest.files):
            return []
        data = store.get(blob_uri(resolved.output, manifest.file(_LINEAGE).blob))
        table = pq.read_table(pa.BufferReader(data), columns=_COLUMNS)
    except (UserError, Retryable) as error:
        raise CliError(f"dataset {dataset.metadata.name}: {error}") from error
    return _summed(table, question)


def _summed(table: Any, question: Question) -> list[Found]:
    if question.object is not None:
        table = table.filter(pc.starts_with(table["object"], question.object))
    if question.tenant is not None:
        table = table.filter(pc.equal(table["tenant"], question.tenant))
    if question.since is not None:
        table = table.filter(pc.greater_equal(table["time"], question.since))
    if question.until is not None:
        table = table.filter(pc.and_(pc.less(table["time"], question.until), pc.not_equal(table["time"], "")))
    groups = table.group_by(["source", "object", "etag"])
    found = groups.aggregate([("time", "count"), ("time", "min"), ("time", "max")]).to_pylist()
    return sorted(
        (
            Found(one["source"], one["object"], one["etag"], one["time_count"], one["time_min"], one["time_max"])
            for one in found
        ),
        key=lambda one: (one.source, one.object),
    )


def upload(output: str, namespace: str, name: str, files: list[Path], config: StoreConfig) -> list[str]:
    """Put files where the `upload` source of a dataset looks for them; returns their URIs. Raises CliError."""
    missing = [str(path) for path in files if not path.is_file()]
    if missing:
        raise CliError(f"no such file: {', '.join(missing)}")
    if len({path.name for path in files}) < len(files):
        raise CliError("two files have the same name: rename one, for they lie beside each other")
    try:
        store = open_store(output, config)
        uris = [join(upload_prefix(output, namespace, name), path.name) for path in files]
        for path, uri in zip(files, uris, strict=True):
            store.upload(path, uri)
    except (UserError, Retryable) as error:
        raise CliError(str(error)) from error
    return uris
