"""What is fixed after creation, tried on the real API server: change, add and remove, for every such field."""

import copy
from typing import Any

import pytest

from specop.api.crdgen import crd
from specop.api.kinds import KINDS
from tests.api.conftest import Api, Refused
from tests.api.manifests import REMOVED, edited, full

pytestmark = pytest.mark.control_plane

DATASET, JOB, DRAFTER, *_ = (kind.model.KIND for kind in KINDS)
POD = "spec.podTemplate"
AN_OBJECT = {"uri": "s3://seeds/a.jsonl"}


def _immutable_cases() -> list[tuple[str, str, Any]]:
    """Kind, field, and another value of the field that is valid by itself."""
    storage = {"output": "s3://team-b/specop"}
    target = {"uri": "s3://models/other"}
    return [
        (DATASET, "target", target),
        (DATASET, "sources", [{"name": "a", "objects": AN_OBJECT}]),
        (DATASET, "holdout", {"percent": 11}),
        (DATASET, "transform", {"maxLength": 512}),
        (DATASET, "consent", {"noTrainFields": ["private"]}),
        (DATASET, "privacy", {"action": "Drop"}),
        (DATASET, "quality", {"truncatedAnswers": "Drop"}),
        (DATASET, "regenerate", {"url": "http://other/v1", "model": "base"}),
        (DATASET, "engine", {"ray": {"address": "ray://other:10001"}}),
        (DATASET, "storage", storage),
        (JOB, "target", target),
        (JOB, "datasetRef", {"name": "other"}),
        (JOB, "preset", "quick"),
        (JOB, "hyperparameters", {"epochs": 5}),
        (JOB, "warmStart", {"drafterRef": {"name": "other"}}),
        (JOB, "stateCache", "100Gi"),
        (JOB, "storage", storage),
        (JOB, "backoffLimit", 6),
        (JOB, "queueName", "other"),
        (DRAFTER, "target", target),
        (DRAFTER, "weights", {"uri": "s3://imports/other"}),
        (DRAFTER, "lineage", {"parent": {"name": "other"}}),
        (DRAFTER, "storage", storage),
    ]


def test_immutability_is_tested_for_every_immutable_field() -> None:
    marked = {
        (kind.model.KIND, rule["fieldPath"].lstrip("."))
        for kind in KINDS
        for rule in crd(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"].get(
            "x-kubernetes-validations", []
        )
        if "oldSelf" in rule["rule"]
    }
    assert {(kind, field) for kind, field, _ in _immutable_cases()} == marked


@pytest.fixture(scope="module")
def stored(api: Api) -> Any:
    """A full and a minimal object of every kind that has immutable fields, by kind."""
    minimal = {
        DATASET: {"target": {"uri": "s3://models/base"}, "sources": [{"name": "x", "objects": AN_OBJECT}]},
        JOB: {"target": {"uri": "s3://models/base"}, "datasetRef": {"name": "x"}},
        DRAFTER: {"target": {"uri": "s3://models/base"}, "weights": {"uri": "s3://imports/eagle3"}},
    }
    objects = {
        kind: (
            api.create(full()[kind], keep=True),
            api.create({**full()[kind], "metadata": {"name": "minimal"}, "spec": spec}, keep=True),
        )
        for kind, spec in minimal.items()
    }
    yield objects
    for pair in objects.values():
        for created in pair:
            api.delete(created)


@pytest.mark.parametrize(("kind", "field", "other"), _immutable_cases(), ids=lambda value: str(value)[:20])
def test_immutable_fields_may_not_be_changed_added_or_removed(
    api: Api, stored: Any, kind: str, field: str, other: Any
) -> None:
    complete, minimal = stored[kind]
    path = f"spec.{field}"
    attempts = {"changed": edited(complete, {path: other})}
    if field not in minimal["spec"]:
        attempts["removed"] = edited(complete, {path: REMOVED})
        attempts["added"] = edited(minimal, {path: other})
    for attempt, manifest in attempts.items():
        with pytest.raises(Refused) as refusal:
            api.replace(manifest)
        assert f"{field} may not be added, changed or removed after creation: make a new {kind}" in str(
            refusal.value
        ), attempt


def test_a_removed_preset_is_the_default_again_and_so_a_change(api: Api, stored: Any) -> None:
    with pytest.raises(Refused, match="preset may not be added, changed or removed"):
        api.replace(edited(stored[JOB][0], {"spec.preset": REMOVED}))


@pytest.mark.parametrize("kind", [DATASET, JOB, DRAFTER])
def test_the_rest_of_an_immutable_spec_may_change(api: Api, stored: Any, kind: str) -> None:
    complete, minimal = stored[kind]
    for before in (complete, minimal):
        edits: dict[str, Any] = {f"{POD}.labels.team": "other"}
        if kind != DRAFTER:
            edits["spec.suspend"] = kind == DATASET or before is minimal
        changed = api.replace(edited(before, edits))
        assert changed["metadata"]["generation"] == 2


def test_a_spec_that_says_the_same_is_no_change(api: Api, stored: Any) -> None:
    for kind in (DATASET, JOB, DRAFTER):
        complete, _ = stored[kind]
        again = copy.deepcopy(full()[kind])
        again["metadata"]["resourceVersion"] = complete["metadata"]["resourceVersion"]
        assert api.replace(again)["metadata"]["generation"] == 1
