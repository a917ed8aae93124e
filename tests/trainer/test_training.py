"""The loop on the tiny target: it learns, its judgement is what an engine would see, and packing changes nothing."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from specop.api import reasons
from specop.api.training_job import LossTerm
from specop.common.errors import UserError
from specop.storage.job import Preempted
from specop.trainer.checkpoint import Progress
from specop.trainer.loop import evaluation_steps, judge
from specop.trainer.model import Eagle3
from tests.trainer.drafting import draft
from tests.trainer.tiny_run import World, loop, parts


def nothing(*_: Any) -> None:
    """Show nothing."""


@pytest.mark.parametrize("architecture", ["Eagle3", "Eagle31"])
def test_it_learns_and_the_judgement_is_what_draft_and_verify_gives(
    architecture: str, world: World, tmp_path: Path
) -> None:
    model, course, _ = parts(world, tmp_path, architecture=architecture, max_steps=80, evaluations=4)
    steps = course.recipe.decoding_heads
    before = judge(model, course, loop(model, course, tmp_path)._stopping)
    training = loop(model, course, tmp_path)
    training.run(nothing)
    curve = training.progress.curve
    assert [point["step"] for point in curve] == [20, 40, 60, 80]
    assert curve[-1]["loss"] < 0.8 * curve[0]["loss"]
    assert max(point["acceptanceLength"] for point in curve) == pytest.approx(training.progress.best_length, abs=1e-4)
    assert training.progress.best_length > before.acceptance_length

    model.load_state_dict(training.best)
    found = judge(model, course, training._stopping)
    assert found.acceptance_length == training.progress.best_length
    accepted_at: dict[tuple[int, int], int] = {}
    anchors, agreed = 0, [0] * steps
    for index, row in enumerate(course.holdout.rows):
        aux_nCH = course.holdout._kept(index).aux_nCH
        for start, end in row.anchors:
            for anchor in range(start, end):
                left = min(steps, end - anchor)
                drafted = draft(model, course.vocabulary_D, list(row.ids), aux_nCH, anchor=anchor, steps=left)
                matches = [ours == served for ours, served in zip(drafted, row.ids[anchor + 2 :], strict=False)]
                accepted_at[index, anchor] = [*matches, False].index(False)
                if anchor + steps <= end:
                    anchors += 1
                    agreed = [count + (accepted_at[index, anchor] > k) for k, count in enumerate(agreed)]
    drafts = taken = 0
    for index, row in enumerate(course.holdout.rows):
        for start, end in row.anchors:
            anchor = start
            while anchor < end:
                drafts, taken = drafts + 1, taken + accepted_at[index, anchor]
                anchor += accepted_at[index, anchor] + 1
    assert (found.anchors, found.agreed_K) == (anchors, tuple(agreed))
    assert (found.drafts, found.drafted) == (drafts, taken)
    assert sum(agreed) > 0


@pytest.mark.parametrize("architecture", ["Eagle3", "Eagle31"])
def test_a_pack_computes_what_its_documents_compute_alone(architecture: str, world: World, tmp_path: Path) -> None:
    model, course, _ = parts(world, tmp_path, architecture=architecture)
    device, steps = torch.device("cpu"), 3

    def unrolled(members: list[int]) -> torch.Tensor:
        """States that have a label; the others are never looked at."""
        pack = course.train.pack(members, device)
        found = torch.stack(list(model.unroll(pack, steps)))
        labelled_KA = torch.arange(len(pack.end_A)) + torch.arange(steps)[:, None] < pack.end_A
        return found * labelled_KA[..., None]

    with torch.no_grad():
        together, alone = unrolled([0, 1, 2]), torch.cat([unrolled([row]) for row in (0, 1, 2)], dim=1)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("loss", ["KL", "LKHybrid"])
def test_a_resumed_loop_ends_with_the_same_bits(loss: str, world: World, tmp_path: Path) -> None:
    terms = {"loss": [LossTerm(name=loss)], "max_steps": 8}
    model, course, _ = parts(world, tmp_path, **terms)
    whole = loop(model, course, tmp_path / "whole")
    whole.run(nothing)

    model, course, _ = parts(world, tmp_path, **terms)
    often = replace(course, recipe=replace(course.recipe, checkpoint_seconds=0.0))
    broken = loop(model, often, tmp_path / "broken")

    def stop(progress: Progress, *_: object) -> None:
        if progress.step == 5:
            broken._stopping.set()

    with pytest.raises(Preempted):
        broken.run(stop)
    assert [path.name for path in sorted((tmp_path / "broken" / "stored").iterdir())] == [
        "step-00000004.safetensors",
        "step-00000005.safetensors",
    ]
    model, course, _ = parts(world, tmp_path, **terms)
    again = loop(model, course, tmp_path / "broken")
    again.run(nothing)
    assert (again.progress.resumes, again.progress.step, again.progress.tokens) == (1, 8, whole.progress.tokens)
    assert again.progress.alpha_K == whole.progress.alpha_K
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name
        assert torch.equal(whole.best[name], again.best[name]), name


def test_a_pack_and_its_documents_as_packs_of_one_batch_give_the_same_step(world: World, tmp_path: Path) -> None:
    weights = []
    for batch in ([[0, 1, 2]], [[0], [1], [2]]):
        model, course, _ = parts(world, tmp_path)
        packs = (course.train.pack(members, course.device) for members in batch)
        loop(model, course, tmp_path)._step(batch, packs, 1e-3)
        weights.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], rtol=1e-3, atol=1e-5, msg=name)


def test_a_loss_that_is_not_finite_ends_the_run_with_its_reason(world: World, tmp_path: Path) -> None:
    model, course, _ = parts(world, tmp_path, learning_rate="1e30", max_grad_norm="1e30")
    with pytest.raises(UserError, match="learningRate") as raised:
        loop(model, course, tmp_path).run(nothing)
    assert raised.value.reason == reasons.TRAINING_DIVERGED


def test_evaluations_are_spread_and_the_last_is_at_the_end() -> None:
    assert sorted(evaluation_steps(10, 4)) == [3, 5, 8, 10]
    assert sorted(evaluation_steps(2, 8)) == [1, 2]


def test_weights_start_equal_for_equal_seeds(world: World, tmp_path: Path) -> None:
    def start(seed: int) -> Eagle3:
        return parts(world, tmp_path, seed=seed)[0]

    one, same, other = start(0).state_dict(), start(0).state_dict(), start(1).state_dict()
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["layers.0.mlp.up_proj.weight"], other["layers.0.mlp.up_proj.weight"])
