"""Drafter files by hand: headers and zero bytes, in both layouts, for the target of `tests.tiny` or any other sizes."""

import json
import struct
from array import array
from pathlib import Path
from typing import Any

from specop.api.shared import Contract, TargetFacts
from specop.storage.blobs import Manifest, drafter_digest, put_file, write_manifest
from specop.storage.local import LocalStore
from specop.storage.target import target_facts

DIGEST = "sha256:" + "0" * 64
FACTS = TargetFacts(
    fingerprint=DIGEST,
    tokenizer_hash=DIGEST,
    chat_template_hash=DIGEST,
    vocab_size=259,
    hidden_size=64,
    num_layers=4,
    architecture="LlamaForCausalLM",
)
CONTRACT = Contract(
    target=FACTS,
    draft_vocab_size=96,
    aux_layers=[1, 2, 3],
    decoding_heads=4,
    trained_length=512,
    dtype="float32",
)
HIDDEN, INTERMEDIATE, QUERY, KEY_VALUE, DRAFT_VOCAB = 64, 128, 64, 32, 96
LLAMA = {
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": INTERMEDIATE,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "num_hidden_layers": 1,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 512,
    "rope_theta": 10000.0,
    "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
    "attention_bias": False,
    "mlp_bias": False,
    "vocab_size": 259,
    "tie_word_embeddings": False,
}
SPECULATORS = {
    "architectures": ["Eagle3DraftModel"],
    "speculators_model_type": "eagle3",
    "speculators_version": "0.9.0",
    "draft_vocab_size": DRAFT_VOCAB,
    "norm_before_residual": False,
    "target_hidden_size": None,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "transformer_layer_config": LLAMA,
    "eagle_aux_hidden_state_layer_ids": [1, 2, 3],
    "speculators_config": {
        "algorithm": "eagle3",
        "default_proposal_method": "greedy",
        "proposal_methods": [{"proposal_type": "greedy", "speculative_tokens": 4}],
        "verifier": {"name_or_path": "target", "architectures": ["LlamaForCausalLM"]},
    },
}
EAGLE = {
    **LLAMA,
    "architectures": ["LlamaForCausalLMEagle3"],
    "draft_vocab_size": DRAFT_VOCAB,
    "torch_dtype": "float32",
    "eagle_config": {"eagle_aux_hidden_state_layer_ids": [1, 2, 3], "use_aux_hidden_state": True},
}
Tensors = dict[str, tuple[str, tuple[int, ...]]]
ITEM_SIZE = {"F32": 4, "F16": 2, "BF16": 2, "I64": 8, "BOOL": 1}


def tensors(first_layer: str = "layers.0.", dtype: str = "F32") -> Tensors:
    shapes = {
        "fc.weight": (HIDDEN, 3 * HIDDEN),
        "norm.weight": (HIDDEN,),
        "lm_head.weight": (DRAFT_VOCAB, HIDDEN),
        f"{first_layer}self_attn.q_proj.weight": (QUERY, 2 * HIDDEN),
        f"{first_layer}self_attn.k_proj.weight": (KEY_VALUE, 2 * HIDDEN),
        f"{first_layer}self_attn.v_proj.weight": (KEY_VALUE, 2 * HIDDEN),
        f"{first_layer}self_attn.o_proj.weight": (HIDDEN, QUERY),
        f"{first_layer}mlp.gate_proj.weight": (INTERMEDIATE, HIDDEN),
        f"{first_layer}mlp.up_proj.weight": (INTERMEDIATE, HIDDEN),
        f"{first_layer}mlp.down_proj.weight": (HIDDEN, INTERMEDIATE),
        f"{first_layer}input_layernorm.weight": (HIDDEN,),
        f"{first_layer}hidden_norm.weight": (HIDDEN,),
        f"{first_layer}post_attention_layernorm.weight": (HIDDEN,),
    }
    floats: Tensors = {name: (dtype, shape) for name, shape in shapes.items()}
    return {**floats, "d2t": ("I64", (DRAFT_VOCAB,)), "t2d": ("BOOL", (259,))}


def write(folder: Path, config: dict[str, Any], parts: Tensors, d2t: list[int] | None = None) -> Path:
    """Write config.json and model.safetensors; all tensors are zero but `d2t`, which may be given."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    header, data = {}, b""
    for name, (dtype, shape) in parts.items():
        size = ITEM_SIZE[dtype]
        for side in shape:
            size *= side
        piece = array("q", d2t).tobytes() if name == "d2t" and d2t is not None else bytes(size)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(piece)]}
        data += piece
    head = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + data)
    return folder


def published(tmp_path: Path, target: str, **other: Any) -> tuple[str, str]:
    """Store a drafter as the trainer does; URI and digest of its manifest."""
    folder = write(tmp_path / "drafter", SPECULATORS, tensors())
    facts = target_facts(LocalStore(), target).model_copy(update=other)
    contract = CONTRACT.model_copy(update={"target": facts}).to_json()
    store, output = LocalStore(), f"file://{tmp_path}/out"
    files = tuple(put_file(store, output, folder / name) for name in ("config.json", "model.safetensors"))
    digest = drafter_digest(files, contract)
    manifest = Manifest(format="specop.drafter/1", digest=digest, files=files, contract=contract)
    return write_manifest(store, output, manifest), digest
