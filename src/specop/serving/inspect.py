"""`python -m specop.serving.inspect`: what a target is, and what given weights are to it.

A manifest of specop's own is verified file by file and keeps its digest and contract. A folder with config.json and
model.safetensors, made elsewhere, is copied into the output as a drafter of its own: its digest then names these bytes
and this contract for good, whatever becomes of the folder. No tensor library is needed: headers and sizes tell enough.
"""

import json
import sys
from pathlib import Path

from pydantic import ValidationError

from specop.api import reasons
from specop.api.contract import check_contract
from specop.api.jobs import InspectConfig, InspectFacts
from specop.api.shared import Contract, TargetFacts, Weights
from specop.common.errors import UserError
from specop.serving.weights import (
    CONFIG,
    HEADER_LENGTH_BYTES,
    MAX_HEADER_BYTES,
    TENSORS,
    Tensor,
    check_draft_vocabulary,
    check_tensors,
    contract_of,
    invalid,
    parse_header,
    read_layout,
)
from specop.storage.base import NotFound, Store, download
from specop.storage.blobs import Manifest, download_files, drafter_digest, put_files, read_manifest, write_manifest
from specop.storage.job import Job, run_job
from specop.storage.stores import open_store
from specop.storage.target import target_facts
from specop.storage.uri import join

MANIFEST = "manifest.json"


def inspect(config: InspectConfig, job: Job[InspectConfig]) -> InspectFacts:
    """Read the target, and the weights where there are any. Raises UserError for whatever a user can mend."""
    facts = target_facts(open_store(config.target, config.store), config.target)
    if config.weights is None:
        return InspectFacts(target=facts)
    store = open_store(config.weights, config.store)
    if config.weights.endswith(f"/{MANIFEST}"):
        weights, contract = _verify(store, config, facts, job.work_dir / "weights")
    else:
        weights, contract = _adopt(store, config, facts, job.work_dir / "weights")
    return InspectFacts(target=facts, weights=weights, contract=contract)


def _verify(store: Store, config: InspectConfig, facts: TargetFacts, folder: Path) -> tuple[Weights, Contract]:
    """Check every file of a drafter that specop made, and that it was made for this target."""
    uri = str(config.weights)
    manifest = read_manifest(store, uri, config.expected_digest)
    try:
        contract = Contract.model_validate(manifest.contract)
    except ValidationError as error:
        raise invalid(f"{uri} holds no drafter: its contract cannot be read.") from error
    if differences := check_contract(contract, facts):
        raise UserError(
            reasons.CONTRACT_MISMATCH, f"The drafter was made for another target: {'; '.join(differences)}."
        )
    for path in download_files(store, uri, manifest, folder):
        path.unlink()
    return Weights(digest=manifest.digest, uri=uri), contract


def _adopt(store: Store, config: InspectConfig, facts: TargetFacts, folder: Path) -> tuple[Weights, Contract]:
    """Check weights made elsewhere against the target, and publish them under a manifest."""
    paths = []
    for name in (CONFIG, TENSORS):
        try:
            download(store, join(str(config.weights), name), folder / name)
        except NotFound as error:
            raise invalid(f"{config.weights} holds no {name}; other formats of weights are not read.") from error
        paths.append(folder / name)
    contract = check_folder(folder, facts)
    output = open_store(config.output, config.store)
    files = put_files(output, config.output, paths)
    digest = drafter_digest(files, contract.to_json())
    if config.expected_digest not in (None, digest):
        raise UserError(
            reasons.DIGEST_MISMATCH, f"{config.weights} has digest {digest}, expected {config.expected_digest}."
        )
    manifest = Manifest(
        format="specop.drafter/1",
        digest=digest,
        files=files,
        contract=contract.to_json(),
        info={"importedFrom": config.weights},
    )
    return Weights(digest=digest, uri=write_manifest(output, config.output, manifest)), contract


def check_folder(folder: Path, facts: TargetFacts) -> Contract:
    """Check config.json and model.safetensors of a drafter against a target, and return the contract that follows."""
    try:
        config = json.loads((folder / CONFIG).read_bytes())
    except ValueError as error:
        raise invalid(f"{CONFIG} is not JSON.") from error
    if not isinstance(config, dict):
        raise invalid(f"{CONFIG} is not a JSON object.")
    layout = read_layout(config, facts)
    tensors = _header(folder / TENSORS)
    check_tensors(layout, tensors, facts)
    if "d2t" in tensors:
        check_draft_vocabulary(_tensor_bytes(folder / TENSORS, tensors["d2t"]), layout)
    return contract_of(layout, tensors, facts)


def _header(path: Path) -> dict[str, Tensor]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(HEADER_LENGTH_BYTES), "little")
        file.seek(0)
        return parse_header(file.read(HEADER_LENGTH_BYTES + min(length, MAX_HEADER_BYTES)), path.stat().st_size)


def _tensor_bytes(path: Path, tensor: Tensor) -> bytes:
    with path.open("rb") as file:
        file.seek(tensor.start)
        return file.read(tensor.end - tensor.start)


if __name__ == "__main__":
    sys.exit(run_job("inspect", InspectConfig, inspect))
