"""What an EAGLE-3 drafter's files must hold so that vLLM loads them for a given target; pure, no tensor library.

Two layouts are read: that of `speculators` (`speculators_model_type` in config.json, tensors `layers.0.…`) and that of
the EAGLE repository (`LlamaForCausalLMEagle3`, tensors `midlayer.…`). vLLM loads both unchanged, so files are never
rewritten. Shapes are those of torch Linear, [out, in]. H: hidden size of the drafter, T: of the target, V: vocabulary
of the target, D: draft vocabulary. A safetensors file is an 8-byte length, a JSON header, and the tensors' bytes.
"""

import json
import struct
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from math import prod
from typing import Any

from specop.api import reasons
from specop.api.shared import Contract, TargetFacts
from specop.common.errors import UserError

CONFIG, TENSORS = "config.json", "model.safetensors"
HEADER_LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100 << 20
DEFAULT_DECODING_HEADS = 3
"""For a drafter whose configuration does not say how many draft steps it was trained for."""
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
BYTES = {"F32": 4, "F16": 2, "BF16": 2, "I64": 8, "BOOL": 1}
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Tensor:
    """One entry of a safetensors header."""

    dtype: str
    shape: Shape
    start: int
    """Byte in the file."""
    end: int


@dataclass(frozen=True, slots=True)
class Layout:
    """Sizes and switches of a drafter, as its config.json says."""

    first_layer: str
    """Prefix of the first layer's tensors."""
    num_layers: int
    hidden: int
    intermediate: int
    query: int
    """Heads times head size."""
    key_value: int
    target_hidden: int
    vocab: int
    draft_vocab: int
    aux_layers: tuple[int, ...]
    attention_bias: bool
    norm_before_fc: bool
    norm_per_aux_layer: bool
    norm_output: bool
    decoding_heads: int
    max_length: int


def invalid(message: str) -> UserError:
    """Make the error of weights that no retry makes valid."""
    return UserError(reasons.WEIGHTS_INVALID, message)


def read_layout(config: Mapping[str, Any], facts: TargetFacts) -> Layout:
    """Read a drafter's config.json. Raises UserError(WeightsInvalid) naming the key that is missing or wrong."""
    speculators = "speculators_model_type" in config
    if speculators and config["speculators_model_type"] != "eagle3":
        raise invalid(f"{CONFIG}: speculators_model_type is {config['speculators_model_type']!r}, not 'eagle3'.")
    if not speculators and "LlamaForCausalLMEagle3" not in (config.get("architectures") or []):
        raise invalid(f"{CONFIG} is neither a speculators configuration nor one of LlamaForCausalLMEagle3.")
    inner = config.get("transformer_layer_config", {}) if speculators else config
    eagle = config.get("eagle_config") or {}
    heads = _size(inner, "num_attention_heads")
    hidden = _size(inner, "hidden_size")
    head_size = inner.get("head_dim") or hidden // heads
    layers = config.get("eagle_aux_hidden_state_layer_ids") or eagle.get("eagle_aux_hidden_state_layer_ids")
    depth = facts.num_layers
    return Layout(
        first_layer="layers.0." if speculators else "midlayer.",
        num_layers=inner.get("num_hidden_layers", 1),
        hidden=hidden,
        intermediate=_size(inner, "intermediate_size"),
        query=heads * head_size,
        key_value=(inner.get("num_key_value_heads") or heads) * head_size,
        target_hidden=config.get("target_hidden_size") or hidden,
        vocab=_size(inner, "vocab_size"),
        draft_vocab=config.get("draft_vocab_size") or _size(inner, "vocab_size"),
        aux_layers=tuple(sorted(set(layers or (2, depth // 2, depth - 3)))),
        attention_bias=bool(inner.get("attention_bias")),
        norm_before_fc=bool(eagle.get("norm_before_fc", config.get("norm_before_fc"))),
        norm_per_aux_layer=bool(config.get("fc_norm")),
        norm_output=bool(config.get("norm_output")),
        decoding_heads=_decoding_heads(config),
        max_length=_size(inner, "max_position_embeddings"),
    )


def parse_header(head: bytes, file_size: int) -> dict[str, Tensor]:
    """Read the header from the first bytes of a safetensors file; raises UserError where it and the size disagree."""
    try:
        (length,) = struct.unpack_from("<Q", head)
        begin = HEADER_LENGTH_BYTES + length
        if length > MAX_HEADER_BYTES or begin > len(head):
            raise invalid(f"{TENSORS} has no safetensors header.")
        entries = json.loads(head[HEADER_LENGTH_BYTES:begin])
        tensors = {
            name: Tensor(
                entry["dtype"],
                tuple(entry["shape"]),
                begin + entry["data_offsets"][0],
                begin + entry["data_offsets"][1],
            )
            for name, entry in entries.items()
            if name != "__metadata__"
        }
    except (struct.error, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise invalid(f"{TENSORS} has no safetensors header.") from error
    end = max((tensor.end for tensor in tensors.values()), default=begin)
    if end != file_size:
        raise invalid(f"{TENSORS} has {file_size} bytes where its header says {end}: the upload is not complete.")
    return tensors


def check_tensors(layout: Layout, tensors: Mapping[str, Tensor], facts: TargetFacts) -> None:
    """Compare sizes with the target and every tensor with the layout; raises UserError naming what is wrong."""
    for name, drafter, target in (
        ("vocab_size", layout.vocab, facts.vocab_size),
        ("target_hidden_size", layout.target_hidden, facts.hidden_size),
    ):
        if drafter != target:
            raise invalid(f"{CONFIG}: {name} is {drafter}, the target's is {target}.")
    if not all(0 <= layer <= facts.num_layers for layer in layout.aux_layers):
        raise invalid(f"{CONFIG}: captured layers {list(layout.aux_layers)}, the target has {facts.num_layers} layers.")
    required = _required(layout)
    known = {**_optional(layout), **required}
    for name, shape in required.items():
        if name not in tensors:
            raise invalid(f"{TENSORS} has no tensor {name} (shape {list(shape)}).")
    for name, tensor in tensors.items():
        if name not in known:
            raise invalid(f"{TENSORS}: tensor {name} does not belong to this architecture.")
        _check_tensor(name, tensor, known[name])


def _check_tensor(name: str, tensor: Tensor, shape: Shape) -> None:
    if tensor.shape != shape:
        raise invalid(f"{TENSORS}: tensor {name} has shape {list(tensor.shape)}, expected {list(shape)}.")
    if tensor.dtype not in ({"d2t": {"I64"}, "t2d": {"BOOL"}}.get(name) or DTYPES):
        raise invalid(f"{TENSORS}: tensor {name} has dtype {tensor.dtype}.")
    if tensor.end - tensor.start != prod(shape) * BYTES[tensor.dtype]:
        raise invalid(f"{TENSORS}: tensor {name} has {tensor.end - tensor.start} bytes, too many or too few.")


def check_draft_vocabulary(offsets: bytes, layout: Layout) -> None:
    """Check `d2t` (int64, little endian): draft token i stands for target token i + d2t[i], each inside V and once."""
    values = array("q", offsets)
    kept = [index + offset for index, offset in zip(count(), values, strict=False)]
    if not all(0 <= token < layout.vocab for token in kept):
        raise invalid(f"{TENSORS}: tensor d2t points outside the target's vocabulary of {layout.vocab}.")
    if len(set(kept)) != len(kept):
        raise invalid(f"{TENSORS}: tensor d2t maps two draft tokens to one target token; it must hold offsets.")


def contract_of(layout: Layout, tensors: Mapping[str, Tensor], facts: TargetFacts) -> Contract:
    """Make the contract of weights that passed the checks."""
    return Contract(
        target=facts,
        architecture="Eagle31" if layout.norm_per_aux_layer and layout.norm_output else "Eagle3",
        draft_vocab_size=layout.draft_vocab,
        aux_layers=list(layout.aux_layers),
        decoding_heads=layout.decoding_heads,
        trained_length=layout.max_length,
        dtype=DTYPES[tensors["fc.weight"].dtype],
    )


def _required(layout: Layout) -> dict[str, Shape]:
    hidden, aux = layout.hidden, len(layout.aux_layers)
    shapes: dict[str, Shape] = {"fc.weight": (hidden, aux * layout.target_hidden), "norm.weight": (hidden,)}
    for index in range(layout.num_layers):
        prefix = layout.first_layer if index == 0 else f"layers.{index}."
        width = 2 * hidden if index == 0 else hidden  # the first layer sees embedding and fused state side by side
        shapes |= {
            f"{prefix}self_attn.q_proj.weight": (layout.query, width),
            f"{prefix}self_attn.k_proj.weight": (layout.key_value, width),
            f"{prefix}self_attn.v_proj.weight": (layout.key_value, width),
            f"{prefix}self_attn.o_proj.weight": (hidden, layout.query),
            f"{prefix}mlp.gate_proj.weight": (layout.intermediate, hidden),
            f"{prefix}mlp.up_proj.weight": (layout.intermediate, hidden),
            f"{prefix}mlp.down_proj.weight": (hidden, layout.intermediate),
            f"{prefix}input_layernorm.weight": (hidden,),
            f"{prefix}hidden_norm.weight": (hidden,),
            f"{prefix}post_attention_layernorm.weight": (hidden,),
        }
    if layout.draft_vocab != layout.vocab:
        shapes |= {"lm_head.weight": (layout.draft_vocab, hidden), "d2t": (layout.draft_vocab,)}
    if hidden != layout.target_hidden:  # else the engine shares the target's
        shapes["embed_tokens.weight"] = (layout.vocab, hidden)
    if layout.norm_before_fc:
        shapes["input_norm.weight"] = (aux * layout.target_hidden,)
    if layout.norm_per_aux_layer:
        shapes |= {f"fc_norm.{index}.weight": (layout.target_hidden,) for index in range(aux)}
    return shapes


def _optional(layout: Layout) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {
        "t2d": (layout.vocab,),
        "d2t": (layout.draft_vocab,),
        "lm_head.weight": (layout.draft_vocab, layout.hidden),
        "embed_tokens.weight": (layout.vocab, layout.hidden),
    }
    if layout.attention_bias:
        attention = f"{layout.first_layer}self_attn."
        shapes |= {
            f"{attention}q_proj.bias": (layout.query,),
            f"{attention}k_proj.bias": (layout.key_value,),
            f"{attention}v_proj.bias": (layout.key_value,),
            f"{attention}o_proj.bias": (layout.hidden,),
        }
    return shapes


def _size(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or value < 1:
        raise invalid(f"{CONFIG}: {key} is {value!r}, expected a positive integer.")
    return value


def _decoding_heads(config: Mapping[str, Any]) -> int:
    methods = (config.get("speculators_config") or {}).get("proposal_methods") or [{}]
    return int(methods[0].get("speculative_tokens") or DEFAULT_DECODING_HEADS)
