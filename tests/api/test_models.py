"""Models and schemas say the same: what the schema allows is read, and what a model writes the schema allows."""

from datetime import UTC, datetime
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from specop.api.crdgen import crd
from specop.api.dataset import DatasetFacts, SpeculatorDataset
from specop.api.hyperparameters import Hyperparameters, LossTerm
from specop.api.kinds import KINDS, Kind
from specop.api.preset import BUILT_IN, DEFAULTS, PresetSpec, SpeculatorPreset, resolve
from specop.api.shared import TargetFacts
from specop.api.training_job import Provenance
from tests.api.conftest import Api, Refused
from tests.api.manifests import edited, full, loop

kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.model.KIND)

ASCII = st.characters(codec="ascii", exclude_categories=["Cc"])
bounded = settings(max_examples=15, deadline=None, database=None, suppress_health_check=list(HealthCheck))
"""Whole objects are large to draw, and how fast that is says nothing of the models."""

MANY = 4
"""Lists and maps longer than this show nothing new."""


def schema_of(kind: Kind) -> dict[str, Any]:
    schema: dict[str, Any] = crd(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema


def values(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that a schema allows, rules aside."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if schema.get("x-kubernetes-int-or-string"):
        return st.one_of(st.integers(0, 64), st.sampled_from(["500m", "1.5", "16Gi"]))
    return {"object": blocks, "array": lists, "string": texts, "integer": integers, "boolean": lambda _: st.booleans()}[
        schema["type"]
    ](schema)


def blocks(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    if "additionalProperties" in schema:
        keys = st.from_regex("[a-z]{1,8}(/[a-z]{1,8})?", fullmatch=True)
        return st.dictionaries(
            keys, values(schema["additionalProperties"]), max_size=min(MANY, schema["maxProperties"])
        )
    required = set(schema.get("required", []))
    members = {name: values(member) for name, member in schema.get("properties", {}).items()}
    chosen_one = next(iter(_unions(schema)), [])
    blocks_of_all = [required | {name} for name in chosen_one] or [required]
    alternatives = st.one_of(
        st.fixed_dictionaries(
            {name: members[name] for name in needed},
            optional={name: member for name, member in members.items() if name not in {*needed, *chosen_one}},
        )
        for needed in (sorted(names) for names in blocks_of_all)
    )

    # Hypothesis writes strategies out when it draws again, and alternatives of alternatives are megabytes of text.
    @st.composite
    def block(draw: st.DrawFn) -> Any:
        return draw(alternatives)

    return block()


def _unions(schema: dict[str, Any]) -> list[list[str]]:
    """Fields of which exactly one is set, as the schema's rules say."""
    said = (rule["message"].partition("set exactly one of: ") for rule in schema.get("x-kubernetes-validations", []))
    return [names.split(", ") for _, found, names in said if found]


def lists(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    keys = schema.get("x-kubernetes-list-map-keys")
    unique_by = (lambda item: tuple(item.get(key) for key in keys)) if keys else None
    return st.lists(
        values(schema["items"]),
        min_size=schema.get("minItems", 0),
        max_size=min(MANY, schema["maxItems"]),
        unique_by=unique_by,
        unique=schema.get("x-kubernetes-list-type") == "set",
    )


def texts(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    if schema.get("format") == "date-time":
        seconds = st.integers(0, 2**32)
        return seconds.map(lambda since: datetime.fromtimestamp(since, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
    least, most = schema.get("minLength", 0), schema["maxLength"]
    if "pattern" in schema:
        matching = st.from_regex(schema["pattern"], fullmatch=True, alphabet=ASCII)
        return matching.filter(lambda text: least <= len(text) <= most)
    return st.text(ASCII, min_size=least, max_size=min(20, most))


def integers(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    return st.integers(schema.get("minimum", -(2**31)), schema.get("maximum", 2**31))


@st.composite
def objects(draw: st.DrawFn, kind: Kind, *parts: str) -> dict[str, Any]:
    schema = schema_of(kind)["properties"]
    body = {part: draw(values(schema[part])) for part in parts if part in schema}
    head = {"apiVersion": "specop.dev/v1alpha1", "kind": kind.model.KIND, "metadata": {"name": "generated"}}
    return {**head, **body}


@kinds
@bounded
@given(data=st.data())
def test_what_the_schema_allows_is_read_and_written_back_as_allowed(kind: Kind, data: st.DataObject) -> None:
    manifest = data.draw(objects(kind, "spec", "status"))
    parsed = kind.model.model_validate(manifest)
    written = parsed.to_json()
    schema = schema_of(kind)["properties"]
    for part in ("spec", "status"):
        if part in schema:
            jsonschema.Draft4Validator(schema[part]).validate(written[part])
    assert kind.model.model_validate(written) == parsed


@pytest.mark.control_plane
@kinds
def test_what_the_api_server_takes_is_read(api: Api, kind: Kind) -> None:
    taken = 0

    # What fails once for another reason must not be sought again for minutes: no shrinking.
    @settings(bounded, phases=[Phase.generate])
    @given(manifest=objects(kind, "spec"))
    def check(manifest: dict[str, Any]) -> None:
        nonlocal taken
        try:
            stored = api.create(manifest)
        except Refused as refusal:
            if refusal.status != 422:
                raise
            return
        taken += 1
        kind.model.model_validate(stored)

    check()
    assert taken > 0


@pytest.mark.parametrize(
    "manifest", [*loop().values(), *full().values()], ids=lambda m: f"{m['kind']} {m['metadata']['name']}"
)
def test_manifests_are_read(manifest: dict[str, Any]) -> None:
    model = {kind.model.KIND: kind.model for kind in KINDS}[manifest["kind"]]
    parsed = model.model_validate(manifest)
    assert model.model_validate(parsed.to_json()) == parsed


def test_a_field_of_a_newer_version_crashes_nobody_in_status_and_is_named_in_spec() -> None:
    manifest = loop()["SpeculatorDataset"]
    SpeculatorDataset.model_validate({**manifest, "status": {"observedGeneration": 1, "later": {"x": 1}}})
    with pytest.raises(ValidationError, match="later"):
        SpeculatorDataset.model_validate(edited(manifest, {"spec.later": 1}))


def test_numbers_as_quantities_are_read_as_text() -> None:
    preset = SpeculatorPreset.model_validate(full()["SpeculatorPreset"])
    assert preset.spec.pod_template is not None
    assert preset.spec.pod_template.resources is not None
    assert preset.spec.pod_template.resources.to_json() == {
        "requests": {"cpu": "2", "memory": "16Gi"},
        "limits": {"memory": "16Gi", "nvidia.com/gpu": "1"},
    }


DIGEST = "sha256:" + "0" * 64


def finished(tokens: int, hidden: int) -> DatasetFacts:
    target = TargetFacts(
        fingerprint=DIGEST,
        tokenizer_hash=DIGEST,
        chat_template_hash=DIGEST,
        vocab_size=512,
        hidden_size=hidden,
        num_layers=8,
    )
    return DatasetFacts(digest=DIGEST, uri="s3://o/manifest.json", rows=10, tokens=tokens, target=target)


def test_hyperparameters_are_resolved_in_order_and_say_who_set_them() -> None:
    resolved, set_by = resolve("quick", BUILT_IN["quick"], Hyperparameters(seed=7), finished(100_000, 576))
    quick = BUILT_IN["quick"].hyperparameters
    assert resolved == DEFAULTS.model_copy(update={"epochs": quick.epochs, "max_steps": quick.max_steps, "seed": 7})
    sources = {entry.name: entry.source for entry in set_by}
    assert sources.pop("seed") == "spec"
    assert {sources.pop(name) for name in ("epochs", "maxSteps")} == {"preset/quick"}
    assert {sources.pop(name) for name in ("batchTokens", "learningRate")} == {"scaled"}
    assert set(sources.values()) == {"default"}
    assert Provenance(name="seed", source="spec") in set_by


def test_the_loss_that_nobody_sets_goes_by_how_drafts_are_sampled() -> None:
    sampled = Hyperparameters(draft_sample_method="Probabilistic")
    of_spec, set_by = resolve("balanced", BUILT_IN["balanced"], sampled, finished(100_000, 576))
    assert of_spec.loss == [LossTerm(name="LKHybrid")]
    assert Provenance(name="loss", source="default") in set_by
    of_preset, _ = resolve("own", PresetSpec(hyperparameters=sampled), Hyperparameters(), finished(100_000, 576))
    assert of_preset == of_spec
    chosen = Hyperparameters(draft_sample_method="Probabilistic", loss=[LossTerm(name="KL")])
    assert resolve("balanced", BUILT_IN["balanced"], chosen, finished(100_000, 576))[0].loss == chosen.loss


@pytest.mark.parametrize(
    ("tokens", "hidden", "batch", "rate"),
    [
        (0, 576, 2048, "0.0007"),
        (300_000, 576, 2048, "0.0007"),
        (500_000, 576, 4096, "0.00083"),
        (10**9, 4096, 131_072, "0.00028"),
        (10**7, 4096, 16_384, "0.00017"),
        (10**6, 16_384, 4096, "0.000029"),
        (10**5, 65_536, 2048, "0.00002"),
        (10**5, 64, 2048, "0.002"),
    ],
)
def test_batch_and_rate_are_scaled_to_dataset_and_target(tokens: int, hidden: int, batch: int, rate: str) -> None:
    found, _ = resolve("balanced", BUILT_IN["balanced"], Hyperparameters(), finished(tokens, hidden))
    assert (found.batch_tokens, found.learning_rate) == (batch, rate)


@pytest.mark.parametrize(
    ("preset", "spec", "evaluations", "source"),
    [
        ("balanced", {}, 12, "scaled"),
        ("quality", {}, 20, "scaled"),
        ("quick", {}, 8, "default"),
        ("quality", {"evaluations": 3}, 3, "spec"),
        ("balanced", {"epochs": 4}, 8, "default"),
        ("balanced", {"epochs": 1000}, 1000, "scaled"),
        ("balanced", {"epochs": 1000, "max_steps": 30}, 8, "default"),
        ("balanced", {"epochs": 1000, "max_steps": 300}, 13, "scaled"),
    ],
)
def test_evaluations_are_at_least_two_a_pass(preset: str, spec: dict[str, Any], evaluations: int, source: str) -> None:
    found, set_by = resolve(preset, BUILT_IN[preset], Hyperparameters(**spec), finished(100_000, 576))
    assert found.evaluations == evaluations
    assert Provenance(name="evaluations", source=source) in set_by


def test_the_rate_follows_a_batch_that_somebody_set() -> None:
    house = PresetSpec(hyperparameters=Hyperparameters(batch_tokens=32_768))
    found, set_by = resolve("house", house, Hyperparameters(), finished(100_000, 576))
    assert (found.batch_tokens, found.learning_rate) == (32_768, "0.0014")
    assert Provenance(name="batchTokens", source="preset/house") in set_by
    assert Provenance(name="learningRate", source="scaled") in set_by
