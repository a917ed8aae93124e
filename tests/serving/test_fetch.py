"""The init container of a serving pod: what it downloads, what it refuses, and how it goes on after a kill."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from specop.api import reasons
from specop.api.jobs import FetchConfig, Outcome
from specop.api.shared import Contract, Weights
from specop.common.errors import Conflict, UserError
from specop.serving import transfer as module
from specop.serving.fetch import PLUGIN
from specop.serving.transfer import Transfer
from specop.storage.base import ObjectInfo, Store
from specop.storage.blobs import read_manifest
from specop.storage.local import LocalStore
from specop.storage.s3 import S3Store
from tests.serving.drafters import published
from tests.storage.server import run_server
from tests.tiny import build_tiny


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"file://{build_tiny(tmp_path_factory.mktemp('target'))}"


def run(tmp_path: Path, config: FetchConfig, **environment: str) -> tuple[int, Outcome]:
    """Run the process as the kubelet does."""
    log = tmp_path / "termination-log"
    process = subprocess.run(
        [sys.executable, "-m", "specop.serving.fetch", f"--work={tmp_path}/work", f"--termination-log={log}"],
        env={
            **os.environ,
            **environment,
            "PYTHONPATH": "src",
            "SPECOP_CONFIG": json.dumps(config.to_json()),
            "SPECOP_MODELS_DIR": str(tmp_path / "models"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert log.exists(), process.stderr
    return process.returncode, Outcome.model_validate_json(log.read_bytes())


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_target_drafter_and_plugin_lie_where_the_engine_reads_them(target: str, tmp_path: Path) -> None:
    uri, digest = published(tmp_path, target)
    contract = Contract.model_validate(read_manifest(LocalStore(), uri).contract)
    config = FetchConfig(
        target=target, drafter=Weights(digest=digest, uri=uri), contract=contract, speculative_tokens=4
    )
    assert run(tmp_path, config) == (0, Outcome(kind="fetch", ok=True))
    assert hashes(tmp_path / "models/target") == hashes(Path(target.removeprefix("file://")))
    assert hashes(tmp_path / "models/drafter") == hashes(tmp_path / "drafter")
    assert hashes(tmp_path / "models/plugin/specop_capture") == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(PLUGIN.glob("*.py"))
    }


@pytest.mark.parametrize(
    ("change", "config", "reason", "message"),
    [
        pytest.param(
            {"vocab_size": 300},
            {},
            reasons.CONTRACT_MISMATCH,
            "The drafter does not fit: target.vocabSize (drafter: 300, target: 259).",
            id="a drafter of another target",
        ),
        pytest.param(
            {},
            {"speculative_tokens": 5},
            reasons.CONTRACT_MISMATCH,
            "The drafter does not fit: decodingHeads (drafter: 4, speculativeTokens: 5).",
            id="more tokens than trained steps",
        ),
        pytest.param({}, {"target": "file:///nowhere"}, reasons.TARGET_NOT_FOUND, "", id="no target"),
        pytest.param(
            {},
            {"drafter": Weights(digest="sha256:" + "1" * 64, uri="file:///nowhere/drafters/1/manifest.json")},
            reasons.OBJECT_NOT_FOUND,
            "",
            id="no drafter",
        ),
    ],
)
def test_what_does_not_fit_ends_before_anything_is_downloaded(
    change: dict[str, Any], config: dict[str, Any], reason: str, message: str, *, target: str, tmp_path: Path
) -> None:
    uri, digest = published(tmp_path, target, **change)
    contract = Contract.model_validate(read_manifest(LocalStore(), uri).contract)
    whole = {"target": target, "drafter": Weights(digest=digest, uri=uri), "contract": contract, **config}
    code, outcome = run(tmp_path, FetchConfig(**whole))
    assert (code, outcome.kind, outcome.reason) == (64, "fetch", reason)
    assert message in outcome.message
    assert not (tmp_path / "models/target").exists()


def test_a_drafter_with_one_wrong_byte_is_refused(target: str, tmp_path: Path) -> None:
    uri, digest = published(tmp_path, target)
    entry = read_manifest(LocalStore(), uri).file("model.safetensors")
    blob = tmp_path / "out/blobs/sha256" / entry.blob.removeprefix("sha256:")
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    code, outcome = run(tmp_path, FetchConfig(target=target, drafter=Weights(digest=digest, uri=uri)))
    assert (code, outcome.reason) == (64, reasons.DIGEST_MISMATCH)
    assert not (tmp_path / "models/drafter/model.safetensors").exists()


class Counting:
    """A store that notes which ranges were asked for, and may break."""

    def __init__(self, store: Store, breaks_at: int | None = None) -> None:
        self._store = store
        self._breaks_at = breaks_at
        self.starts: list[int] = []

    def get_range(self, uri: str, start: int, length: int) -> bytes:
        if start == self._breaks_at:
            raise ConnectionError("cut")
        self.starts.append(start)
        return self._store.get_range(uri, start, length)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


SIZE, STEP = 10_007, 1000


@pytest.fixture
def big(tmp_path: Path) -> ObjectInfo:
    (tmp_path / "big").write_bytes(os.urandom(SIZE))
    return LocalStore().head(f"file://{tmp_path}/big")


def transfer(store: Any, tmp_path: Path) -> Transfer:
    return Transfer(store, tmp_path / "journals", range_bytes=STEP)


def test_a_broken_download_goes_on_where_it_was(big: ObjectInfo, tmp_path: Path) -> None:
    goal = tmp_path / "models/big"
    broken = Counting(LocalStore(), breaks_at=3000)
    with pytest.raises(ConnectionError):
        transfer(broken, tmp_path).download([(big, goal)])
    assert not goal.exists()
    second = Counting(LocalStore())
    transfer(second, tmp_path).download([(big, goal)])
    assert goal.read_bytes() == (tmp_path / "big").read_bytes()
    assert sorted(broken.starts + second.starts) == list(range(0, SIZE, STEP))
    third = Counting(LocalStore())
    transfer(third, tmp_path).download([(big, goal)])
    assert third.starts == []


def test_an_object_replaced_meanwhile_is_downloaded_anew(big: ObjectInfo, tmp_path: Path) -> None:
    goal = tmp_path / "models/big"
    with pytest.raises(ConnectionError):
        transfer(Counting(LocalStore(), breaks_at=3000), tmp_path).download([(big, goal)])
    (tmp_path / "big").write_bytes(os.urandom(SIZE))
    with pytest.raises(Conflict):
        transfer(LocalStore(), tmp_path).download([(big, goal)])
    newer = LocalStore().head(big.uri)
    transfer(LocalStore(), tmp_path).download([(newer, goal)])
    assert goal.read_bytes() == (tmp_path / "big").read_bytes()


def test_an_empty_object(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    goal = tmp_path / "models/empty"
    transfer(LocalStore(), tmp_path).download([(LocalStore().head(f"file://{tmp_path}/empty"), goal)])
    assert goal.read_bytes() == b""


def test_what_cannot_fit_is_said_before_the_first_byte(
    big: ObjectInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SPARE_BYTES", 1 << 60)
    store = Counting(LocalStore())
    with pytest.raises(UserError) as caught:
        transfer(store, tmp_path).download([(big, tmp_path / "models/big")])
    assert (caught.value.reason, store.starts) == (reasons.DISK_FULL, [])


@pytest.mark.control_plane
def test_from_a_real_s3_server(target: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    servers = run_server(tmp_path_factory.mktemp("s3"))
    server = next(servers)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        store, bucket = S3Store(server.config), server.new_bucket()
        local = Path(target.removeprefix("file://"))
        for path in local.iterdir():
            store.upload(path, f"s3://{bucket}/model/{path.name}")
    config = FetchConfig(target=f"s3://{bucket}/model", store=server.config)
    assert run(tmp_path, config, **server.environment)[0] == 0
    assert hashes(tmp_path / "models/target") == hashes(local)
    wrong = {**server.environment, "AWS_SECRET_ACCESS_KEY": "wrong"}
    code, outcome = run(tmp_path, config, **wrong)
    assert (code, outcome.reason) == (64, reasons.STORAGE_ACCESS_DENIED)
    servers.close()  # type: ignore[attr-defined]
