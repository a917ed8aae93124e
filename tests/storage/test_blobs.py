"""Content-addressed files and manifests."""

from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specop.api import reasons
from specop.common.errors import UserError
from specop.storage import blobs
from specop.storage.base import Store
from specop.storage.blobs import FileEntry, Manifest

Place = tuple[Store, str]
CONTRACT = {"formatVersion": 1, "auxLayers": [1, 2, 3]}
entries = st.builds(
    FileEntry,
    name=st.from_regex(r"[a-z]{1,8}\.bin", fullmatch=True),
    size=st.integers(0, 10**12),
    blob=st.from_regex(r"sha256:[0-9a-f]{64}", fullmatch=True),
)


def published(place: Place, folder: Path) -> tuple[str, Manifest]:
    store, output = place
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes(f"bytes of {name}".encode())
    files = blobs.put_files(store, output, [folder / "config.json", folder / "model.safetensors"])
    manifest = Manifest(
        format="specop.drafter/1",
        digest=blobs.drafter_digest(files, CONTRACT),
        files=files,
        contract=CONTRACT,
        info={"made": "2026-01-01T00:00:00Z"},
    )
    return blobs.write_manifest(store, output, manifest), manifest


def test_what_is_published_is_read_and_downloaded(place: Place, tmp_path: Path) -> None:
    uri, manifest = published(place, tmp_path)
    assert uri == f"{place[1]}/drafters/{manifest.digest.removeprefix('sha256:')}/manifest.json"
    assert blobs.read_manifest(place[0], uri, manifest.digest) == manifest
    paths = blobs.download_files(place[0], uri, manifest, tmp_path / "down")
    assert {path.name: path.read_bytes() for path in paths} == {
        "config.json": b"bytes of config.json",
        "model.safetensors": b"bytes of model.safetensors",
    }


def test_publishing_again_changes_nothing(place: Place, tmp_path: Path) -> None:
    first = published(place, tmp_path)
    before = list(place[0].list(place[1]))
    assert published(place, tmp_path) == first
    assert list(place[0].list(place[1])) == before


def test_another_digest_than_expected_is_refused(place: Place, tmp_path: Path) -> None:
    uri, manifest = published(place, tmp_path)
    with pytest.raises(UserError) as caught:
        blobs.read_manifest(place[0], uri, "sha256:" + "0" * 64)
    assert (caught.value.reason, manifest.digest in caught.value.message) == (reasons.DIGEST_MISMATCH, True)


@pytest.mark.parametrize(
    "damage",
    [b"", b"{}", b"not json", b'{"format": "specop.drafter/2"}'],
    ids=["empty", "no fields", "no JSON", "a later format"],
)
def test_a_damaged_manifest_is_refused(place: Place, tmp_path: Path, damage: bytes) -> None:
    uri, _ = published(place, tmp_path)
    place[0].put(uri, damage)
    with pytest.raises(UserError) as caught:
        blobs.read_manifest(place[0], uri)
    assert caught.value.reason == reasons.DIGEST_MISMATCH


def test_a_changed_contract_is_refused(place: Place, tmp_path: Path) -> None:
    uri, manifest = published(place, tmp_path)
    changed = manifest.model_copy(update={"contract": {**CONTRACT, "auxLayers": [1, 2]}})
    place[0].put(uri, changed.model_dump_json(by_alias=True).encode())
    with pytest.raises(UserError) as caught:
        blobs.read_manifest(place[0], uri)
    assert caught.value.reason == reasons.DIGEST_MISMATCH


@pytest.mark.parametrize("damage", [b"", b"bytes of configXjson"], ids=["cut", "one byte"])
def test_a_damaged_blob_is_refused_and_not_kept(place: Place, tmp_path: Path, damage: bytes) -> None:
    uri, manifest = published(place, tmp_path)
    place[0].put(blobs.blob_uri(place[1], manifest.file("config.json").blob), damage)
    with pytest.raises(UserError) as caught:
        blobs.download_file(place[0], uri, manifest, "config.json", tmp_path / "down")
    assert caught.value.reason == reasons.DIGEST_MISMATCH
    assert list((tmp_path / "down").iterdir()) == []


def test_a_file_that_is_not_listed(place: Place, tmp_path: Path) -> None:
    _, manifest = published(place, tmp_path)
    with pytest.raises(UserError, match=r"lists no file other\.bin"):
        manifest.file("other.bin")


@pytest.mark.parametrize("name", ["../escape", "a/b", ".hidden", ""])
def test_names_stay_inside_a_folder(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        FileEntry(name=name, size=0, blob="sha256:" + "0" * 64)


@given(st.lists(entries, unique_by=lambda entry: entry.name), st.randoms(use_true_random=False))
def test_a_digest_does_not_depend_on_the_order_of_files(files: list[FileEntry], random: Random) -> None:
    shuffled = random.sample(files, len(files))
    assert blobs.drafter_digest(shuffled, CONTRACT) == blobs.drafter_digest(files, CONTRACT)


def test_digests_are_what_they_were() -> None:
    files = [FileEntry(name="a", size=1, blob="sha256:" + "1" * 64)]
    assert blobs.drafter_digest(files, CONTRACT) == (
        "sha256:436d239458518ddb06e1ed4995e071c5b9455c6ca56e3e5ac799bc4a9538e4b8"
    )
    assert blobs.dataset_digest("sha256:" + "2" * 64, {"maxLength": 8}, {"vocabSize": 5}) == (
        "sha256:6c6daa8d1aede5cb7f4ae9043fb880ebc336c833ed672acc61ec44fa8de73b86"
    )
