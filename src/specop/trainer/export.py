"""The drafter as files, in one of two layouts; vLLM loads both unchanged.

    Speculators    configuration of the `speculators` library, tensors `layers.0.…`
    Eagle          configuration of LlamaForCausalLMEagle3, tensors `midlayer.…`: what SGLang and SpecForge read

Every key is written that readers take different defaults for (`norm_before_residual` is one), so that none has to
guess. Captured layers are counted as vLLM counts them: layer k is the residual stream after k decoder layers. SGLang
counts the layer whose output that is, k - 1, and reads it from another key, so the Eagle layout has both.

Parameters have the names of the first layout (`model.py`). The draft vocabulary is stored as offsets: draft token i
stands for target token i + d2t[i]; where it is the whole vocabulary there is no d2t, and engines then expect none. The
embedding is not stored: engines share the target's.

Reading accepts exactly what is written here, and of weights made elsewhere those that mean the same.
"""

import json
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from specop.api import reasons
from specop.common.errors import UserError
from specop.trainer.model import DrafterConfig, Eagle3
from specop.trainer.vocabulary import draft_ids

Layout = Literal["Speculators", "Eagle"]
CONFIG, TENSORS = "config.json", "model.safetensors"
LAYOUT_VERSION = "0.9.0"
"""Version of speculators whose layout this is."""
DTYPE = torch.bfloat16
FIRST_LAYERS: dict[Layout, str] = {"Speculators": "layers.0.", "Eagle": "midlayer."}
"""What the layer's tensors begin with."""
SHAPE = (
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "num_hidden_layers",
    "rms_norm_eps",
    "rope_parameters",
    "attention_bias",
    "vocab_size",
)
"""Keys of a Llama configuration that decide what a drafter computes."""


def write_drafter(
    folder: Path,
    config: DrafterConfig,
    weights: dict[str, Tensor],
    vocabulary_D: Tensor,
    *,
    steps: int,
    verifier: dict[str, Any],
    layout: Layout = "Speculators",
) -> None:
    """Write config.json and model.safetensors, in bfloat16.

    `steps`: draft steps that it was trained for. `verifier`: name and architectures of the target.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {_name(name, layout): tensor.to(DTYPE).contiguous() for name, tensor in weights.items()}
    if config.draft_vocab_size != config.vocab_size:
        tensors["d2t"] = vocabulary_D - torch.arange(len(vocabulary_D))
        tensors["t2d"] = draft_ids(vocabulary_D, config.vocab_size) >= 0
    said = speculators_json(config, steps, verifier) if layout == "Speculators" else eagle_json(config)
    (folder / CONFIG).write_text(json.dumps(said, indent=2) + "\n")
    save_file(tensors, folder / TENSORS, metadata={"format": "pt"})


def speculators_json(config: DrafterConfig, steps: int, verifier: dict[str, Any]) -> dict[str, Any]:
    """Return config.json of the speculators layout."""
    return {
        "architectures": ["Eagle3DraftModel"],
        "speculators_model_type": "eagle3",
        "speculators_version": LAYOUT_VERSION,
        "embed_requires_grad": False,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "transformer_layer_config": config.llama(),
        "speculators_config": {
            "algorithm": "eagle3",
            "default_proposal_method": "greedy",
            "proposal_methods": [
                {
                    "proposal_type": "greedy",
                    "speculative_tokens": steps,
                    "verifier_accept_k": 1,
                    "accept_tolerance": 0.0,
                }
            ],
            "verifier": verifier,
        },
        **_drafting(config),
    }


def eagle_json(config: DrafterConfig) -> dict[str, Any]:
    """Return config.json of the EAGLE layout; what older transformers call rope_scaling is repeated under that name."""
    rope = config.rope_parameters
    scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
    return {
        **config.llama(),
        "architectures": ["LlamaForCausalLMEagle3"],
        "rope_scaling": None if rope.get("rope_type", "default") == "default" else scaling,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "num_aux_hidden_states": len(config.aux_layers),
        "eagle_config": {
            "eagle_aux_hidden_state_layer_ids": [layer - 1 for layer in config.aux_layers],
            "use_aux_hidden_state": True,
        },
        **_drafting(config),
    }


def _drafting(config: DrafterConfig) -> dict[str, Any]:
    """Return the keys, the same in both layouts, that readers take different defaults for."""
    return {
        "draft_vocab_size": config.draft_vocab_size,
        "target_hidden_size": config.hidden_size,
        "eagle_aux_hidden_state_layer_ids": list(config.aux_layers),
        "norm_before_residual": config.modern,
        "norm_before_fc": False,
        "fc_norm": config.modern,
        "norm_output": config.modern,
    }


def read_drafter(folder: Path, embedding_VH: Tensor, wanted: DrafterConfig) -> tuple[Eagle3, Tensor]:
    """Make a drafter of its files: the model in float32, and its draft vocabulary.

    `wanted` says what it must be, but for the size of the draft vocabulary, which is the file's. Raises UserError
    WarmStartMismatch naming the field or tensor that differs.
    """
    try:
        given = json.loads((folder / CONFIG).read_bytes())
        tensors = load_file(folder / TENSORS)
    except (ValueError, OSError, SafetensorError) as error:
        raise UserError(reasons.WEIGHTS_INVALID, f"{CONFIG} or {TENSORS} of the drafter cannot be read.") from error
    for field, (theirs, ours) in _fields(given, wanted).items():
        if theirs != ours:
            raise _mismatch(f"{field} is {theirs}, this run needs {ours}")
    size = given.get("draft_vocab_size") or wanted.vocab_size
    d2t = tensors.get("d2t", torch.zeros(size, dtype=torch.long))
    model = Eagle3(wanted.with_vocabulary(size), embedding_VH)
    weights = {
        _name(name, "Speculators"): tensor.float() for name, tensor in tensors.items() if tensor.is_floating_point()
    }
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items() if name != "embed_tokens.weight"}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise _mismatch(f"tensor {name} has shape {found.get(name)}, this run needs {expected.get(name)}")
    model.load_state_dict({name: weights[name] for name in expected})
    return model, d2t + torch.arange(size)


def _fields(given: dict[str, Any], wanted: DrafterConfig) -> dict[str, tuple[Any, Any]]:
    """Every field that shapes the forward pass, as the file has it and as this run needs it."""
    inner = given.get("transformer_layer_config") or given
    eagle = given.get("eagle_config") or {}
    layers = given.get("eagle_aux_hidden_state_layer_ids") or eagle.get("eagle_aux_hidden_state_layer_ids")
    heads = inner.get("num_attention_heads")
    rope = inner.get("rope_parameters") or {"rope_type": "default", "rope_theta": inner.get("rope_theta")}
    found = {
        **inner,
        "num_key_value_heads": inner.get("num_key_value_heads") or heads,
        "head_dim": inner.get("head_dim") or (inner.get("hidden_size") or 0) // (heads or 1),
        "rope_parameters": rope,
        "attention_bias": bool(inner.get("attention_bias")),
    }
    ours = wanted.llama()
    fields = {name: (found.get(name), ours[name]) for name in SHAPE}
    for name in ("norm_before_residual", "fc_norm", "norm_output"):
        fields[name] = (bool(given.get(name)), wanted.modern)
    fields["norm_before_fc"] = (bool(eagle.get("norm_before_fc", given.get("norm_before_fc"))), False)
    if layers is not None:
        fields["eagle_aux_hidden_state_layer_ids"] = (sorted(layers), list(wanted.aux_layers))
    return fields


def _name(name: str, layout: Layout) -> str:
    """Name of a tensor of either layout in this one."""
    for prefix in FIRST_LAYERS.values():
        if name.startswith(prefix):
            return FIRST_LAYERS[layout] + name.removeprefix(prefix)
    return name


def _mismatch(what: str) -> UserError:
    return UserError(
        reasons.WARM_START_MISMATCH, f"The drafter to start from does not fit: {what}. Train from scratch instead."
    )
