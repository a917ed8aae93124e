"""`python -m specop.serving.fetch`: the init container that puts target, drafter and plugin on the pod's disk.

It is the last gate before a GPU is used: the drafter's contract is compared field by field with the target that lies in
storage, and everything that was downloaded is verified before the engine sees it: the drafter by the digest of every
file and of its manifest, the target by its fingerprint. Killed and started again in the same pod, it goes on where it
was.
"""

import os
import shutil
import sys
import time
from logging import getLogger
from pathlib import Path

from pydantic import ValidationError

from specop.api import reasons
from specop.api.contract import check_contract
from specop.api.jobs import FetchConfig
from specop.api.shared import Contract, TargetFacts, Weights
from specop.common.errors import Conflict, UserError
from specop.serving.transfer import Transfer
from specop.storage.base import Store
from specop.storage.blobs import blob_uri, hash_file, output_of, read_manifest
from specop.storage.job import Job, run_job
from specop.storage.local import LocalStore
from specop.storage.stores import open_store
from specop.storage.target import target_facts, target_files

logger = getLogger(__name__)

PLUGIN = Path(__file__).with_name("specop_capture")
MODELS_ENV = "SPECOP_MODELS_DIR"


def fetch(config: FetchConfig, _job: Job[FetchConfig]) -> None:
    """Fill `/models`. Raises UserError for what does not fit or was damaged, Conflict for what changed meanwhile."""
    models = Path(os.environ.get(MODELS_ENV, "/models"))
    began = time.monotonic()
    facts = target_facts(open_store(config.target, config.store), config.target)
    if config.contract is not None:
        _check(config.contract, facts, config.speculative_tokens)
    goal, compiled = models / "plugin" / PLUGIN.name, shutil.ignore_patterns("__pycache__")
    shutil.copytree(PLUGIN, goal, copy_function=shutil.copyfile, ignore=compiled, dirs_exist_ok=True)
    if config.drafter is not None:
        fetch_drafter(open_store(config.drafter.uri, config.store), config.drafter, config.contract, models)
    fetch_target(open_store(config.target, config.store), config.target, facts, models)
    logger.info("target and drafter are on disk and verified, after %.1f s", time.monotonic() - began)


def fetch_target(store: Store, uri: str, facts: TargetFacts, models: Path) -> None:
    """Download a target and compare the fingerprint of what lies on disk with that of what lies in storage."""
    folder = models / "target"
    wanted = [(info, folder / info.uri.rpartition("/")[2]) for info in target_files(store, uri)]
    Transfer(store, models / ".fetch").download(wanted)
    if target_facts(LocalStore(), f"file://{folder}") != facts:
        shutil.rmtree(models / ".fetch")
        raise Conflict(f"{uri} was written to while it was downloaded.")


def fetch_drafter(store: Store, drafter: Weights, contract: Contract | None, models: Path) -> None:
    """Download a drafter: every file with the digest that its manifest says, the manifest with the one approved."""
    manifest = read_manifest(store, drafter.uri, drafter.digest)
    try:
        made_with = Contract.model_validate(manifest.contract)
    except ValidationError as error:
        raise UserError(reasons.WEIGHTS_INVALID, f"The contract in {drafter.uri} cannot be read.") from error
    if contract is not None and made_with != contract:
        raise UserError(reasons.CONTRACT_MISMATCH, f"The contract in {drafter.uri} is not the one that was approved.")
    output = output_of(drafter.uri)
    folder = models / "drafter"
    wanted = [(store.head(blob_uri(output, entry.blob)), folder / entry.name) for entry in manifest.files]
    Transfer(store, models / ".fetch").download(wanted)
    for entry in manifest.files:
        found = hash_file(folder / entry.name)
        if found != entry.blob:
            (folder / entry.name).unlink()
            raise UserError(
                reasons.DIGEST_MISMATCH,
                f"{entry.name} of {drafter.uri} has digest {found}, expected {entry.blob}: the stored file is damaged.",
            )


def _check(contract: Contract, facts: TargetFacts, speculative_tokens: int | None) -> None:
    if differences := check_contract(contract, facts, speculative_tokens):
        raise UserError(reasons.CONTRACT_MISMATCH, f"The drafter does not fit: {'; '.join(differences)}.")


if __name__ == "__main__":
    sys.exit(run_job("fetch", FetchConfig, fetch))
