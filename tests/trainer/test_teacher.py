"""What the teacher stores of each position is what the target's own logits give."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from specop.trainer.teacher import Teacher
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
