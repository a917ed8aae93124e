"""What an inspect Job says of targets and of weights, and what it refuses by name."""

import json
from pathlib import Path
from typing import Any

import pytest

from specop.api import reasons
from specop.api.jobs import InspectConfig, Outcome
from specop.api.shared import Contract
from specop.common.errors import UserError
from specop.serving.inspect import check_folder, inspect
from specop.storage.blobs import blob_uri, read_manifest
from specop.storage.job import run_job
from specop.storage.local import LocalStore
from tests.serving.drafters import CONTRACT, EAGLE, FACTS, SPECULATORS, Tensors, published, tensors, write
from tests.tiny import build_tiny


def changed(parts: Tensors, **changes: tuple[str, tuple[int, ...]] | None) -> Tensors:
    """Tensors with some replaced; None removes; `__` in a name stands for a dot."""
    named = {name.replace("__", "."): value for name, value in changes.items()}
    return {name: value for name, value in {**parts, **named}.items() if value is not None}


@pytest.mark.parametrize(
    ("config", "parts", "contract"),
    [
        pytest.param(SPECULATORS, tensors(), CONTRACT, id="speculators"),
        pytest.param(EAGLE, tensors("midlayer."), CONTRACT.model_copy(update={"decoding_heads": 3}), id="EAGLE"),
        pytest.param(
            SPECULATORS, tensors(dtype="BF16"), CONTRACT.model_copy(update={"dtype": "bfloat16"}), id="bfloat16"
        ),
        pytest.param(
            {**EAGLE, "draft_vocab_size": 259},
            changed(tensors("midlayer."), lm_head__weight=None, d2t=None, t2d=None),
            CONTRACT.model_copy(update={"decoding_heads": 3, "draft_vocab_size": 259}),
            id="whole vocabulary, head of the target",
        ),
        pytest.param(
            {**SPECULATORS, "fc_norm": True, "norm_output": True},
            changed(tensors(), **{f"fc_norm__{index}__weight": ("F32", (64,)) for index in range(3)}),
            CONTRACT.model_copy(update={"architecture": "Eagle31"}),
            id="EAGLE 3.1",
        ),
        pytest.param(
            {key: value for key, value in SPECULATORS.items() if key != "eagle_aux_hidden_state_layer_ids"},
            changed(tensors(), fc__weight=("F32", (64, 2 * 64))),
            CONTRACT.model_copy(update={"aux_layers": [1, 2]}),
            id="layers by default: 2, 4 // 2, 4 - 3",
        ),
    ],
)
def test_the_contract_follows_from_the_files(
    config: dict[str, Any], parts: Tensors, contract: Contract, tmp_path: Path
) -> None:
    assert check_folder(write(tmp_path, config, parts), FACTS) == contract


def layer(**changes: Any) -> dict[str, Any]:
    return {**SPECULATORS, "transformer_layer_config": {**SPECULATORS["transformer_layer_config"], **changes}}  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("config", "parts", "message"),
    [
        (
            SPECULATORS,
            changed(tensors(), fc__weight=("F32", (64, 128))),
            "model.safetensors: tensor fc.weight has shape [64, 128], expected [64, 192].",
        ),
        (SPECULATORS, changed(tensors(), d2t=None), "model.safetensors has no tensor d2t (shape [96])."),
        (
            SPECULATORS,
            changed(tensors(), norm__weight=("I64", (64,))),
            "model.safetensors: tensor norm.weight has dtype I64.",
        ),
        (
            SPECULATORS,
            changed(tensors(), extra=("F32", (1,))),
            "model.safetensors: tensor extra does not belong to this architecture.",
        ),
        (
            SPECULATORS,
            tensors("midlayer."),
            "model.safetensors has no tensor layers.0.self_attn.q_proj.weight (shape [64, 128]).",
        ),
        (layer(vocab_size=300), tensors(), "config.json: vocab_size is 300, the target's is 259."),
        (layer(hidden_size=32), tensors(), "config.json: target_hidden_size is 32, the target's is 64."),
        (
            layer(num_attention_heads=None),
            tensors(),
            "config.json: num_attention_heads is None, expected a positive integer.",
        ),
        (
            {**SPECULATORS, "eagle_aux_hidden_state_layer_ids": [1, 2, 9]},
            tensors(),
            "config.json: captured layers [1, 2, 9], the target has 4 layers.",
        ),
        ({"a": 1}, tensors(), "config.json is neither a speculators configuration nor one of LlamaForCausalLMEagle3."),
        (
            {**SPECULATORS, "speculators_model_type": "mlp"},
            tensors(),
            "config.json: speculators_model_type is 'mlp', not 'eagle3'.",
        ),
    ],
)
def test_what_does_not_fit_is_named(config: dict[str, Any], parts: Tensors, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        check_folder(write(tmp_path, config, parts), FACTS)
    assert (caught.value.reason, caught.value.message) == (reasons.WEIGHTS_INVALID, message)


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ([200] * 96, "model.safetensors: tensor d2t points outside the target's vocabulary of 259."),
        (
            [-index for index in range(96)],
            "model.safetensors: tensor d2t maps two draft tokens to one target token; it must hold offsets.",
        ),
    ],
)
def test_the_draft_vocabulary_must_be_offsets_into_the_targets(
    offsets: list[int], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        check_folder(write(tmp_path, SPECULATORS, tensors(), offsets), FACTS)
    assert caught.value.message == message


@pytest.mark.parametrize("damage", [b"", b"\xff" * 100, b"\x02" + bytes(7) + b"[]", b"\x01" + bytes(7) + b"{"])
def test_a_file_that_is_no_safetensors(damage: bytes, tmp_path: Path) -> None:
    (write(tmp_path, SPECULATORS, tensors()) / "model.safetensors").write_bytes(damage)
    with pytest.raises(UserError, match=r"model\.safetensors has no safetensors header"):
        check_folder(tmp_path, FACTS)


def test_an_upload_that_is_not_complete(tmp_path: Path) -> None:
    path = write(tmp_path, SPECULATORS, tensors()) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(UserError, match="the upload is not complete"):
        check_folder(tmp_path, FACTS)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"file://{build_tiny(tmp_path_factory.mktemp('target'))}"


def run(tmp_path: Path, target: str, **more: Any) -> tuple[int, Outcome]:
    """Run the process as the Job does; exit code and termination message."""
    config = InspectConfig(uid="u1", namespace="a", name="d", output=f"file://{tmp_path}/out", target=target, **more)
    (tmp_path / "config.json").write_text(json.dumps(config.to_json()))
    log = tmp_path / "termination-log"
    options = {"config": tmp_path / "config.json", "work": tmp_path / "work", "port": 0, "termination-log": log}
    code = run_job("inspect", InspectConfig, inspect, [f"--{name}={value}" for name, value in options.items()])
    return code, Outcome.model_validate_json(log.read_bytes())


def test_a_target_alone(target: str, tmp_path: Path) -> None:
    code, outcome = run(tmp_path, target)
    assert (code, outcome.ok) == (0, True)
    assert outcome.inspect
    facts = outcome.inspect.target
    assert (facts.vocab_size, facts.hidden_size, facts.num_layers) == (259, 64, 4)
    assert (outcome.inspect.weights, outcome.inspect.contract) == (None, None)


def test_a_folder_becomes_a_drafter_that_reads_back(target: str, tmp_path: Path) -> None:
    source = write(tmp_path / "made-elsewhere", EAGLE, tensors("midlayer."))
    code, outcome = run(tmp_path, target, weights=f"file://{source}")
    assert code == 0
    assert outcome.inspect
    assert outcome.inspect.weights
    store = LocalStore()
    manifest = read_manifest(store, outcome.inspect.weights.uri, outcome.inspect.weights.digest)
    assert manifest.info == {"importedFrom": f"file://{source}"}
    assert Contract.model_validate(manifest.contract) == outcome.inspect.contract
    for entry in manifest.files:
        assert store.get(blob_uri(f"file://{tmp_path}/out", entry.blob)) == (source / entry.name).read_bytes()


def test_a_manifest_is_verified_and_keeps_its_digest(target: str, tmp_path: Path) -> None:
    uri, digest = published(tmp_path, target)
    code, outcome = run(tmp_path, target, weights=uri, expected_digest=digest)
    assert (code, outcome.ok) == (0, True)
    assert outcome.inspect
    assert outcome.inspect.weights
    assert (outcome.inspect.weights.uri, outcome.inspect.weights.digest) == (uri, digest)


def test_a_manifest_made_for_another_target(target: str, tmp_path: Path) -> None:
    uri, _ = published(tmp_path, target, hidden_size=65)
    code, outcome = run(tmp_path, target, weights=uri)
    assert (code, outcome.reason) == (64, reasons.CONTRACT_MISMATCH)
    assert outcome.message == "The drafter was made for another target: target.hiddenSize (drafter: 65, target: 64)."


def test_a_damaged_blob(target: str, tmp_path: Path) -> None:
    uri, digest = published(tmp_path, target)
    blob = read_manifest(LocalStore(), uri).file("config.json").blob
    Path(blob_uri(f"file://{tmp_path}/out", blob).removeprefix("file://")).write_bytes(b"other")
    code, outcome = run(tmp_path, target, weights=uri, expected_digest=digest)
    assert (code, outcome.reason) == (64, reasons.DIGEST_MISMATCH)


def test_another_digest_than_the_spec_says(target: str, tmp_path: Path) -> None:
    source = write(tmp_path / "made-elsewhere", EAGLE, tensors("midlayer."))
    code, outcome = run(tmp_path, target, weights=f"file://{source}", expected_digest="sha256:" + "1" * 64)
    assert (code, outcome.reason) == (64, reasons.DIGEST_MISMATCH)


def test_a_folder_without_weights(target: str, tmp_path: Path) -> None:
    code, outcome = run(tmp_path, target, weights=f"file://{tmp_path}/nothing")
    assert (code, outcome.reason) == (64, reasons.WEIGHTS_INVALID)
    assert outcome.message == f"file://{tmp_path}/nothing holds no config.json; other formats of weights are not read."
