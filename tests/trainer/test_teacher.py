"""What the teacher stores of each position is what the target's own logits give."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from specop.api import reasons
from specop.common.errors import UserError
from specop.trainer.teacher import Teacher
from tests.trainer.quantised import METHODS, quantised
from tests.trainer.tiny_run import World


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
def test_scalars_are_those_of_the_whole_vocabulary_at_the_rows_temperature(temperature: float, world: World) -> None:
    rows = [replace(row, temperature=temperature) for row in world.rows()[1][:3]]
    model = AutoModelForCausalLM.from_pretrained(world.folder, dtype=torch.float32)
    for row, states in zip(rows, Teacher(world.folder, torch.float32, torch.device("cpu")).states(rows), strict=True):
        (start, end), *_ = row.anchors
        with torch.no_grad():
            logits_aV = model(torch.tensor([row.ids])).logits[0, start + 1 : end + 1] / (temperature or 1.0)
        peak_a, argmax_a = logits_aV.log_softmax(-1).max(-1)
        torch.testing.assert_close(states.lse_a, logits_aV.logsumexp(-1), rtol=0.01, atol=0.02)
        torch.testing.assert_close(states.peak_a, peak_a, rtol=0.01, atol=0.02)
        assert (states.argmax_a == argmax_a).float().mean() > 0.9  # states are rounded to bfloat16


@pytest.mark.parametrize("method", METHODS)
def test_a_quantised_target_teaches_by_the_weights_that_it_has(method: str, world: World, tmp_path: Path) -> None:
    rows, cpu = world.rows()[1][:3], torch.device("cpu")
    folders = [quantised(method, world.folder, tmp_path / name, restored=name == "same") for name in ("small", "same")]
    teacher, same = (Teacher(folder, torch.float32, cpu) for folder in folders)
    whole = Teacher(world.folder, torch.float32, cpu).states(rows)
    for found, expected, other in zip(teacher.states(rows), same.states(rows), whole, strict=True):
        torch.testing.assert_close(found.aux_nCH, expected.aux_nCH, rtol=0.02, atol=0.02)
        torch.testing.assert_close(found.lse_a, expected.lse_a, rtol=1e-3, atol=0.01)
        assert not torch.equal(found.aux_nCH, other.aux_nCH)


def test_a_format_whose_reader_or_kernels_are_absent_is_refused_by_their_name(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(*_: object, **__: object) -> None:
        raise ImportError("kernel unavailable: pip install kernels")

    folder = quantised("fp8", world.folder, tmp_path / "target")
    for name, place, value in (
        ("kernels", "transformers.LlamaForCausalLM.forward", forward),
        ("accelerate", "transformers.quantizers.quantizer_finegrained_fp8.is_accelerate_available", lambda: False),
    ):
        monkeypatch.setattr(place, value)
        with pytest.raises(UserError, match=name) as raised:
            Teacher(folder, torch.float32, torch.device("cpu"))
        assert raised.value.reason == reasons.TARGET_UNSUPPORTED
