"""The drafter: one Llama decoder layer between the target's captured states and a head over the draft vocabulary.

At position i it reads the embedding of the next token x[i+1] and a state h[i], and proposes x[i+2]. At draft step 0 the
state is made of the target's captured layers; at a later step it is the drafter's own output of the step before.

    h       = fc(concatenated states)                   Eagle31: an RMSNorm per captured layer before fc
    input   = [input_layernorm(embedding) ; hidden_norm(h)]
    a       = residual + o_proj(attention(input))       residual: h, or hidden_norm(h) where norm_before_residual
    out     = a + mlp(post_attention_layernorm(a))
    logits  = lm_head(norm(out))                        next h: out, or norm(out) where norm_output (Eagle31)

Names and shapes of the parameters are those of the file that engines load (`export.py`). The embedding is the target's
own, frozen, raw rows without a family's multiplier, and is no parameter.

Queries, keys and values are products with [embedding ; h], so a sum of two. The embedding that anchor a is fed at draft
step k is the one that anchor a + k is fed at step 0: its half is made once, and later steps add the half of h.

Numerics: norms, rotation and residuals are float32 or wider. What enters a matrix product, and queries, keys and
values, are in the dtype of the products: bfloat16 under autocast, as in an engine, else that of the parameters. The
embedding's half of queries, keys and values is rounded to it once more, before the other half is added.

Shapes in names: N tokens of a pack, A anchors, K draft steps, H hidden, D draft vocabulary, V vocabulary, C captured
layers, d head size, F features of queries, keys and values together, E of keys and values.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from specop.trainer.attention import Sight, ttt_attention, wide
from specop.trainer.batches import Pack
from specop.trainer.fusion import fused


@dataclass(frozen=True, slots=True)
class DrafterConfig:
    """Everything that the shape of a drafter and its forward pass depend on."""

    architecture: Literal["Eagle3", "Eagle31"]
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_parameters: dict[str, Any]
    max_positions: int
    vocab_size: int
    draft_vocab_size: int
    aux_layers: tuple[int, ...]

    @property
    def modern(self) -> bool:
        """Eagle31: norms per captured layer, normed recurrence, and the residual taken after the norm."""
        return self.architecture == "Eagle31"

    def llama(self) -> dict[str, Any]:
        """Return the layer as keys of a Llama configuration; `vocab_size` is the target's."""
        return {
            "model_type": "llama",
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "num_hidden_layers": 1,
            "hidden_act": "silu",
            "rms_norm_eps": self.rms_norm_eps,
            "rope_parameters": dict(self.rope_parameters),
            "rope_theta": self.rope_parameters["rope_theta"],
            "max_position_embeddings": self.max_positions,
            "attention_bias": False,
            "mlp_bias": False,
            "vocab_size": self.vocab_size,
            "tie_word_embeddings": False,
        }

    def with_vocabulary(self, draft_vocab_size: int) -> "DrafterConfig":
        """Return the same with another draft vocabulary."""
        return replace(self, draft_vocab_size=draft_vocab_size)


class RMSNorm(nn.Module):
    """Root-mean-square norm with a weight; computed in float32 or wider."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Norm over the last dimension."""
        return _normed(x, self.weight, self.eps)


@fused
def _normed(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return F.rms_norm(wide(x), weight.shape, weight, eps)


@fused
def _normed_parts(x_NCH: Tensor, weight_CH: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """Norm each captured layer with its own weight, and lay them side by side."""
    return (F.rms_norm(wide(x_NCH), x_NCH.shape[-1:], None, eps) * weight_CH).flatten(1).to(dtype)


@fused
def _normed_twice(x_NH: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the norm in `dtype`, and as it is."""
    normed_NH = F.rms_norm(wide(x_NH), weight.shape, weight, eps)
    return normed_NH.to(dtype), normed_NH


@fused
def _normed_sum(x_AH: Tensor, more_AH: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return a sum, and its norm in `dtype`."""
    sum_AH = x_AH + more_AH
    return sum_AH, F.rms_norm(sum_AH, weight.shape, weight, eps).to(dtype)


@fused
def _rotated(x_NHd: Tensor, cos_Nd: Tensor, sin_Nd: Tensor) -> Tensor:
    """Turn each pair (i, i + d/2) by its position's angle, as Llama lays them out."""
    wide_NHd = wide(x_NHd)
    low_NHd, high_NHd = wide_NHd.chunk(2, dim=-1)
    turned_NHd = torch.cat([-high_NHd, low_NHd], dim=-1)
    return (wide_NHd * cos_Nd[:, None] + turned_NHd * sin_Nd[:, None]).to(x_NHd.dtype)


@fused
def _gated(gate_AI: Tensor, up_AI: Tensor) -> Tensor:
    return F.silu(gate_AI) * up_AI


class Attention(nn.Module):
    """Projections only; the attention itself is `ttt_attention`."""

    def __init__(self, c: DrafterConfig) -> None:
        super().__init__()
        self.q_proj = nn.Linear(2 * c.hidden_size, c.num_heads * c.head_dim, bias=False)
        self.k_proj = nn.Linear(2 * c.hidden_size, c.num_kv_heads * c.head_dim, bias=False)
        self.v_proj = nn.Linear(2 * c.hidden_size, c.num_kv_heads * c.head_dim, bias=False)
        self.o_proj = nn.Linear(c.num_heads * c.head_dim, c.hidden_size, bias=False)


class MLP(nn.Module):
    """Gated feed-forward network."""

    def __init__(self, c: DrafterConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.up_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.down_proj = nn.Linear(c.intermediate_size, c.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (…, H) to (…, H)."""
        out: Tensor = self.down_proj(_gated(self.gate_proj(x), self.up_proj(x)))
        return out


class DecoderLayer(nn.Module):
    """The one layer, in the pieces that an unrolled draft step needs."""

    def __init__(self, c: DrafterConfig) -> None:
        super().__init__()
        self.self_attn = Attention(c)
        self.mlp = MLP(c)
        self.input_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.hidden_norm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.norm_before_residual = c.modern
        self.head_dim = c.head_dim
        rope = LlamaConfig(**c.llama())
        self.rotary = LlamaRotaryEmbedding(rope)

    @property
    def compute(self) -> torch.dtype:
        """Dtype of the matrix products."""
        weight = self.self_attn.q_proj.weight
        autocast = torch.is_autocast_enabled(weight.device.type)
        return torch.get_autocast_dtype(weight.device.type) if autocast else weight.dtype

    def inputs(self, h_NH: Tensor) -> tuple[Tensor, Tensor]:
        """Return the attention's input and the residual, each NH."""
        x_NH, normed_NH = _normed_twice(h_NH, self.hidden_norm.weight, self.hidden_norm.eps, self.compute)
        return x_NH, normed_NH if self.norm_before_residual else h_NH

    def embedded(self, embedding_NH: Tensor) -> Tensor:
        """Return the normed embeddings."""
        norm = self.input_layernorm
        return _normed_twice(embedding_NH, norm.weight, norm.eps, self.compute)[0]

    def projections(self) -> tuple[Tensor, Tensor]:
        """Weights of queries, keys and values, one below the other: by the normed embedding, and by h, each (F, H)."""
        attention = self.self_attn
        weights = [attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]
        by_embedding_FH, by_h_FH = torch.cat(weights).to(self.compute).chunk(2, dim=1)
        return by_embedding_FH, by_h_FH

    def angles(self, position_N: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the rotary embedding at these positions, each (N, d), float32."""
        cos, sin = self.rotary(self.input_layernorm.weight, position_N[None])
        return cos[0], sin[0]

    def rotated(self, x_NF: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
        """Split into heads and apply the rotary embedding: N heads d."""
        return _rotated(self._heads(x_NF), *angles)

    def keys_values(self, kv_NE: Tensor, angles: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Keys and values, each (N, key-value heads, d)."""
        k_NF, v_NF = kv_NE.chunk(2, dim=1)
        return self.rotated(k_NF, angles), self._heads(v_NF)

    def _heads(self, x_NF: Tensor) -> Tensor:
        return x_NF.view(len(x_NF), -1, self.head_dim)

    def finish(self, attended_AHd: Tensor, residual_AH: Tensor) -> Tensor:
        """From attended heads to the layer's output, before the final norm."""
        norm, more_AH = self.post_attention_layernorm, self.self_attn.o_proj(attended_AHd.flatten(1))
        a_AH, normed_AH = _normed_sum(residual_AH, more_AH, norm.weight, norm.eps, self.compute)
        out: Tensor = a_AH + self.mlp(normed_AH)
        return out


class Eagle3(nn.Module):
    """The drafter's parameters and its unrolled forward pass."""

    def __init__(self, config: DrafterConfig, embedding_VH: Tensor) -> None:
        super().__init__()
        self.config = config
        if config.modern:
            norms = [RMSNorm(config.hidden_size, config.rms_norm_eps) for _ in config.aux_layers]
            self.fc_norm: nn.ModuleList | None = nn.ModuleList(norms)
        else:
            self.fc_norm = None
        self.fc = nn.Linear(len(config.aux_layers) * config.hidden_size, config.hidden_size, bias=False)
        self.layers = nn.ModuleList([DecoderLayer(config)])
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.draft_vocab_size, bias=False)
        self.register_buffer("embedding_VH", embedding_VH, persistent=False)
        self.embedding_VH: Tensor

    @property
    def layer(self) -> DecoderLayer:
        """The one layer."""
        return cast("DecoderLayer", self.layers[0])

    @torch.no_grad()
    def initialise(self, head_DH: Tensor, seed: int) -> None:
        """Start from the target: its head's rows, the mean of its captured states; the layer is random by `seed`."""
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.layers.parameters():
            if parameter.dim() > 1:
                parameter.copy_(torch.empty(parameter.shape).normal_(std=0.02, generator=generator))
        captured = len(self.config.aux_layers)
        self.fc.weight.copy_(torch.eye(self.config.hidden_size).repeat(1, captured) / captured)
        self.lm_head.weight.copy_(head_DH)

    def fuse(self, aux_NCH: Tensor) -> Tensor:
        """From captured states to h: (N, C, H) to (N, H)."""
        if self.fc_norm is None:
            aux_NX = aux_NCH.flatten(1).to(self.layer.compute)
        else:
            weight_CH = torch.stack([cast("RMSNorm", norm).weight for norm in self.fc_norm])
            aux_NX = _normed_parts(aux_NCH, weight_CH, self.config.rms_norm_eps, self.layer.compute)
        h_NH: Tensor = self.fc(aux_NX)
        return h_NH

    def unroll(self, pack: Pack, steps: int) -> Iterator[Tensor]:
        """Yield for each draft step the normed state of every anchor, (A, H): the head's input.

        The tokens fed at later steps are the served ones; where a draft agrees with them, that is what serving feeds.
        Only anchors are computed past the keys and values of step 0.
        """
        layer, rows = self.layer, pack.anchor_A
        sight = Sight.of(pack.segments, rows, len(pack.next_N))
        by_embedding_FH, by_h_FH = layer.projections()
        Q = layer.self_attn.q_proj.out_features
        x_NH, residual_NH = layer.inputs(self.fuse(pack.aux_NCH))
        embedded_NH = layer.embedded(self.embedding_VH[pack.next_N])
        embedded_NE = embedded_NH @ by_embedding_FH[Q:].T
        angles_N = layer.angles(pack.position_N)
        k_NGd, v_NGd = layer.keys_values(torch.addmm(embedded_NE, x_NH, by_h_FH[Q:].T), angles_N)
        embedded_AQ = embedded_NH[rows] @ by_embedding_FH[:Q].T
        embedded_AF = torch.cat([embedded_AQ, embedded_NE[rows]], dim=1)
        residual_AH, position_A = residual_NH[rows], pack.position_N[rows]
        angles_A = (angles_N[0][rows], angles_N[1][rows])
        q_AQ = torch.addmm(embedded_AQ, x_NH[rows], by_h_FH[:Q].T)
        diagonals: list[tuple[Tensor, Tensor]] = []
        h_AH = residual_AH
        for step in range(steps):
            if step:
                x_AH, residual_AH = layer.inputs(h_AH)
                qkv_AF = torch.addmm(embedded_AF.roll(-step, 0), x_AH, by_h_FH.T)  # the last ones have no label there
                angles_A = layer.angles(position_A + step)
                q_AQ, kv_AE = qkv_AF.tensor_split((Q,), dim=1)
                diagonals.append(layer.keys_values(kv_AE, angles_A))
            q_AHd = layer.rotated(q_AQ, angles_A)
            out_AH = layer.finish(ttt_attention(q_AHd, k_NGd, v_NGd, diagonals, sight), residual_AH)
            normed_AH = self.norm(out_AH)
            h_AH = normed_AH if self.config.modern else out_AH
            yield normed_AH
