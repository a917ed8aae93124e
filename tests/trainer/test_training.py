"""The loop on the tiny target: it learns, its judgement is what an engine would see, and packing changes nothing."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from specop.api import reasons
from specop.api.hyperparameters import LossTerm
from specop.api.preset import DEFAULTS
from specop.common.errors import UserError
from specop.storage.job import Preempted
from specop.trainer.batches import Batch, Pack, label_counts
from specop.trainer.checkpoint import Progress
from specop.trainer.config import recipe
from specop.trainer.divergence import ceiling, check_growth
from specop.trainer.loop import Loop, evaluation_steps, judge
from specop.trainer.losses import StepWeights
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
    assert found.anchors == anchors
    assert found.accepted_K == pytest.approx([count / anchors for count in agreed])
    assert found.served_length == pytest.approx(1 + taken / drafts)
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


@pytest.mark.parametrize(
    "knobs",
    [
        {"loss": [LossTerm(name="KL")]},
        {"loss": [LossTerm(name="LKHybrid")]},
        {"optimizer": "Muon", "scheduler": "WSD", "ema_decay": "0.9"},
    ],
    ids=["KL", "LKHybrid", "Muon with an average"],
)
def test_a_resumed_loop_ends_with_the_same_bits(knobs: dict[str, Any], world: World, tmp_path: Path) -> None:
    terms = {**knobs, "max_steps": 8}
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


@pytest.mark.parametrize("loss", ["CE", "LKHybrid"])
def test_a_loss_that_grows_without_end_ends_the_run_with_its_reason(loss: Any, world: World, tmp_path: Path) -> None:
    model, course, _ = parts(world, tmp_path, loss=[LossTerm(name=loss)], learning_rate="10", max_steps=100)
    training = loop(model, course, tmp_path)
    with pytest.raises(UserError, match=r"grown without end.*learningRate") as raised:
        training.run(nothing)
    assert raised.value.reason == reasons.TRAINING_DIVERGED
    assert training.progress.step < 60


@pytest.mark.parametrize(
    "knobs",
    [
        {"loss": [LossTerm(name="CE")], "learning_rate": "0.02"},
        {"loss": [LossTerm(name="LKHybrid")], "learning_rate": "0.02"},
        {"loss": [LossTerm(name="LKAlpha")], "learning_rate": "0.1"},
    ],
    ids=["CE", "LKHybrid", "LKAlpha"],
)
def test_a_run_of_ten_times_the_best_rate_is_never_taken_for_lost(
    knobs: dict[str, Any], world: World, tmp_path: Path
) -> None:
    model, course, _ = parts(world, tmp_path, **knobs)
    training, beyond = loop(model, course, tmp_path), set[int]()
    training.run(lambda progress, *_: beyond.add(progress.beyond))
    assert beyond == {0}


def test_a_warm_start_may_lose_all_it_knew() -> None:
    knobs = recipe(DEFAULTS.model_copy(update={"decoding_heads": 2, "step_decay": "0.5"}))
    nothing_known = 1.5 * math.log(1000)
    assert ceiling(knobs, 1000, first_loss=0.3) == pytest.approx(3 * nothing_known)
    assert ceiling(knobs, 1000, first_loss=20.0) == 60.0
    progress = Progress()
    for loss in (0.3, *([3.1 * nothing_known] * 49), 2.9 * nothing_known, *([1e6] * 49)):
        check_growth(progress, loss, knobs, 1000)
    with pytest.raises(UserError, match="grown without end"):
        check_growth(progress, 1e6, knobs, 1000)


@pytest.mark.parametrize("when", [2, 4])
def test_a_gradient_that_is_not_finite_is_found_before_anything_is_kept(
    when: int, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is looked at with the figures of the step after; after the last one there is none."""
    model, course, _ = parts(world, tmp_path, max_steps=4, evaluations=1)
    training = loop(model, course, tmp_path)
    norm, best = torch.nn.utils.clip_grad_norm_, training.best

    def clip(parameters: Iterator[torch.nn.Parameter], most: float) -> torch.Tensor:
        found = norm(parameters, most)
        return found / 0 if training.progress.step + 1 == when else found

    monkeypatch.setattr("torch.nn.utils.clip_grad_norm_", clip)
    with pytest.raises(UserError, match="gradient") as raised:
        training.run(nothing)
    assert raised.value.reason == reasons.TRAINING_DIVERGED
    assert training.progress.step == when
    assert training.best is best
    assert not (tmp_path / "stored").exists()


class SameStep(Loop):
    """Takes lambda from the batch itself, as the paper has it: that takes a pass over all of its packs before."""

    def _step(self, batch: Batch, packs: Iterator[Pack], rate: float) -> bool:
        steps, ready = self.course.recipe.decoding_heads, [next(packs) for _ in batch]
        count_K, _ = label_counts((self.course.train.rows[row] for pack in batch for row in pack), steps)
        weights, alpha_K = [StepWeights(kl=1.0)] * steps, torch.zeros(steps)
        with torch.no_grad():
            for pack in ready:
                alpha_K += self._replicas._objective(pack, weights)[1]
        self.progress.alpha_K = (alpha_K / torch.tensor(count_K)).tolist()
        return super()._step(batch, iter(ready), rate)


def test_lambda_of_the_step_before_is_nearly_that_of_the_same_step(world: World, tmp_path: Path) -> None:
    def trained(form: type[Loop]) -> tuple[float, torch.Tensor]:
        loss = [LossTerm(name="LKHybrid")]
        model, course, _ = parts(world, tmp_path, loss=loss, max_steps=30, evaluations=1, batch_tokens=4096)
        plain, lambdas = loop(model, course, tmp_path / form.__name__), []
        training = form(model, course, plain._checkpoints, plain._stopping)
        training.run(lambda progress, *_: lambdas.append([math.exp(-3 * a) for a in progress.alpha_K or ()]))
        return training.progress.best_length, torch.tensor(lambdas)

    length, lambda_TK = trained(Loop)
    same_length, same_TK = trained(SameStep)
    apart_TK = (lambda_TK[:-1] - same_TK[1:]).abs()  # of the step before, and of the step itself
    assert apart_TK[3:].max() < 0.1
    assert apart_TK.mean() < 0.05
    assert length == pytest.approx(same_length, rel=0.1)
    assert length > 1.2


def test_a_run_past_its_best_ends_and_stays_ended(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths, steps = [1.5, 2.0, 1.9, 1.8, 2.5], [0]
    monkeypatch.setattr(
        "specop.trainer.judgement.Judgement.acceptance_length", property(lambda _: lengths[steps[-1] - 1])
    )
    knobs = {"max_steps": 5, "evaluations": 5, "early_stop_evaluations": 2}
    for resumes in range(2):
        model, course, _ = parts(world, tmp_path, **knobs)
        training = loop(model, course, tmp_path)
        training.run(lambda progress, *_: steps.append(progress.step))
        progress = training.progress
        assert (progress.step, progress.best_step, progress.best_length, progress.resumes) == (4, 2, 2.0, resumes)


def test_evaluations_are_spread_and_the_last_is_at_the_end() -> None:
    assert sorted(evaluation_steps(10, 4)) == [3, 5, 8, 10]
    assert sorted(evaluation_steps(2, 8)) == [1, 2]


def test_weights_start_equal_for_equal_seeds(world: World, tmp_path: Path) -> None:
    def start(seed: int) -> Eagle3:
        return parts(world, tmp_path, seed=seed)[0]

    one, same, other = start(0).state_dict(), start(0).state_dict(), start(1).state_dict()
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["layers.0.mlp.up_proj.weight"], other["layers.0.mlp.up_proj.weight"])
