"""Content-addressed files, and the manifest that makes them one artefact.

    <output>/blobs/sha256/<hex>                          every file
    <output>/{datasets,drafters}/<hex>/manifest.json     written last

Races: two writers of the same content write the same bytes under the same names, so no order between them matters; a
manifest is written once, and whoever finds it there adopts it. A process that dies half-way leaves blobs that no
manifest names, and nothing else.
"""

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from specop.api import reasons
from specop.api.base import Digest, Observed
from specop.api.shared import Json
from specop.common.errors import UserError
from specop.common.hashing import digest
from specop.storage.base import CHUNK, NotFound, Store, download
from specop.storage.uri import join

Format = Literal["specop.dataset/1", "specop.drafter/1"]
_FOLDERS = {"specop.dataset/1": "datasets", "specop.drafter/1": "drafters"}
_CORRUPT = {"specop.dataset/1": reasons.DATASET_CORRUPT, "specop.drafter/1": reasons.DIGEST_MISMATCH}
_THREADS = 4


class FileEntry(Observed):
    """One file of an artefact."""

    name: str = Field(max_length=255, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    size: int
    blob: Digest


class Manifest(Observed):
    """`manifest.json`: what an artefact is made of, and what it is bound to."""

    format: Format
    digest: Digest
    files: tuple[FileEntry, ...]
    contract: Json
    info: Json = Field(default_factory=dict, description="Times, uids, figures, lineage: outside the digest.")

    def file(self, name: str) -> FileEntry:
        """Return the entry of one file; raises UserError where the artefact has none of that name."""
        for entry in self.files:
            if entry.name == name:
                return entry
        raise UserError(_CORRUPT[self.format], f"The manifest {self.digest} lists no file {name}.")


def drafter_digest(files: Iterable[FileEntry], contract: Json) -> str:
    """Digest of a drafter: format, files and contract, without times, uids and URIs."""
    entries = sorted((entry.to_json() for entry in files), key=lambda entry: str(entry["name"]))
    return digest({"format": "specop.drafter/1", "files": entries, "contract": contract})


def dataset_digest(rows: str, spec: Json, target: Json) -> str:
    """Digest of a dataset: equal rows are an equal dataset, however its files are packed.

    `rows` is the digest over the rows' content hashes in order of their keys.
    """
    return digest({"format": "specop.dataset/1", "rows": rows, "spec": spec, "target": target})


def hash_file(path: Path) -> str:
    """Return the `sha256:…` of a file, read in pieces."""
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            hasher.update(chunk)
    return f"sha256:{hasher.hexdigest()}"


def blob_uri(output: str, blob: str) -> str:
    """Where a blob lies."""
    return join(output, "blobs", "sha256", blob.removeprefix("sha256:"))


def output_of(manifest_uri: str) -> str:
    """Return the folder that an artefact's blobs lie in, by its manifest's URI."""
    return manifest_uri.rsplit("/", 3)[0]


def put_file(store: Store, output: str, path: Path, name: str | None = None) -> FileEntry:
    """Store one file by its content, unless it is there already, and return its entry (named as the file is)."""
    entry = FileEntry(name=name or path.name, size=path.stat().st_size, blob=hash_file(path))
    goal = blob_uri(output, entry.blob)
    try:
        present = store.head(goal).size == entry.size
    except NotFound:
        present = False
    if not present:
        store.upload(path, goal)
    return entry


def put_files(store: Store, output: str, paths: Sequence[Path]) -> tuple[FileEntry, ...]:
    """`put_file` for several, a few at a time; entries in the order given."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return tuple(pool.map(lambda path: put_file(store, output, path), paths))


def write_manifest(store: Store, output: str, manifest: Manifest) -> str:
    """Publish an artefact whose files are stored, and return the manifest's URI. An equal one that is there stays."""
    hex_digits = manifest.digest.removeprefix("sha256:")
    uri = join(output, _FOLDERS[manifest.format], hex_digits, "manifest.json")
    store.put_if_absent(uri, manifest.model_dump_json(by_alias=True, indent=1).encode())
    return uri


def read_manifest(store: Store, uri: str, expected_digest: str | None = None) -> Manifest:
    """Read and check a manifest.

    Raises UserError: DatasetCorrupt or DigestMismatch where it is unreadable, does not have the digest that is
    expected, or, for a drafter, the digest that follows from its files and contract.
    """
    try:
        manifest = Manifest.model_validate_json(store.get(uri))
    except ValidationError as error:
        reason = reasons.DATASET_CORRUPT if "/datasets/" in uri else reasons.DIGEST_MISMATCH
        raise UserError(reason, f"{uri} is not a manifest of a dataset or drafter.") from error
    actual = manifest.digest
    if manifest.format == "specop.drafter/1":
        actual = drafter_digest(manifest.files, manifest.contract)
    for wanted in (manifest.digest, expected_digest):
        if wanted not in (None, actual):
            raise UserError(_CORRUPT[manifest.format], f"{uri} has digest {actual}, expected {wanted}.")
    return manifest


def download_file(store: Store, manifest_uri: str, manifest: Manifest, name: str, folder: Path) -> Path:
    """Download one file of an artefact, verified, and return its path. Raises UserError where the bytes differ."""
    entry = manifest.file(name)
    path = folder / entry.name
    found = f"sha256:{download(store, blob_uri(output_of(manifest_uri), entry.blob), path)}"
    if found != entry.blob:
        path.unlink()
        raise UserError(
            _CORRUPT[manifest.format],
            f"{entry.name} of {manifest_uri} has digest {found}, expected {entry.blob}: the stored file was damaged.",
        )
    return path


def download_files(store: Store, manifest_uri: str, manifest: Manifest, folder: Path) -> tuple[Path, ...]:
    """`download_file` for all files of an artefact, a few at a time."""
    with ThreadPoolExecutor(_THREADS) as pool:
        names = [entry.name for entry in manifest.files]
        return tuple(pool.map(lambda name: download_file(store, manifest_uri, manifest, name, folder), names))
