import pytest

from specop.api.contract import check_contract
from specop.api.shared import Contract, TargetFacts, TargetSizes

DIGEST = "sha256:" + "0123456789abcdef" * 4
OTHER = "sha256:" + "fedcba9876543210" * 4
FACTS = TargetFacts(
    fingerprint=DIGEST,
    tokenizer_hash=DIGEST,
    chat_template_hash=DIGEST,
    vocab_size=259,
    hidden_size=64,
    num_layers=4,
    architecture="LlamaForCausalLM",
)
CONTRACT = Contract(target=FACTS, draft_vocab_size=64, aux_layers=[1, 2, 3], decoding_heads=3, trained_length=512)


def test_the_same_target_fits() -> None:
    assert check_contract(CONTRACT, FACTS, speculative_tokens=3) == []


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (
            {"fingerprint": OTHER},
            "target.fingerprint (drafter: sha256:0123456789ab, target: sha256:fedcba987654)",
        ),
        (
            {"tokenizer_hash": OTHER},
            "target.tokenizerHash (drafter: sha256:0123456789ab, target: sha256:fedcba987654)",
        ),
        (
            {"chat_template_hash": OTHER},
            "target.chatTemplateHash (drafter: sha256:0123456789ab, target: sha256:fedcba987654)",
        ),
        ({"vocab_size": 300}, "target.vocabSize (drafter: 259, target: 300)"),
        ({"hidden_size": 32}, "target.hiddenSize (drafter: 64, target: 32)"),
        ({"num_layers": 5}, "target.numLayers (drafter: 4, target: 5)"),
        ({"architecture": "Qwen3"}, "target.architecture (drafter: LlamaForCausalLM, target: Qwen3)"),
        ({"quantization": "fp8"}, "target.quantization (drafter: none, target: fp8)"),
    ],
)
def test_every_field_of_the_target_is_compared_and_named(change: dict[str, object], difference: str) -> None:
    assert check_contract(CONTRACT, FACTS.model_copy(update=change)) == [difference]


def test_every_field_is_in_the_table() -> None:
    assert len(TargetFacts.model_fields.keys() - {"sizes"}) == 8


def test_sizes_identify_nothing() -> None:
    sizes = TargetSizes(intermediate_size=128, num_heads=2, num_kv_heads=1, head_dim=32, weight_mib=1)
    sized = FACTS.model_copy(update={"sizes": sizes})
    assert check_contract(CONTRACT, sized) == []
    assert CONTRACT.model_validate({**CONTRACT.model_dump(), "target": sized}).to_json() == CONTRACT.to_json()


def test_more_tokens_than_trained_steps_and_an_unknown_format() -> None:
    newer = CONTRACT.model_copy(update={"format_version": 2})
    assert check_contract(newer, FACTS, speculative_tokens=4) == [
        "formatVersion (drafter: 2, known: 1)",
        "decodingHeads (drafter: 3, speculativeTokens: 4)",
    ]
