"""Generates what is made from the models: CRDs, their chart, and the field reference.

    python -m specop.api.crdgen --write     from the repository's root
    python -m specop.api.crdgen --check     exits with 1 and names the files that differ

Deterministic: the same models give the same bytes. Files that are no longer generated are removed by `--write` and
reported by `--check`.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml

from specop.api.kinds import CATEGORY, KINDS, Column, Kind
from specop.api.reference import reference
from specop.api.schema import NotStructuralError, object_schema
from specop.api.structural import check_structural
from specop.common.names import GROUP, VERSION

HEADER = "# Generated from src/specop/api by `python -m specop.api.crdgen --write`: change the models instead.\n"
CRD_FOLDER = "crds"
CHART_FOLDER = "charts/specop-crds/templates"
REFERENCE = "docs/api.md"

Crd = dict[str, Any]


def crd(kind: Kind) -> Crd:
    """Return the CustomResourceDefinition of a kind; raises NotStructuralError if its model cannot be one."""
    model = kind.model
    schema = object_schema(model)
    if problems := check_structural(schema):
        raise NotStructuralError(f"{model.KIND}: {'; '.join(problems)}")
    version: Crd = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": [_column(column) for column in kind.columns],
        "schema": {"openAPIV3Schema": schema},
    }
    if kind.has_status:
        version["subresources"] = {"status": {}, **(_scale() if kind.scaled else {})}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{model.PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": model.KIND,
                "listKind": f"{model.KIND}List",
                "plural": model.PLURAL,
                "singular": model.KIND.lower(),
                "shortNames": [kind.short_name],
                "categories": [CATEGORY],
            },
            "scope": "Namespaced" if kind.namespaced else "Cluster",
            "versions": [version],
        },
    }


def generated_files() -> dict[str, str]:
    """Return the text of every generated file by its path from the repository's root."""
    files = {}
    crds = {kind.model.PLURAL: crd(kind) for kind in KINDS}
    for plural, body in crds.items():
        kept = {**body, "metadata": {**body["metadata"], "annotations": {"helm.sh/resource-policy": "keep"}}}
        files[f"{CRD_FOLDER}/{plural}.yaml"] = _yaml(body)
        files[f"{CHART_FOLDER}/{plural}.yaml"] = _template(_yaml(kept))
    files[REFERENCE] = reference({kind: crds[kind.model.PLURAL] for kind in KINDS})
    return files


def drift(root: Path) -> list[str]:
    """Return the paths under `root` that differ from what the models say, sorted."""
    files = generated_files()
    differing = {path for path, text in files.items() if _read(root / path) != text}
    return sorted(differing | _left_over(root, files))


def write(root: Path) -> None:
    """Bring every generated file under `root` up to date."""
    files = generated_files()
    for path in _left_over(root, files):
        (root / path).unlink()
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m specop.api.crdgen", description="Generate or check crds/.")
    parser.add_argument("--root", type=Path, default=Path(), help="root of the repository")
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--write", action="store_true", help="write the files")
    mode.add_argument("--check", action="store_true", help="name files that differ")
    options = parser.parse_args(arguments)
    if options.write:
        write(options.root)
        return 0
    differing = drift(options.root)
    for path in differing:
        sys.stderr.write(f"{path} differs from src/specop/api: run python -m specop.api.crdgen --write\n")
    return 1 if differing else 0


def _column(column: Column) -> Crd:
    shown = {"name": column.name, "type": column.type, "jsonPath": column.path}
    return {**shown, "priority": 1} if column.wide else shown


def _scale() -> Crd:
    return {
        "scale": {
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        }
    }


def _yaml(body: Crd) -> str:
    return HEADER + yaml.safe_dump(body, sort_keys=False, width=120, allow_unicode=True)


def _template(text: str) -> str:
    """Pass text through as a Helm template, where two braces would begin an action."""
    if "{{" in text:
        raise NotStructuralError("a Helm template may not contain {{: word the rule or description differently")
    return text


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _left_over(root: Path, files: dict[str, str]) -> set[str]:
    found = {
        f"{folder}/{path.name}" for folder in (CRD_FOLDER, CHART_FOLDER) for path in (root / folder).glob("*.yaml")
    }
    return found - set(files)


if __name__ == "__main__":
    raise SystemExit(main())
