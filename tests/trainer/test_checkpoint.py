"""Checkpoints: what is whole and one's own is used, newest first, from disk or storage; everything else is not."""

import errno
import threading
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from specop.storage.base import StorageUnreachable
from specop.storage.local import LocalStore
from specop.trainer.checkpoint import KEPT, Checkpoints, Progress


def checkpoints(folder: Path, pod: str = "a", inputs: str = "these", store: LocalStore | None = None) -> Checkpoints:
    return Checkpoints(folder / pod, store or LocalStore(), f"file://{folder}/stored", inputs)


def save(kept: Checkpoints, step: int) -> None:
    progress = Progress(step=step, tokens=10 * step, alpha_K=[0.1, 0.2], curve=[{"step": 1, "loss": 0.5}])
    kept.save(progress, {"model.w": torch.full((3,), float(step)), "optimiser.0.step": torch.tensor(float(step))})
    kept.flush()


def newest(kept: Checkpoints) -> int | None:
    found = kept.newest()
    if found is None:
        return None
    progress, tensors = found
    assert torch.equal(tensors["model.w"], torch.full((3,), float(progress.step)))
    assert progress == Progress(
        step=progress.step, tokens=10 * progress.step, alpha_K=[0.1, 0.2], curve=[{"step": 1, "loss": 0.5}]
    )
    return progress.step


def test_another_pod_goes_on_from_storage_and_old_ones_are_removed(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(checkpoints(tmp_path), step)
    assert newest(checkpoints(tmp_path, "b")) == 3
    for folder in ("a", "stored"):
        assert len(list((tmp_path / folder).iterdir())) == KEPT


@pytest.mark.parametrize("damage", ["cut", "changed", "part"])
def test_damaged_ones_are_passed_over(damage: str, tmp_path: Path) -> None:
    for step in (1, 2):
        save(checkpoints(tmp_path), step)
    for folder in ("a", "stored"):
        file = tmp_path / folder / "step-00000002.safetensors"
        data = file.read_bytes()
        match damage:
            case "cut":
                file.write_bytes(data[: len(data) // 2])
            case "changed":
                file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
            case "part":
                file.rename(file.with_suffix(".part"))
    assert newest(checkpoints(tmp_path)) == 1


def test_a_full_disk_is_told_from_other_failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("specop.trainer.tensors.save_file", full)
    with pytest.raises(OSError, match="No space left") as raised:
        save(checkpoints(tmp_path), 1)
    assert raised.value.errno == errno.ENOSPC
    assert not list((tmp_path / "a").iterdir())


def test_where_the_disk_is_damaged_storage_helps(tmp_path: Path) -> None:
    save(checkpoints(tmp_path), 2)
    (tmp_path / "a" / "step-00000002.safetensors").write_bytes(b"")
    assert newest(checkpoints(tmp_path)) == 2


def test_those_of_other_inputs_are_not_used(tmp_path: Path) -> None:
    save(checkpoints(tmp_path), 2)
    assert newest(checkpoints(tmp_path, inputs="others")) is None
    assert newest(checkpoints(tmp_path / "nothing")) is None


def test_training_waits_for_no_upload_and_the_disk_holds_no_more_of_them(tmp_path: Path) -> None:
    class Slow(LocalStore):
        answers = threading.Event()

        def upload(self, path: Path, uri: str) -> None:
            if not self.answers.wait(10) or not path.exists():
                raise StorageUnreachable("no answer")
            super().upload(path, uri)

    kept = checkpoints(tmp_path, store=Slow())
    for step in range(1, 6):
        kept.save(Progress(step=step), {"model.w": torch.full((3,), float(step))})
        assert len(list((tmp_path / "a").iterdir())) <= KEPT
    Slow.answers.set()
    kept.flush()
    assert [path.name for path in (tmp_path / "stored").iterdir()] == ["step-00000005.safetensors"]
    found = checkpoints(tmp_path, "b").newest()
    assert found
    assert found[0].step == 5


def test_without_storage_training_goes_on_but_the_end_says_so(tmp_path: Path) -> None:
    class Gone(LocalStore):
        def upload(self, path: Path, uri: str) -> None:
            raise StorageUnreachable("no answer")

    kept = checkpoints(tmp_path, store=Gone())
    tensors = {"model.w": torch.ones(3)}
    kept.save(Progress(step=1), tensors)
    kept.save(Progress(step=2), tensors)
    with pytest.raises(StorageUnreachable):
        kept.flush()
    found = checkpoints(tmp_path).newest()
    assert found
    assert found[0].step == 2
