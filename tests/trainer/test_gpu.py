"""What only a GPU shows: the flash kernel, compiled chains, bfloat16, and a step at the size of a real target.

Of the other tests it imports `packs` alone, so that it also runs on a machine that has little more than torch:
`python -m pytest -c /dev/null --noconftest tests/trainer/test_gpu.py`.
"""

import pytest
import torch
from torch import Tensor

from specop.trainer import attention, fusion
from specop.trainer.attention import Sight, ttt_attention
from specop.trainer.batches import Pack
from specop.trainer.losses import Labels, StepWeights, head_loss
from specop.trainer.model import DrafterConfig, Eagle3
from tests.trainer.packs import LLAMA_8B, Document, make_pack

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")]

STEPS = 3
SMALL = DrafterConfig(
    architecture="Eagle31",
    hidden_size=512,
    intermediate_size=1024,
    num_heads=8,
    num_kv_heads=2,
    head_dim=64,
    rms_norm_eps=1e-5,
    rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
    max_positions=4096,
    vocab_size=2000,
    draft_vocab_size=1000,
    aux_layers=(2, 8, 13),
)
MOST_GIB = 40
"""Of a step over 4096 tokens, 7 draft steps: a card of 48 GB is enough."""

DOCUMENTS: list[Document] = [(400, [(100, 160), (300, 400)]), (200, [(0, 200)]), (77, [(50, 77)])]


def cuda_pack(c: DrafterConfig, documents: list[Document]) -> Pack:
    return make_pack(c, documents).to(torch.device("cuda"))


def make_model(c: DrafterConfig) -> Eagle3:
    torch.manual_seed(0)
    model = Eagle3(c, torch.randn(c.vocab_size, c.hidden_size).bfloat16())
    model.initialise(torch.randn(c.draft_vocab_size, c.hidden_size) * c.hidden_size**-0.5, seed=0)
    return model.cuda()


def train(model: Eagle3, pack: Pack, steps: int, compute: torch.dtype) -> Tensor:
    """Loss, and gradients left in the model."""
    anchors = len(pack.anchor_A)
    with torch.autocast("cuda", torch.bfloat16, enabled=compute == torch.bfloat16):
        hidden_KAH = torch.stack(list(model.unroll(pack, steps)))
    head_DH = model.lm_head.weight.detach().to(compute)
    loss, _ = head_loss(
        hidden_KAH,
        model.lm_head.weight,
        Labels(pack.last_AH, pack.lse_A, pack.argmax_A, pack.served_A, pack.end_A),
        teacher=lambda last_CH: last_CH.to(compute) @ head_DH.T,
        weights=[StepWeights(kl=0.5 / anchors, tv=0.2 / anchors, ce=0.3 / anchors)] * steps,
        compute=compute,
    )
    model.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach()


def gradients(model: Eagle3) -> Tensor:
    return torch.cat([p.grad.flatten().double() for p in model.parameters() if p.grad is not None])


def apart(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


@pytest.mark.parametrize("size", [64, 128])
@pytest.mark.parametrize("later", [0, 1, 6])
def test_the_flash_kernel_is_the_same_attention(later: int, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pack = cuda_pack(SMALL, DOCUMENTS)
    anchors, tokens = len(pack.anchor_A), len(pack.next_N)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, device="cuda").bfloat16().requires_grad_()

    q, k, v = random(anchors, 8, size), random(tokens, 2, size), random(tokens, 2, size)
    diagonals = [(random(anchors, 2, size), random(anchors, 2, size)) for _ in range(later)]
    inputs, weight = [q, k, v, *(x for pair in diagonals for x in pair)], torch.randn_like(q)
    sight = Sight.of(pack.segments, pack.anchor_A, tokens)

    def run() -> tuple[Tensor, ...]:
        out = ttt_attention(q, k, v, diagonals, sight)
        return (out, *torch.autograd.grad((out * weight).sum(), inputs))

    fast = run()
    monkeypatch.setattr(attention, "_has_kernel", lambda _: False)
    with fusion.without():
        exact = run()
    for mine, theirs in zip(fast, exact, strict=True):
        assert apart(mine, theirs) < 0.01


@pytest.mark.parametrize("compute", [torch.bfloat16, torch.float32])
def test_compiled_chains_change_nothing(compute: torch.dtype) -> None:
    model, pack = make_model(SMALL), cuda_pack(SMALL, DOCUMENTS)
    fused, found = train(model, pack, STEPS, compute), gradients(model)
    with fusion.without():
        plain, expected = train(model, pack, STEPS, compute), gradients(model)
    close = 0.02 if compute == torch.bfloat16 else 1e-4
    assert float(fused) == pytest.approx(float(plain), rel=close / 10)
    assert apart(found, expected) < close


def test_bfloat16_teaches_what_float32_teaches() -> None:
    model, pack = make_model(SMALL), cuda_pack(SMALL, DOCUMENTS)
    exact, expected = train(model, pack, STEPS, torch.float32), gradients(model)
    narrow, found = train(model, pack, STEPS, torch.bfloat16), gradients(model)
    assert float(narrow) == pytest.approx(float(exact), rel=0.01)
    assert apart(found, expected) < 0.1


def test_other_lengths_need_no_other_kernels() -> None:
    model = make_model(SMALL)
    train(model, cuda_pack(SMALL, DOCUMENTS), STEPS, torch.bfloat16)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for length in (150, 333, 512):
            train(model, cuda_pack(SMALL, [(length, [(17, length - 5)]), (90, [(3, 60)])]), STEPS, torch.bfloat16)


def test_a_step_at_the_size_of_llama_8b_fits() -> None:
    model, pack = make_model(LLAMA_8B), cuda_pack(LLAMA_8B, [(2048, [(0, 2048)])] * 2)
    optimiser = torch.optim.AdamW(model.parameters(), fused=True)
    torch.cuda.reset_peak_memory_stats()
    losses = []
    for _ in range(2):
        losses.append(float(train(model, pack, 7, torch.bfloat16)))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    assert losses[1] < losses[0]
    assert torch.cuda.max_memory_allocated() < MOST_GIB * 2**30


def test_reading_stays_off_the_clock_of_the_gpu() -> None:
    """No part of a step waits for the GPU: what a step enqueues is enqueued before it is done."""
    model, pack = make_model(SMALL), cuda_pack(SMALL, DOCUMENTS)
    train(model, pack, STEPS, torch.bfloat16)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        train(model, pack, STEPS, torch.bfloat16)
    finally:
        torch.cuda.set_sync_debug_mode("default")
