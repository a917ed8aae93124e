"""Packs of random states, made by hand, and sizes of drafters. Needs torch and the trainer, nothing of other tests."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from specop.trainer.attention import Segment
from specop.trainer.batches import FREE, Pack
from specop.trainer.model import DrafterConfig

SMOLLM2 = DrafterConfig(
    architecture="Eagle31",
    hidden_size=576,
    intermediate_size=1536,
    num_heads=9,
    num_kv_heads=3,
    head_dim=64,
    rms_norm_eps=1e-5,
    rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
    max_positions=8192,
    vocab_size=49_152,
    draft_vocab_size=4096,
    aux_layers=(2, 15, 27),
)
"""The demo's drafter."""
LLAMA_8B = DrafterConfig(
    architecture="Eagle31",
    hidden_size=4096,
    intermediate_size=14_336,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    rms_norm_eps=1e-5,
    rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
    max_positions=8192,
    vocab_size=128_256,
    draft_vocab_size=32_000,
    aux_layers=(2, 16, 29),
)
"""Of Llama-3.1-8B."""

Document = tuple[int, Sequence[tuple[int, int]]]
"""Tokens, and where anchors stand."""


def make_pack(c: DrafterConfig, documents: Sequence[Document], **given: Any) -> Pack:
    """Lay documents out in a pack; what is not `given` is random, the same each time, and without a grammar."""
    segments, anchors, ends, n0, a0 = [], [], [], 0, 0
    for length, spans in documents:
        for start, stop in spans:
            a1 = a0 + stop - start
            segments.append(Segment(a0, a1, n0, n0 + stop))
            anchors.append(torch.arange(n0 + start, n0 + stop))
            ends.append(torch.full((a1 - a0,), a1))
            a0 = a1
        n0 += length
    random = torch.Generator().manual_seed(0)
    pack = Pack(
        next_N=torch.randint(c.vocab_size, (n0,), generator=random),
        position_N=torch.cat([torch.arange(length) for length, _ in documents]),
        aux_NCH=torch.randn(n0, len(c.aux_layers), c.hidden_size, generator=random).bfloat16(),
        anchor_A=torch.cat(anchors),
        segments=tuple(segments),
        served_A=torch.randint(c.draft_vocab_size, (a0,), generator=random),
        end_A=torch.cat(ends),
        unknown_A=torch.zeros(a0, dtype=torch.bool),
        mask_A=torch.full((a0,), FREE),
        words_MW=torch.zeros(0, 1, dtype=torch.int32),
        temperature_A=torch.ones(a0),
        last_AH=torch.randn(a0, c.hidden_size, generator=random).bfloat16(),
        lse_A=torch.full((a0,), 8.0),
        argmax_A=torch.randint(c.draft_vocab_size, (a0,), generator=random),
        peak_A=torch.zeros(a0),
    )
    return replace(pack, **given)
