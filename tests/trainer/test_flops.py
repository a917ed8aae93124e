"""The arithmetic of `common/flops.py` against what torch counts on the real drafter, its loss and a real target."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from specop.common.flops import DrafterShape, TargetShape, Work, judging_flops, teacher_flops, training_flops
from specop.trainer.batches import Row
from specop.trainer.evaluate import evaluate
from specop.trainer.losses import Labels, StepWeights, head_loss
from specop.trainer.model import DrafterConfig, Eagle3
from tests.trainer.packs import make_pack

TOLERANCE = 0.05
HIDDEN, VOCAB, DRAFT, STEPS = 192, 1200, 1024, 3
DOCUMENTS = ((400, ((100, 160), (300, 400))), (200, ((0, 200),)))
"""Tokens, and where the anchors stand."""


def config(architecture: str) -> DrafterConfig:
    return DrafterConfig(
        architecture=architecture,  # type: ignore[arg-type]
        hidden_size=HIDDEN,
        intermediate_size=512,
        num_heads=6,
        num_kv_heads=2,
        head_dim=32,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        max_positions=2048,
        vocab_size=VOCAB,
        draft_vocab_size=DRAFT,
        aux_layers=(1, 2, 3),
    )


def shape(c: DrafterConfig) -> DrafterShape:
    return DrafterShape(
        hidden=c.hidden_size,
        intermediate=c.intermediate_size,
        queries=c.num_heads * c.head_dim,
        keys=c.num_kv_heads * c.head_dim,
        captured=len(c.aux_layers),
        draft_vocab=c.draft_vocab_size,
        normed_states=c.modern,
    )


def rows() -> list[Row]:
    return [
        Row(
            str(n),
            (0,) * (n + 2),
            tuple((start + 1, stop + 2) for start, stop in spans),
            constrained=False,
            temperature=0,
        )
        for n, spans in DOCUMENTS
    ]


def work() -> Work:
    spans = [span for _, spans in DOCUMENTS for span in spans]
    return Work(
        tokens=sum(length for length, _ in DOCUMENTS),
        anchors=sum(stop - start for start, stop in spans),
        pairs=sum((stop - start) * (start + 1 + stop) / 2 for start, stop in spans),
        steps=STEPS,
    )


@pytest.mark.parametrize("architecture", ["Eagle3", "Eagle31"])
def test_training_and_judging_cost_what_torch_counts(architecture: str) -> None:
    model = Eagle3(config(architecture), torch.randn(VOCAB, HIDDEN))
    batch = make_pack(model.config, DOCUMENTS)
    ours = shape(model.config)
    assert ours.parameters == sum(parameter.numel() for parameter in model.parameters())
    rows_DH = torch.randn(DRAFT, HIDDEN)
    labels = Labels(batch.last_AH, batch.lse_A, batch.argmax_A, batch.served_A, batch.end_A)
    with FlopCounterMode(display=False) as counted:
        hidden_KAH = torch.stack(list(model.unroll(batch, STEPS)))
        loss, _ = head_loss(
            hidden_KAH,
            model.lm_head.weight,
            labels,
            teacher=lambda last_CH: last_CH.float() @ rows_DH.T,
            weights=[StepWeights(kl=1.0, ce=1.0)] * STEPS,
            compute=torch.float32,
        )
        loss.backward()  # type: ignore[no-untyped-call]
    assert training_flops(ours, work()).total == pytest.approx(counted.get_total_flops(), rel=TOLERANCE)
    with FlopCounterMode(display=False) as counted:
        evaluate(
            model,
            rows(),
            [([0, 1], batch)],
            vocabulary_D=torch.arange(DRAFT),
            teacher=lambda last_CH: last_CH.float() @ rows_DH.T,
            steps=STEPS,
            compute=torch.float32,
        )
    assert judging_flops(ours, work()) == pytest.approx(counted.get_total_flops(), rel=TOLERANCE)


def test_the_target_s_own_pass_costs_what_torch_counts() -> None:
    target = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=HIDDEN,
            intermediate_size=512,
            num_hidden_layers=5,
            num_attention_heads=6,
            num_key_value_heads=2,
            head_dim=32,
            attn_implementation="eager",
        )
    )
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        target(torch.zeros(1, 100, dtype=torch.long), use_cache=False)
    sizes = TargetShape(hidden=HIDDEN, intermediate=512, queries=192, keys=64, layers=5, vocab=VOCAB)
    # A dense mask computes every pair, not only those that a token sees.
    expected = teacher_flops(sizes, Work(tokens=100, anchors=100, pairs=100 * 100, steps=0))
    assert counted.get_total_flops() == pytest.approx(expected, rel=TOLERANCE)
