"""What identifies a target, and what a user gets wrong about one."""

import json
from pathlib import Path

import pytest

from specop.api import reasons
from specop.api.shared import Json
from specop.common.errors import UserError
from specop.storage.base import Store
from specop.storage.target import download_target, target_facts

Place = tuple[Store, str]
MIB = 1 << 20
CONFIG = {"architectures": ["LlamaForCausalLM"], "vocab_size": 259, "hidden_size": 64, "num_hidden_layers": 4}
FILES = {
    "config.json": json.dumps(CONFIG).encode(),
    "generation_config.json": b'{"temperature": 0.7}',
    "tokenizer.json": b'{"version": "1.0"}',
    "tokenizer_config.json": b'{"eos_token": "<|im_end|>"}',
    "chat_template.jinja": b"{{ messages }}",
    "model.safetensors": bytes(10 * MIB),
    "README.md": b"not downloaded",
    "modeling.py": b"never run",
    "original/consolidated.pth": b"neither",
}


def put(place: Place, changes: dict[str, bytes | None] | None = None) -> str:
    store, uri = place
    for name, data in {**FILES, **(changes or {})}.items():
        if data is not None:
            store.put(f"{uri}/{name}", data)
    return uri


def test_facts_and_a_slash_at_the_end_means_nothing(place: Place) -> None:
    uri = put(place)
    facts = target_facts(place[0], uri)
    assert facts == target_facts(place[0], uri + "/")
    assert (facts.vocab_size, facts.hidden_size, facts.num_layers) == (259, 64, 4)
    assert (facts.architecture, facts.quantization, facts.sizes) == ("LlamaForCausalLM", "none", None)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"num_attention_heads": 2, "intermediate_size": 128}, (128, 2, 2, 32)),
        ({"num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 32, "intermediate_size": 9}, (9, 4, 1, 32)),
        (
            {
                "num_attention_heads": 2,
                "intermediate_size": 500,
                "moe_intermediate_size": 48,
                "num_experts_per_tok": 8,
            },
            (384, 2, 2, 32),
        ),
        ({"num_attention_heads": 2, "intermediate_size": 100, "num_experts_per_tok": 4}, (400, 2, 2, 32)),
    ],
    ids=["plain", "grouped", "experts of their own width", "experts"],
)
def test_sizes_are_those_of_a_drafter_s_layer(place: Place, config: Json, expected: tuple[int, ...]) -> None:
    facts = target_facts(place[0], put(place, {"config.json": json.dumps({**CONFIG, **config}).encode()}))
    sizes = facts.sizes
    assert sizes
    assert (sizes.intermediate_size, sizes.num_heads, sizes.num_kv_heads, sizes.head_dim) == expected
    assert sizes.weight_mib == 10


@pytest.mark.parametrize(
    ("name", "data", "changed"),
    [
        ("config.json", json.dumps({**CONFIG, "rope_theta": 1.0}).encode(), {"fingerprint"}),
        ("generation_config.json", b"{}", {"fingerprint"}),
        ("tokenizer.json", b"{}", {"fingerprint", "tokenizerHash"}),
        ("tokenizer_config.json", b"{}", {"fingerprint", "tokenizerHash"}),
        ("chat_template.jinja", b"{{ other }}", {"fingerprint", "chatTemplateHash"}),
        ("model.safetensors", b"\1" + bytes(10 * MIB - 1), {"fingerprint"}),
        ("model.safetensors", bytes(5 * MIB) + b"\1" + bytes(5 * MIB - 1), {"fingerprint"}),
        ("model.safetensors", bytes(10 * MIB - 1) + b"\1", {"fingerprint"}),
        ("model.safetensors", bytes(10 * MIB + 1), {"fingerprint"}),
        ("model-2.safetensors", b"", {"fingerprint"}),
        ("README.md", b"other", set()),
    ],
)
def test_the_fingerprint_follows_what_matters(place: Place, name: str, data: bytes, changed: set[str]) -> None:
    before = target_facts(place[0], put(place)).to_json()
    after = target_facts(place[0], put(place, {name: data})).to_json()
    assert {key for key in before if before[key] != after[key]} == changed


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (dict.fromkeys(FILES), reasons.TARGET_NOT_FOUND),
        ({"config.json": None}, reasons.TARGET_NOT_FOUND),
        ({"tokenizer.json": None}, reasons.TARGET_WITHOUT_TOKENIZER),
        ({"model.safetensors": None}, reasons.TARGET_UNSUPPORTED),
        ({"config.json": b"no JSON"}, reasons.TARGET_UNSUPPORTED),
        ({"config.json": b"[]"}, reasons.TARGET_UNSUPPORTED),
        ({"config.json": b'{"hidden_size": "many"}'}, reasons.TARGET_UNSUPPORTED),
    ],
    ids=["empty", "no config", "no tokenizer", "no weights", "config no JSON", "config a list", "config without sizes"],
)
def test_what_is_wrong_is_named(place: Place, changes: dict[str, bytes | None], reason: str) -> None:
    uri = put(place, changes)
    with pytest.raises(UserError) as caught:
        target_facts(place[0], uri)
    assert (caught.value.reason, uri in caught.value.message) == (reason, True)


def test_a_multimodal_configuration_and_a_quantised_one(place: Place) -> None:
    config = {"text_config": CONFIG, "quantization_config": {"quant_method": "fp8"}, "architectures": ["Two"]}
    facts = target_facts(place[0], put(place, {"config.json": json.dumps(config).encode()}))
    assert (facts.vocab_size, facts.architecture, facts.quantization) == (259, "Two", "fp8")


def test_a_template_inside_the_tokenizer_configuration_counts(place: Place) -> None:
    inside = {"chat_template.jinja": None, "tokenizer_config.json": b'{"chat_template": "{{ messages }}"}'}
    other = {"chat_template.jinja": None, "tokenizer_config.json": b'{"chat_template": "{{ other }}"}'}
    first = target_facts(place[0], put(place, inside))
    second = target_facts(place[0], put(place, other))
    assert first.chat_template_hash != second.chat_template_hash


def test_download(place: Place, tmp_path: Path) -> None:
    uri = put(place)
    code = {"README.md", "modeling.py", "original/consolidated.pth"}
    download_target(place[0], uri, tmp_path / "all")
    assert {path.name: path.read_bytes() for path in (tmp_path / "all").iterdir()} == {
        name: data for name, data in FILES.items() if name not in code
    }
    download_target(place[0], uri, tmp_path / "small", weights=False)
    assert {path.name for path in (tmp_path / "small").iterdir()} == set(FILES) - code - {"model.safetensors"}
