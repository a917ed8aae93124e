"""The draft vocabulary: which tokens a drafter can propose.

The rule: tokens are ranked by how often they are labels, then by how often they occur in prompts (answers copy from
them), then by id (byte-pair ids are in order of merging, so of frequency). A part of the target's vocabulary is as
large as was asked for, but no larger than the number of distinct tokens that occur, rounded up to a multiple of
`ROUND`: a row of the head that nothing ever teaches costs time at every draft step and gives nothing. Who asks for as
many tokens as the target has, or more, gets them all: so a drafter can be had that proposes what only other traffic
holds. Ids are kept in ascending order.
"""

from collections import Counter
from collections.abc import Iterable

import torch
from torch import Tensor

from specop.trainer.batches import Row

ROUND = 256


def draft_vocabulary(rows: Iterable[Row], wanted: int, vocab_size: int) -> Tensor:
    """Return the ids of the draft vocabulary's tokens, ascending."""
    if wanted >= vocab_size:
        return torch.arange(vocab_size)
    labels: Counter[int] = Counter()
    seen: Counter[int] = Counter()
    for row in rows:
        seen.update(row.ids)
        for start, end in row.anchors:
            labels.update(row.ids[start + 2 : end + 2])
    useful = -(-len(seen) // ROUND) * ROUND
    ranked = sorted(range(vocab_size), key=lambda token: (-labels[token], -seen[token], token))
    return torch.tensor(sorted(ranked[: min(wanted, useful)]))


def draft_ids(vocabulary_D: Tensor, vocab_size: int) -> Tensor:
    """Return for every token of the target its id in the draft vocabulary, -1 where it has none."""
    ids_V = torch.full((vocab_size,), -1)
    ids_V[vocabulary_D] = torch.arange(len(vocabulary_D))
    return ids_V
