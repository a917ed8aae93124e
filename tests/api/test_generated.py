"""What lies in the repository is what the models say, in size, words and columns as promised."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from specop.api.crdgen import crd, drift, generated_files, main, write
from specop.api.kinds import KINDS, Kind

ROOT = Path(__file__).parents[2]
MAX_BYTES = 200_000

kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.model.KIND)


def test_repository_holds_what_the_models_say() -> None:
    assert drift(ROOT) == []


@kinds
def test_crds_are_small(kind: Kind) -> None:
    size = len(generated_files()[f"crds/{kind.model.PLURAL}.yaml"].encode())
    sys.stdout.write(f"{kind.model.PLURAL}: {size:,} bytes\n")
    assert size < MAX_BYTES


@kinds
def test_every_field_says_what_it_is(kind: Kind) -> None:
    schema = crd(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    silent = [
        path for part in ("spec", "status") for path, node in _fields(schema, part) if not node.get("description")
    ]
    assert silent == []


def test_chart_keeps_the_crds_when_it_is_removed() -> None:
    files = generated_files()
    for kind in KINDS:
        plain, kept = (
            files[f"{folder}/{kind.model.PLURAL}.yaml"] for folder in ("crds", "charts/specop-crds/templates")
        )
        annotation = "  annotations:\n    helm.sh/resource-policy: keep\n"
        assert kept.replace(annotation, "", 1) == plain


@kinds
def test_columns_point_to_fields_that_exist(kind: Kind) -> None:
    schema = crd(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    paths = {f".{path}" for part in ("spec", "status") for path, _ in _fields(schema, part)}
    wanted = {
        column.path for column in kind.columns if "conditions" not in column.path and "metadata" not in column.path
    }
    assert wanted <= paths


def test_check_names_files_that_differ_and_write_mends_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("crds", "charts", "docs"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    (tmp_path / "crds/drafters.yaml").write_text("kind: Other")
    (tmp_path / "crds/former.yaml").write_text("kind: Former")
    (tmp_path / "docs/api.md").unlink()
    assert drift(tmp_path) == ["crds/drafters.yaml", "crds/former.yaml", "docs/api.md"]
    assert main(["--check", "--root", str(tmp_path)]) == 1
    assert "crds/former.yaml differs from src/specop/api" in capsys.readouterr().err
    assert main(["--write", "--root", str(tmp_path)]) == 0
    assert main(["--check", "--root", str(tmp_path)]) == 0


def test_generation_is_deterministic(tmp_path: Path) -> None:
    write(tmp_path)
    assert {path: (tmp_path / path).read_text(encoding="utf-8") for path in generated_files()} == generated_files()


def _fields(schema: dict[str, Any], name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """All fields below a part of the schema, with their paths."""

    def walk(node: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
        for field, member in node.get("properties", {}).items():
            yield f"{path}.{field}", member
            yield from walk(member, f"{path}.{field}")
        if "items" in node:
            yield from walk(node["items"], f"{path}[]")

    yield from walk(schema["properties"].get(name, {}), name)
