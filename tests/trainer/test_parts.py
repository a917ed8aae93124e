"""The smaller parts: draft vocabulary, which layers are captured."""

import pytest
import torch

from specop.api import reasons
from specop.common.errors import UserError
from specop.trainer.batches import Row
from specop.trainer.teacher import aux_layers
from specop.trainer.vocabulary import ROUND, draft_ids, draft_vocabulary


def test_labels_come_first_then_what_prompts_hold_then_low_ids() -> None:
    row = Row("k", (9, 9, 9, 7, 5, 5, 4), ((3, 7),), constrained=False, temperature=0.0)
    # labels are tokens 4…6: the first generated token is never drafted
    assert draft_vocabulary([row], 2, 300).tolist() == [4, 5]
    assert draft_vocabulary([row], 4, 300).tolist() == [4, 5, 7, 9]
    assert draft_vocabulary([row], 5, 300).tolist() == [0, 4, 5, 7, 9]
    assert len(draft_vocabulary([row], 299, 300)) == ROUND


def test_who_asks_for_all_of_the_targets_vocabulary_gets_it_in_order() -> None:
    row = Row("k", (9, 9, 9, 7, 5, 5, 4), ((3, 7),), constrained=False, temperature=0.0)
    for wanted in (300, 10_000):
        assert draft_vocabulary([row], wanted, 300).tolist() == list(range(300))


def test_draft_ids_are_the_inverse_of_the_vocabulary() -> None:
    vocabulary_D = torch.tensor([1, 4, 6])
    assert draft_ids(vocabulary_D, 8).tolist() == [-1, 0, -1, -1, 1, -1, 2, -1]


def test_captured_layers_are_early_middle_and_late_and_never_the_same() -> None:
    assert aux_layers(30) == (2, 15, 27)
    for depth in range(4, 100):
        found = aux_layers(depth)
        assert found == tuple(sorted(set(found)))
        assert 0 < found[0] < found[2] < depth
    with pytest.raises(UserError) as raised:
        aux_layers(3)
    assert raised.value.reason == reasons.TARGET_UNSUPPORTED
