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

Shapes in names: N tokens of a pack, A anchors, K draft steps, H hidden, X = 2H, D draft vocabulary, V vocabulary,
C captured layers, d head size.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from specop.trainer.attention import ttt_attention
from specop.trainer.batches import Pack

HEAD_BLOCK_ELEMENTS = 1 << 22
"""Rows times draft vocabulary of one block of logits where only the best is wanted."""


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
        wide = x if x.dtype == torch.float64 else x.float()
        return F.rms_norm(wide, self.weight.shape, self.weight, self.eps)


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
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
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

    def inputs(self, embedding_NH: Tensor, h_NH: Tensor) -> tuple[Tensor, Tensor]:
        """Return the attention's input NX and the residual NH."""
        normed_NH = self.hidden_norm(h_NH)
        residual_NH = normed_NH if self.norm_before_residual else h_NH
        return torch.cat([self.input_layernorm(embedding_NH), normed_NH], dim=-1), residual_NH

    def rotate(self, x_NX: Tensor, projection: nn.Linear, position_N: Tensor) -> Tensor:
        """Project to heads and apply the rotary embedding of the positions: N heads d, float32 or wider."""
        x_NHd = self.heads(projection(x_NX))
        cos, sin = self.rotary(x_NHd, position_N[None])
        rotated, _ = apply_rotary_pos_emb(x_NHd, x_NHd[:, :0], cos[0], sin[0], unsqueeze_dim=1)
        return rotated  # type: ignore[no-any-return]

    def heads(self, x_NF: Tensor) -> Tensor:
        """Split features into heads, float32 or wider."""
        wide = x_NF if x_NF.dtype == torch.float64 else x_NF.float()
        return wide.view(len(x_NF), -1, self.head_dim)

    def keys_values(self, x_NX: Tensor, position_N: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (N, key-value heads, d)."""
        attention = self.self_attn
        return self.rotate(x_NX, attention.k_proj, position_N), self.heads(attention.v_proj(x_NX))

    def finish(self, attended_AHd: Tensor, residual_AH: Tensor) -> Tensor:
        """From attended heads to the layer's output, before the final norm."""
        a_AH = residual_AH + self.self_attn.o_proj(attended_AHd.flatten(1))
        out: Tensor = a_AH + self.mlp(self.post_attention_layernorm(a_AH))
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
            aux_NCH = aux_NCH.to(self.fc.weight.dtype)
        else:
            aux_NCH = torch.stack([norm(aux_NCH[:, c]) for c, norm in enumerate(self.fc_norm)], dim=1)
        h_NH: Tensor = self.fc(aux_NCH.flatten(1))
        return h_NH

    def unroll(self, pack: Pack, steps: int) -> Iterator[Tensor]:
        """Yield for each draft step the normed state of every anchor, (A, H): the head's input.

        The tokens fed at later steps are the served ones; where a draft agrees with them, that is what serving feeds.
        Only anchors are computed past the keys and values of step 0.
        """
        layer, rows = self.layer, pack.anchor_A
        x_NX, residual_NH = layer.inputs(self.embedding_VH[pack.next_N], self.fuse(pack.aux_NCH))
        k_NGd, v_NGd = layer.keys_values(x_NX, pack.position_N)
        x_AX, residual_AH, position_A = x_NX[rows], residual_NH[rows], pack.position_N[rows]
        diagonals: list[tuple[Tensor, Tensor]] = []
        h_AH = residual_AH
        for step in range(steps):
            if step:
                embedding_AH = self.embedding_VH[pack.later(pack.served_A, step - 1)]
                x_AX, residual_AH = layer.inputs(embedding_AH, h_AH)
                diagonals.append(layer.keys_values(x_AX, position_A + step))
            q_AHd = layer.rotate(x_AX, layer.self_attn.q_proj, position_A + step)
            out_AH = layer.finish(ttt_attention(q_AHd, k_NGd, v_NGd, diagonals, pack.segments), residual_AH)
            normed_AH = self.norm(out_AH)
            h_AH = normed_AH if self.config.modern else out_AH
            yield normed_AH

    def propose(self, hidden_AH: Tensor) -> Tensor:
        """Draft ids of the most likely tokens, (A,), block by block."""
        rows = max(1, HEAD_BLOCK_ELEMENTS // self.config.draft_vocab_size)
        return torch.cat([self.lm_head(hidden_CH).argmax(-1) for hidden_CH in torch.split(hidden_AH, rows)])
