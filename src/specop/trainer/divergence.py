"""When a run is lost: its loss, or a gradient, is no number any more, or the loss has grown without end.

The second is judged against a drafter that knows nothing, which has all tokens of the draft vocabulary equally likely:
the loss of a run from scratch begins about there. A healthy run never gets far above, however it begins. A learning
rate that is somewhat too high, a warm start on other traffic, a bad batch raise the loss, at worst to where nothing is
known, and bring it down again; only weights that grow without bound leave a drafter sure of the wrong tokens, and its
loss many times as high. LKHybrid's lambda moves the loss between KL and TV, both at most that of knowing nothing, so it
needs no case of its own. The loss of a run's beginning alone is no measure: a warm start begins low, and may rise.

What this does not find: TV and JSD alone are bounded, so nothing can grow. Held-out figures show such a run, and its
best weights are those from before.
"""

import math

from specop.api import reasons
from specop.common.errors import UserError
from specop.trainer.checkpoint import Progress
from specop.trainer.config import Recipe

TIMES = 3.0
"""Times the loss of knowing nothing. Runs at fifty times the best rate that still found back stayed below 1.3."""
STEPS = 50
"""Optimiser steps in a row above that."""
_CURE = "lower hyperparameters.learningRate or maxGradNorm"


def ceiling(recipe: Recipe, tokens: int, first_loss: float) -> float:
    """Return the most loss a healthy run may have for long, of a draft vocabulary of `tokens`.

    `first_loss`, that of the run's first step, goes before what is reckoned where it is greater: an untrained drafter
    can be surer than one that knows nothing.
    """
    steps = sum(recipe.step_decay**k for k in range(recipe.decoding_heads))
    return TIMES * max(first_loss, recipe.loss.total * steps * math.log(tokens))


def check_finite(figure: float, step: int) -> None:
    """Raise UserError TrainingDiverged where a loss, or the norm of a step's gradients, is not finite."""
    if not math.isfinite(figure):
        raise UserError(
            reasons.TRAINING_DIVERGED,
            f"The loss or its gradient is not finite at step {step}: {_CURE}, or use computeDtype Float32.",
        )


def check_growth(progress: Progress, loss: float, recipe: Recipe, tokens: int) -> None:
    """Count a step's loss into `progress`; raises UserError TrainingDiverged once it has been too high for too long."""
    if progress.first_loss is None:
        progress.first_loss = loss
    most = ceiling(recipe, tokens, progress.first_loss)
    progress.beyond = progress.beyond + 1 if loss > most else 0
    if progress.beyond >= STEPS:
        raise UserError(
            reasons.TRAINING_DIVERGED,
            f"The loss has grown without end: {loss:.4g} at step {progress.step}, above {most:.4g} for {STEPS} steps "
            f"in a row, {progress.first_loss:.4g} at the first step. To mend it {_CURE}.",
        )
