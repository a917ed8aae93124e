"""What one backward pass differentiates: a drafter unrolled over a pack, and the loss of all its draft steps.

It is a module of its own, with an ordinary forward pass, because that is where FSDP2 gathers weights and gradients.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from specop.trainer.batches import Pack
from specop.trainer.losses import Labels, StepWeights, head_loss
from specop.trainer.model import Eagle3
from specop.trainer.vocabulary import draft_ids


class Objective(nn.Module):
    """A drafter and how it is judged while it learns."""

    def __init__(
        self,
        drafter: Eagle3,
        *,
        vocabulary_D: Tensor,
        teacher: Callable[[Tensor], Tensor],
        steps: int,
        compute: torch.dtype,
    ) -> None:
        """`teacher`: from the target's final states (C, H) to its logits on the draft vocabulary (C, D)."""
        super().__init__()
        self.drafter = drafter
        self._teacher = teacher
        self._steps = steps
        self._compute = compute
        self._vocabulary_D = vocabulary_D.to(drafter.embedding_VH.device)
        self._draft_ids_V = draft_ids(vocabulary_D, drafter.config.vocab_size).to(drafter.embedding_VH.device)

    def forward(self, pack: Pack | None = None, weights: Sequence[StepWeights] | None = None) -> tuple[Tensor, Tensor]:
        """Return the weighted loss, a scalar, and per draft step the sum of alpha over its labels.

        Without a pack both are zero, and so are the gradients, which there are all the same.
        """
        head_DH = self.drafter.lm_head.weight
        if pack is None or weights is None:
            nothing = [parameter.flatten()[:0].sum() for parameter in self.parameters()]
            return torch.stack(nothing).sum(), head_DH.new_zeros(self._steps)
        with torch.autocast(pack.last_AH.device.type, torch.bfloat16, enabled=self._compute == torch.bfloat16):
            hidden_KAH = torch.stack(list(self.drafter.unroll(pack, self._steps)))
        argmax_A, served_A = self._draft_ids_V[pack.argmax_A.long()], self._draft_ids_V[pack.served_A]
        labels = Labels(
            pack.last_AH,
            pack.lse_A,
            argmax_A,
            served_A,
            pack.end_A,
            unknown_A=pack.unknown_A,
            masks=pack.masks(self._vocabulary_D),
        )
        return head_loss(hidden_KAH, head_DH, labels, teacher=self._teacher, weights=weights, compute=self._compute)
