"""Drafting as an engine does it, written out: one token at a time, keys in a list, nothing shared with the trainer's
unrolled pass but the parameters."""

from collections.abc import Callable

import torch
from torch import Tensor

from specop.trainer.model import Eagle3


@torch.no_grad()
def draft(
    model: Eagle3,
    vocabulary_D: Tensor,
    ids: list[int],
    aux_nCH: Tensor,
    *,
    anchor: int,
    steps: int,
    choose: Callable[[Tensor], int] = lambda logits_D: int(logits_D.argmax()),
) -> list[int]:
    """Tokens drafted after `ids[: anchor + 2]`, of which the target has seen all but the last."""
    layer, attention = model.layer, model.layer.self_attn
    found: list[int] = []

    def inputs(embedding_NH: Tensor, h_NH: Tensor) -> tuple[Tensor, Tensor]:
        x_NH, residual_NH = layer.inputs(h_NH)
        return torch.cat([layer.input_layernorm(embedding_NH), x_NH], dim=-1), residual_NH

    def keys_values(x_NX: Tensor, angles: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return layer.keys_values(torch.cat([attention.k_proj(x_NX), attention.v_proj(x_NX)], dim=1), angles)

    fed = torch.tensor(ids[1 : anchor + 2])
    x_NX, residual_NH = inputs(model.embedding_VH[fed], model.fuse(aux_nCH[: anchor + 1]))
    position_N = torch.arange(anchor + 1)
    keys, values = keys_values(x_NX, layer.angles(position_N))
    x_X, residual_H, position = x_NX[-1:], residual_NH[-1:], position_N[-1:]
    for _ in range(steps):
        q_Hd = layer.rotated(attention.q_proj(x_X), layer.angles(position))[0]
        group = q_Hd.shape[0] // keys.shape[1]
        k, v = keys.repeat_interleave(group, dim=1), values.repeat_interleave(group, dim=1)
        weights_HT = (torch.einsum("hd,thd->ht", q_Hd, k) * q_Hd.shape[-1] ** -0.5).softmax(-1)
        out = layer.finish(torch.einsum("ht,thd->hd", weights_HT, v)[None], residual_H)
        normed = model.norm(out)
        token = vocabulary_D[choose(model.lm_head(normed)[0])]
        found.append(int(token))
        x_X, residual_H = inputs(model.embedding_VH[token][None], normed if model.config.modern else out)
        position = position + 1
        more_k, more_v = keys_values(x_X, layer.angles(position))
        keys, values = torch.cat([keys, more_k]), torch.cat([values, more_v])
    return found
