"""Grammars: masks are what the engine's library allows, they reach losses, states and figures, and cost little."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from specop.api.hyperparameters import LossTerm
from specop.trainer.batches import FREE, Masks, Row, label_counts
from specop.trainer.config import LossWeights
from specop.trainer.grammar import Constrained, Grammars, taught
from specop.trainer.losses import Labels, StepWeights, head_loss, step_weights
from specop.trainer.teacher import Teacher
from tests.tiny import END_OF_TURN, VOCAB_SIZE, tiny_tokenizer
from tests.trainer.tiny_run import World, loop, made, parts

SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}, "days": {"type": "integer"}},
    "required": ["city", "days"],
}
GRAMMAR = json.dumps({"jsonSchema": SCHEMA})
ANSWER = '{"city": "Rome", "days": 3}'
TOKENIZER = tiny_tokenizer()
MODES: tuple[Constrained, ...] = ("Unmasked", "Masked", "Served")
TOKEN_V = torch.arange(VOCAB_SIZE)


def row(answer: str = ANSWER, grammar: str | None = GRAMMAR, key: str = "a", prompt: str = "Where to?") -> Row:
    ids, generated = TOKENIZER.encode(prompt).ids, [*TOKENIZER.encode(answer).ids, END_OF_TURN]
    span = (len(ids), len(ids) + len(generated))
    return Row(key, (*ids, *generated), (span,), constrained=True, temperature=0.0, grammar=grammar)


@pytest.fixture(scope="module")
def grammars(world: World) -> Grammars:
    return Grammars(world.folder, VOCAB_SIZE)


def texts(allowed_V: torch.Tensor) -> set[str]:
    return {TOKENIZER.decode([token], skip_special_tokens=False) for token in allowed_V.nonzero().flatten().tolist()}


def test_masks_are_what_the_grammar_allows_at_each_label(grammars: Grammars) -> None:
    (known,) = grammars.known([row()])
    masks = Masks(*grammars.masks([known]), TOKEN_V)
    allowed_AV = masks.allowed(torch.arange(len(masks.index_A)))
    assert len(allowed_AV) == len(ANSWER)  # the first token of a turn is no label, its end is one
    at = {position: texts(allowed_AV[position - 1]) for position in range(1, len(ANSWER) + 1)}
    assert at[ANSWER.index("city")] == {"c"}
    assert at[ANSWER.index("Rome")] == {"P", "R"}
    assert at[ANSWER.index("ome")] == {"o"}
    assert at[ANSWER.index("3")] >= set("0123456789-")
    assert "x" not in at[ANSWER.index("3")]
    assert at[len(ANSWER)] == {"<|im_end|>"}
    served = known.ids[len(known.ids) - len(ANSWER) :]
    assert all(allowed_AV[index, token] for index, token in enumerate(served))


def test_packs_of_rows_with_and_without_a_grammar(grammars: Grammars) -> None:
    free, rows = row("Rome is nice.", None, "b"), [row(), row("{}", '{"jsonObject":true}', "c")]
    first, second = grammars.known(rows)
    index_A, words_MW = grammars.masks([free, first, free, second])
    labels = [r.labels(1)[0] for r in (free, first, free, second)]
    parts_ = torch.split(index_A, labels)
    assert (parts_[0] == FREE).all()
    assert (parts_[2] == FREE).all()
    alone, words = grammars.masks([second])
    assert torch.equal(words_MW[parts_[3]], words[alone])
    assert len(words_MW) == len(set(map(tuple, words_MW.tolist())))
    assert Masks(index_A, words_MW, TOKEN_V).allowed(torch.tensor([0])).all()
    assert grammars.masks([free])[1].shape == (0, -(-VOCAB_SIZE // 32))


@pytest.mark.parametrize(
    ("answer", "grammar"),
    [
        ("Let me think. " + ANSWER, GRAMMAR),
        (ANSWER + "\n" + ANSWER, GRAMMAR),
        (ANSWER, '{"jsonSchema": {"type": 5}}'),
    ],
    ids=["other text before", "other text after", "no schema"],
)
def test_what_cannot_be_followed_is_not_known(answer: str, grammar: str, grammars: Grammars) -> None:
    (found,) = grammars.known([row(answer, grammar, "d")])
    assert found.grammar is None
    assert found.unknown


def test_only_the_last_span_is_under_the_grammar(grammars: Grammars) -> None:
    one = row()
    (start, end), length = one.spans[0], len(one.ids)
    earlier = replace(one, ids=one.ids + one.ids, spans=((start, end), (length + start, length + end)))
    (known,) = grammars.known([earlier])
    index_A, _ = grammars.masks([known])
    own, _ = grammars.masks(grammars.known([one]))
    assert index_A.tolist() == [FREE] * len(own) + own.tolist()


def test_rows_are_taught_as_the_mode_says() -> None:
    rows = [row(), row(grammar=None), replace(row(grammar=None), constrained=False)]
    found = {mode: taught(rows, mode) for mode in MODES}
    assert [[(r.grammar is not None, r.unknown) for r in rows_] for rows_ in found.values()] == [
        [(False, False)] * 3,
        [(True, False), (False, True), (False, False)],
        [(False, True), (False, True), (False, False)],
    ]
    assert {r.temperature for rows_ in found.values() for r in rows_} == {1.0}
    assert label_counts(found["Served"], 2) == ([81, 78], [27, 26])


def test_the_teacher_says_what_the_engine_verifies_against(world: World) -> None:
    teacher = Teacher(world.folder, torch.float32, torch.device("cpu"))
    (known,) = teacher.grammars.known([row()])
    masked, plain = teacher.states([known])[0], teacher.states([replace(known, grammar=None)])[0]
    logits_AV = teacher.logits(plain.last_aH, teacher.head_VH).float()
    masks = Masks(*teacher.grammars.masks([known]), TOKEN_V)
    allowed_AV = masks.allowed(torch.arange(len(logits_AV)))
    expected_AV = logits_AV.masked_fill(~allowed_AV, float("-inf"))
    torch.testing.assert_close(masked.lse_a, expected_AV.logsumexp(-1))
    assert torch.equal(masked.argmax_a, expected_AV.argmax(-1).int())
    torch.testing.assert_close(masked.peak_a, expected_AV.log_softmax(-1).amax(-1))
    assert (masked.peak_a[allowed_AV.sum(-1) == 1] == 0).all()
    torch.testing.assert_close(plain.lse_a, logits_AV.logsumexp(-1))


def test_losses_take_p_over_what_is_allowed_and_leave_the_rest_to_the_served_token() -> None:
    anchors, hidden, draft, vocab = 6, 5, 40, 70
    last, target = torch.randn(anchors, hidden).double(), torch.randn(vocab, hidden).double()
    allowed_AV = torch.rand(anchors, vocab) < 0.4
    allowed_AV[2] = torch.arange(vocab) == vocab - 1  # nothing of it can be drafted
    allowed_AV[5] = True
    bits = torch.split(allowed_AV.long() << (torch.arange(vocab) % 32), 32, dim=1)
    words_MW = torch.stack([part.sum(1) for part in bits], dim=1).to(torch.int32)[:5]
    full_AV = (last @ target.T).masked_fill(~allowed_AV, float("-inf"))
    token_D = torch.arange(draft)
    unknown_A = torch.tensor([False, True, False, False, False, False])
    labels = Labels(
        last,
        full_AV.logsumexp(-1),
        torch.full((anchors,), -1),
        torch.tensor([3, 4, 5, 6, 7, -1]),
        torch.full((anchors,), anchors),
        unknown_A=unknown_A,
        masks=Masks(torch.tensor([0, 1, 2, 3, 4, FREE]), words_MW, token_D),
    )
    states = torch.randn(1, anchors, hidden, dtype=torch.float64, requires_grad=True)
    head = torch.randn(draft, hidden, dtype=torch.float64)
    weights = [StepWeights(kl=0.5, jsd=0.3, tv=0.2, served=1.0)]
    value, alpha_K = head_loss(
        states, head, labels, teacher=lambda x: x @ target[:draft].T, weights=weights, compute=torch.float64
    )
    q_AD = (states[0] @ head.T).softmax(-1)
    expected, alpha = -q_AD[1, 4].log(), 0.0
    for a in (0, 2, 3, 4, 5):
        p, q = full_AV[a].softmax(-1)[:draft], q_AD[a]
        alpha += float(torch.minimum(p, q).sum().detach())
        if p.sum() > 0:
            expected = expected + 0.2 * (1 - torch.minimum(p, q).sum())
            inside = p / p.sum()
            middle = (inside + q) / 2
            some = inside > 0
            half = (inside[some] * (inside / middle)[some].log()).sum() + (q * (q / middle).log()).sum()
            expected = expected + 0.5 * (inside[some] * (inside / q)[some].log()).sum() + 0.15 * half
    torch.testing.assert_close(value, expected)
    (mine,), (autograd,) = torch.autograd.grad(value, states), torch.autograd.grad(expected, states)
    torch.testing.assert_close(mine, autograd)
    assert float(alpha_K[0]) == pytest.approx(alpha)


def test_the_served_token_weighs_as_much_as_all_losses_together() -> None:
    (weights,) = step_weights(LossWeights(kl=0.5, ce=0.25, lk_hybrid=0.5), 0.8, [10], [0.5])
    assert weights.served == pytest.approx(0.125)


def test_modes_that_know_of_grammars_draft_what_they_force(world: World, tmp_path: Path) -> None:
    """The tiny target itself would never write JSON: unmasked soft labels teach what an engine cannot accept."""
    answers = [f'{{"city": "{city}", "days": {days}}}' for city in ("Paris", "Rome") for days in range(6)]
    rows = [row(answer, key=str(index)) for index, answer in enumerate(answers)]
    lengths = {}
    for mode in MODES:
        folder = tmp_path / mode
        loss = [LossTerm(name="KL")]
        model, course, teacher = parts(world, folder, draft_vocab_size=1000, max_steps=60, evaluations=1, loss=loss)
        known = teacher.grammars.known(rows)
        states = {
            name: made(folder / f"json-{name}", chosen, teacher)
            for name, chosen in (("train", taught(known, mode)), ("holdout", known))
        }
        training = loop(model, replace(course, train=states["train"], holdout=states["holdout"]), folder)
        training.run(lambda *_: None)
        lengths[mode] = training.progress.best_length
    assert lengths["Unmasked"] < 1.5
    assert min(lengths["Masked"], lengths["Served"]) > 2


def test_rows_of_older_datasets_have_no_grammar(world: World) -> None:
    assert all(found.grammar is None for split in world.rows() for found in split)
