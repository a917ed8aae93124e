"""Held-out figures are what drafting and verifying gives: simulated on the tiny target, token by token."""

import threading
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from specop.trainer.batches import Row
from specop.trainer.evaluate import VARIANTS, Sums, Variant, _walk, evaluate
from specop.trainer.judgement import Judgement, serving_temperature, variant_of
from specop.trainer.loop import Course, judge
from specop.trainer.model import Eagle3
from tests.trainer.drafting import draft
from tests.trainer.tiny_run import World, loop, made, parts

TEMPERATURE = 0.3
"""Of a random model that is a mix of sure and unsure positions, as 1 is of a trained one."""
Trained = tuple[World, Eagle3, Course]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A drafter of a target that samples."""
    folder = tmp_path_factory.mktemp("sampled")
    world = World(folder, train=24, holdout=16, temperature=TEMPERATURE)
    model, course, _ = parts(world, folder, max_steps=60, evaluations=1)
    loop(model, course, folder).run(lambda *_: None)
    return world, model, course


def judged(trained: Trained, variant: Variant = "OneHot") -> Judgement:
    _, model, course = trained
    return judge(model, replace(course, variant=variant), threading.Event())


def simulated(trained: Trained, variant: Variant, paths: int) -> Iterator[list[float]]:
    """For each row, the probability that each draft is accepted with all before it, summed over its whole anchors."""
    world, model, course = trained
    target = AutoModelForCausalLM.from_pretrained(world.folder, dtype=torch.float32)
    steps, vocabulary_D = course.recipe.decoding_heads, course.vocabulary_D
    chosen: list[Tensor] = []

    def choose(logits_D: Tensor) -> int:
        q_D = (logits_D / TEMPERATURE).softmax(-1)
        token = logits_D.argmax() if variant == "OneHot" else torch.multinomial(q_D, 1)[0]
        chosen.append(torch.tensor(1.0) if variant == "OneHot" else q_D[token])
        return int(token)

    for index, row in enumerate(course.holdout.rows):
        aux_nCH, total = course.holdout._kept(index).aux_nCH, [0.0] * steps
        ((start, end),) = row.anchors
        for anchor in range(start, end - steps + 1):
            prefix = list(row.ids[: anchor + 2])
            texts, proposals = [], []
            for _ in range(paths):
                chosen.clear()
                drafted = draft(model, vocabulary_D, prefix, aux_nCH, anchor=anchor, steps=steps, choose=choose)
                texts.append(prefix + drafted)
                proposals.append(torch.stack(chosen))
            with torch.no_grad():
                logits_BKV = target(torch.tensor(texts)).logits[:, -steps - 1 : -1]
            p_BKV = (logits_BKV / TEMPERATURE).softmax(-1)
            p_BK = p_BKV.gather(2, torch.tensor(texts)[:, -steps:, None]).squeeze(2)
            accept_BK = (p_BK / torch.stack(proposals)).clamp_max(1).cumprod(1)
            total = [value + more for value, more in zip(total, accept_BK.mean(0).tolist(), strict=True)]
        yield total


@pytest.mark.parametrize(("variant", "paths"), [("OneHot", 1), ("Probabilistic", 4)])
def test_acceptance_of_a_sampling_target_is_that_of_draft_and_verify(
    variant: Variant, paths: int, trained: Trained
) -> None:
    found = judged(trained, variant)
    accepted_RK = found.sums.accepted_VRK[VARIANTS.index(variant)]
    expected_RK = torch.tensor(list(simulated(trained, variant, paths)), dtype=torch.float64)
    ours, theirs = (1 + x.sum() / found.sums.anchors_R.sum() for x in (accepted_RK, expected_RK))
    apart_R = (accepted_RK - expected_RK).sum(1)
    error = float(apart_R.std() * len(apart_R) ** 0.5 / found.sums.anchors_R.sum())
    assert found.acceptance_length == pytest.approx(float(ours))
    assert theirs > 1.2
    assert error < 0.08
    assert abs(float(ours - theirs)) < 3.5 * error


def test_sampled_drafts_are_accepted_as_often_as_the_distributions_overlap(trained: Trained) -> None:
    found, first = judged(trained, "Probabilistic"), 0
    assert found.accepted_K[first] == pytest.approx(float(found.evaluation().alpha[first]), abs=1e-3)


def test_the_variant_is_that_of_serving() -> None:
    assert [variant_of(0, "Greedy"), variant_of(0.7, "Greedy")] == ["Greedy", "OneHot"]
    assert [variant_of(0, "Probabilistic"), variant_of(1, "Probabilistic")] == ["Greedy", "Probabilistic"]


def test_the_serving_temperature_is_that_of_most_rows(world: World) -> None:
    row = world.rows()[0][0]
    assert serving_temperature([replace(row, temperature=t) for t in (0.0, 0.7, 0.7, 1.0)]) == 0.7


def test_text_of_the_target_is_told_from_that_of_others(trained: Trained, world: World, tmp_path: Path) -> None:
    _, model, course = trained
    assert judged(trained).on_policy_R.all()
    _, _, teacher = parts(world, tmp_path)
    greedy, sampled = world.rows()[1], course.holdout.rows
    noise = [replace(row, ids=tuple(259 - token for token in row.ids)) for row in sampled]

    def own(rows: list[Row]) -> list[bool]:
        states = made(tmp_path / str(len(list(tmp_path.iterdir()))), rows, teacher)
        return judge(model, replace(course, holdout=states), threading.Event()).on_policy_R.tolist()

    assert all(own([*greedy]))
    assert not any(own([replace(row, temperature=3.0) for row in greedy]))
    assert not any(own([replace(row, temperature=0.0) for row in noise]))
    assert sum(own([replace(row, temperature=TEMPERATURE) for row in noise])) <= len(sampled) // 4
    assert not any(own([replace(row, constrained=True) for row in sampled]))
    assert all(own([replace(row, constrained=True) for row in greedy]))


def test_figures_are_shown_by_source_length_and_policy(trained: Trained) -> None:
    found = judged(trained)
    rows = [replace(row, source=f"s{index % 2}") for index, row in enumerate(found.rows)]
    rows[0] = replace(rows[0], constrained=True)
    shown = Judgement(rows, found.sums, "OneHot").evaluation()
    parts_ = {part.name: part for part in shown.slices}
    assert set(parts_) == {"source/s0", "source/s1", "length/1k", "offPolicy"}
    assert parts_["source/s0"].positions + parts_["source/s1"].positions == shown.positions
    assert parts_["offPolicy"].positions == int(found.sums.anchors_R[0])
    assert shown.tau_t0 is None
    assert shown.tau_t1_one_hot == shown.acceptance_length
    assert shown.tau_t1_probabilistic
    assert float(shown.vocabulary_mass or 0) > 0.5


def test_what_privacy_changed_is_no_sample_and_what_is_novel_is_shown_apart(trained: Trained) -> None:
    found = judged(trained)
    rows = [replace(row, altered=index == 0, novel=index in {1, 2}) for index, row in enumerate(found.rows)]
    shown = Judgement(rows, found.sums, "OneHot").evaluation()
    parts_ = {part.name: part.positions for part in shown.slices}
    anchors_R = found.sums.anchors_R
    assert parts_["offPolicy"] == int(anchors_R[0])
    assert parts_["novel"] == int(anchors_R[1] + anchors_R[2])
    assert shown.positions == int(anchors_R[1:].sum())


def test_where_no_row_is_on_policy_the_others_decide(trained: Trained) -> None:
    found = judged(trained)
    rows = [replace(row, constrained=True) for row in found.rows]
    other = Judgement(rows, found.sums, "OneHot")
    assert other.acceptance_length == found.acceptance_length
    assert {part.name for part in other.evaluation().slices} == {"source/logs", "length/1k", "constrained", "offPolicy"}
    assert Judgement(rows, found.sums, "Greedy").anchors == found.anchors


def test_sums_of_disjoint_packs_add_up(trained: Trained) -> None:
    _, model, course = trained
    whole = judged(trained).sums
    rows = course.holdout.rows
    parts_ = []
    for members in ([0, 3, 5], [1, 2, 4, *range(6, len(rows))]):
        part = evaluate(
            model,
            rows,
            [(members, course.holdout.pack(members, course.device))],
            vocabulary_D=course.vocabulary_D,
            teacher=course.teacher,
            steps=course.recipe.decoding_heads,
            compute=torch.float32,
        )
        parts_.append(part)
    total = parts_[0] + parts_[1]
    for field in fields(Sums):
        torch.testing.assert_close(getattr(total, field.name), getattr(whole, field.name), rtol=1e-4, atol=1e-4)


def test_an_engine_walks_from_where_it_stopped() -> None:
    # both drafts and a bonus token, then the two that are left
    calls, drafted = _walk([[1.0, 1.0], [1.0, 1.0], [1.0, 1.0], [1.0, 1.0], [1.0, 0.0]], [5] * 5)
    assert (calls[0], drafted[0]) == (2.0, 4.0)
    # one draft, accepted half of the time: after one or two tokens it drafts again
    calls, drafted = _walk([[0.5], [0.5], [0.5]], [3] * 3)
    assert drafted == [0.5 + 0.5 * 0.75 + 0.5 * 0.5, 0.5 + 0.5 * 0.5, 0.5]
    assert calls == [1 + 0.5 * 1.5 + 0.5 * 1, 1.5, 1.0]
