"""The rows of another dataset as objects to read: its shards, by its manifest, if they are of the target's own tokens.

A manifest says by digest what it is of, and so do its files: every shard is read once and compared before any row is
used, so that a dataset that names another by its digest was made of nothing else. What is read later is pinned to the
etag of what was compared.
"""

import hashlib
from collections.abc import Callable, Iterator

from specop.api import reasons
from specop.api.shared import Json, TargetFacts, Weights
from specop.common.errors import UserError
from specop.data.columnar import column_names
from specop.data.writer import ROWS
from specop.storage.base import NotFound, ObjectInfo, Store
from specop.storage.blobs import FileEntry, Manifest, blob_uri, output_of, read_manifest

_SPLITS = ("train-", "holdout-")
_SAME = {"tokenizer": "tokenizerHash", "chat template": "chatTemplateHash"}
"""What rows of tokens rest on, and where a contract has its hash."""


def find_shards(
    store: Store, source: str, dataset: Weights, target: TargetFacts, passed: Callable[[int], None]
) -> Iterator[ObjectInfo]:
    """Yield the shards of a dataset, of training rows and of held-out ones.

    `passed` is told of stored bytes as they are read.
    Raises UserError: TokenizerMismatch, DatasetCorrupt, ObjectNotFound.
    """
    try:
        manifest = read_manifest(store, dataset.uri, dataset.digest)
        _check_tokens(source, manifest, target.to_json())
        output = output_of(dataset.uri)
        for entry in manifest.files:
            if entry.name.startswith(_SPLITS) and entry.name.endswith(".parquet"):
                info = store.head(blob_uri(output, entry.blob))
                _check_bytes(store, info, entry, passed)
                _check_columns(store, info, source, manifest)
                yield info
    except NotFound as error:
        raise UserError(
            reasons.OBJECT_NOT_FOUND,
            f"Source {source!r}: of dataset {dataset.digest} a file is gone: {error} Make that dataset again, or name "
            "another one in datasetRef.",
        ) from error


def _check_tokens(source: str, manifest: Manifest, target: Json) -> None:
    found = manifest.contract.get("target") or {}
    others = [what for what, field in _SAME.items() if found.get(field) != target[field]]
    if others:
        raise UserError(
            reasons.TOKENIZER_MISMATCH,
            f"Source {source!r}: the rows of dataset {manifest.digest} were made with another {' and '.join(others)} "
            "than the target's, and tokens are not made anew. Use the same target, or name that dataset's own sources "
            "in the place of datasetRef.",
        )


def _check_bytes(store: Store, info: ObjectInfo, entry: FileEntry, passed: Callable[[int], None]) -> None:
    hasher = hashlib.sha256()
    for piece in store.stream(info.uri, info.etag):
        hasher.update(piece)
        passed(len(piece))
    if f"sha256:{hasher.hexdigest()}" != entry.blob:
        raise UserError(
            reasons.DATASET_CORRUPT,
            f"{entry.name} at {info.uri} has digest sha256:{hasher.hexdigest()}: the stored file was damaged. Make its "
            "dataset again.",
        )


def _check_columns(store: Store, info: ObjectInfo, source: str, manifest: Manifest) -> None:
    missing = sorted(set(ROWS.names) - set(column_names(store, info)))
    if missing:
        raise UserError(
            reasons.DATASET_CORRUPT,
            f"Source {source!r}: the rows of dataset {manifest.digest} have no {', '.join(missing)}: another version "
            "of specop made them. Name that dataset's own sources in the place of datasetRef.",
        )
