"""Object storage as the command line reaches it: with the user's own credentials, never the cluster's.

It is: lineage of datasets read, files of a user put where a dataset's `upload` source looks for them.
It is not: imported by other commands, which do without `specop[data]` (boto3, pyarrow).
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from specop.api.jobs import StoreConfig
from specop.api.shared import Json, Storage
from specop.cli.errors import CliError
from specop.cli.lineage import Artefact, Found, Kind, Made, Question
from specop.common.errors import Retryable, UserError
from specop.common.names import upload_prefix
from specop.storage.base import NotFound
from specop.storage.blobs import blob_uri, output_of, read_manifest
from specop.storage.stores import open_store
from specop.storage.uri import join

_LINEAGE = "lineage.parquet"
_COLUMNS = ["source", "object", "etag", "time", "tenant"]


def store_config(storage: Storage | None, endpoint_url: str | None) -> StoreConfig:
    """Say how the user reaches a store: what the command line says, else the environment, else the object's spec."""
    url = endpoint_url or os.environ.get("AWS_ENDPOINT_URL") or (storage.endpoint_url if storage else None)
    region = os.environ.get("AWS_REGION") or (storage.region if storage else None)
    return StoreConfig(endpoint_url=url, region=region, ca_bundle=os.environ.get("AWS_CA_BUNDLE"))


def read_made(artefact: Artefact, question: Question, endpoint_url: str | None) -> Made | None:
    """Read what a manifest says, and sum a dataset's conversations that are meant, by object. Raises CliError."""
    try:
        store = open_store(artefact.uri, store_config(artefact.storage, endpoint_url))
        manifest = read_manifest(store, artefact.uri, artefact.digest)
        info, storage = manifest.info, artefact.storage
        if artefact.kind == "drafter":
            of = _artefacts("dataset", [info.get("dataset")], storage) + _artefacts(
                "drafter", [info.get("parent")], storage
            )
            return Made(info.get("run", {}).get("name", artefact.name), of)
        of = _artefacts("dataset", info.get("datasets", []), storage)
        if all(entry.name != _LINEAGE for entry in manifest.files):
            return Made(info.get("name", artefact.name), of)
        data = store.get(blob_uri(output_of(artefact.uri), manifest.file(_LINEAGE).blob))
        table = pq.read_table(pa.BufferReader(data), columns=_COLUMNS)
    except NotFound:
        return None
    except (UserError, Retryable) as error:
        raise CliError(f"{artefact.kind} {artefact.name or artefact.digest}: {error}") from error
    return Made(info.get("name", artefact.name), of, _summed(table, question))


def _artefacts(kind: Kind, said: Sequence[Json | None], storage: Storage | None) -> tuple[Artefact, ...]:
    return tuple(Artefact(kind, one["digest"], "", one["uri"], storage) for one in said if one)


def _summed(table: Any, question: Question) -> tuple[Found, ...]:
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
    names = ("source", "object", "etag", "time_count", "time_min", "time_max")
    return tuple(
        Found(*(one[name] for name in names)) for one in sorted(found, key=lambda one: (one["source"], one["object"]))
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
