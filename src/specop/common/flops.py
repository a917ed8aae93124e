"""Arithmetic of a training run: how many floating-point operations its matrix products execute.

It is the one place where they are counted: MFU, the estimate of a run and the benchmarks read it. Counted are matrix
products alone, two operations a multiply-add, as `torch.utils.flop_counter` does; norms, softmax and the optimiser are
a few percent more of memory traffic and of nothing else. Counted is what the trainer executes, not what a naive form
would: only anchors (positions with a label) have queries, a feed-forward pass and logits, and the backward pass of
attention makes its scores again.

Symbols: N tokens, A anchors, P pairs of an anchor and a token that it sees (its own among them), K draft steps, H
hidden size, I width of the feed-forward network, Q heads times head size, G key-value heads times head size, C captured
layers, D draft vocabulary, V vocabulary. Forward pass, in multiply-adds:

    fusion      N C H^2                                         once
    layer       N 4HG + A 2HQ + K A (QH + 3HI)                  keys and values of every token, queries of anchors
                + (K - 1) A (HQ + 2HG)                          later steps: the embedding's half is there already
    attention   K P 2Q                                          what later steps add is one key each: no product
    head        K A H D
    teacher     A H D                                           the target's rows, without a gradient

The backward pass costs twice the forward pass, but where nothing before a product is trained it costs once (captured
states of Eagle3 enter `fusion` as they are).
"""

from dataclasses import dataclass

FORWARD_AND_BACKWARD = 3
ATTENTION_PASSES = 3.5
"""Two products forward; backward four, and the scores once more."""


@dataclass(frozen=True, slots=True)
class DrafterShape:
    """Sizes of a drafter with one layer."""

    hidden: int
    intermediate: int
    queries: int
    """Heads times head size."""
    keys: int
    """Key-value heads times head size."""
    captured: int
    draft_vocab: int
    normed_states: bool
    """Eagle31: a trained norm stands between captured states and fusion."""

    @property
    def parameters(self) -> int:
        """Trained parameters: fusion, layer, head, norms. The embedding is the target's."""
        h = self.hidden
        layer = 2 * h * (self.queries + 2 * self.keys) + self.queries * h + 3 * h * self.intermediate
        norms = h * (4 + (self.captured if self.normed_states else 0))
        return self.captured * h * h + layer + h * self.draft_vocab + norms


@dataclass(frozen=True, slots=True)
class TargetShape:
    """Sizes of a target; of experts, those that a token passes."""

    hidden: int
    intermediate: int
    queries: int
    keys: int
    layers: int
    vocab: int

    @property
    def layer_parameters(self) -> int:
        """Parameters of all layers that a token passes."""
        attention = self.hidden * (2 * self.queries + 2 * self.keys)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)


@dataclass(frozen=True, slots=True)
class Work:
    """What is computed: counts over any number of packs."""

    tokens: float
    anchors: float
    pairs: float
    """Over all anchors, tokens that the anchor sees."""
    steps: int
    """Draft steps."""


@dataclass(frozen=True, slots=True)
class TrainingFlops:
    """Forward and backward pass of the drafter, and the target's rows of the head."""

    fusion: float
    layer: float
    attention: float
    head: float
    teacher: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.fusion + self.layer + self.attention + self.head + self.teacher


def training_flops(shape: DrafterShape, work: Work) -> TrainingFlops:
    """FLOPs of one forward and backward pass over this work."""
    h, q, g = shape.hidden, shape.queries, shape.keys
    later = work.anchors * (work.steps - 1)
    projections = work.tokens * 4 * h * g + work.anchors * 2 * h * q + later * (h * q + 2 * h * g)
    layer = projections + work.anchors * work.steps * (q * h + 3 * h * shape.intermediate)
    head = work.anchors * h * shape.draft_vocab
    fusion_passes = FORWARD_AND_BACKWARD - (0 if shape.normed_states else 1)
    return TrainingFlops(
        fusion=2 * fusion_passes * work.tokens * shape.captured * h * h,
        layer=2 * FORWARD_AND_BACKWARD * layer,
        attention=2 * ATTENTION_PASSES * work.steps * work.pairs * 2 * q,
        head=2 * FORWARD_AND_BACKWARD * work.steps * head,
        teacher=2 * head,
    )


def judging_flops(shape: DrafterShape, work: Work) -> float:
    """FLOPs of an evaluation: forward passes alone, and the teacher's rows; without the target."""
    trained = training_flops(shape, work)
    fusion = 2 * work.tokens * shape.captured * shape.hidden**2
    drafter = (trained.layer + trained.head) / FORWARD_AND_BACKWARD + trained.attention / ATTENTION_PASSES
    return fusion + drafter + trained.teacher


def teacher_flops(target: TargetShape, work: Work) -> float:
    """FLOPs of the target's own pass: all layers over all tokens, its whole head over anchors.

    `work.pairs` is of anchors; the target's attention is over every token, at the same mean sight.
    """
    sight = work.pairs / max(work.anchors, 1)
    attention = 4 * target.queries * target.layers * work.tokens * sight
    return 2 * work.tokens * target.layer_parameters + attention + 2 * work.anchors * target.hidden * target.vocab
