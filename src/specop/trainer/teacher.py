"""The target as teacher: frozen, run once over the rows through transformers' own interfaces.

What is asked of a model: hidden states by layer, a final state, an output embedding. What a family does between final
state and logits (a divisor, a factor, a soft cap) is read from its configuration and then checked against the model's
own logits on a probe: a family that does something else is refused, not mistaught.

Captured layer k is the residual stream after k decoder layers, as engines count. Rows are padded at the right; a causal
model's states before the padding do not depend on it.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from specop.api import reasons
from specop.common.errors import UserError
from specop.trainer.batches import Masks, Row
from specop.trainer.grammar import Grammars
from specop.trainer.model import DrafterConfig

log = logging.getLogger(__name__)

MIN_LAYERS = 4
DEEP = 7
"""From this depth on the usual layers 2, L/2, L-3 are three different ones."""
VOCAB_BLOCK_ELEMENTS = 1 << 24
"""Rows times vocabulary of one block of full logits."""
PROBE_TOLERANCE = 0.05


def _loaded(folder: Path, dtype: torch.dtype) -> Any:
    transformers_logging.disable_progress_bar()
    try:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, trust_remote_code=False)
    except (ValueError, OSError, KeyError, ImportError) as error:  # the last: a quantisation needs a package
        raise _unsupported(error) from error


def aux_layers(num_layers: int) -> tuple[int, ...]:
    """Which layers are captured: early, middle, late. Raises UserError TargetUnsupported below four layers."""
    if num_layers < MIN_LAYERS:
        raise UserError(reasons.TARGET_UNSUPPORTED, f"The target has {num_layers} layers; EAGLE-3 needs {MIN_LAYERS}.")
    if num_layers < DEEP:
        return (1, num_layers // 2, num_layers - 1)
    return (2, num_layers // 2, num_layers - 3)


@dataclass(frozen=True, slots=True)
class RowStates:
    """What the teacher says of one row: n tokens, a anchors, C captured layers, H hidden. States are bfloat16."""

    aux_nCH: Tensor
    last_aH: Tensor
    lse_a: Tensor
    """Log-sum-exp of the logits divided by the row's temperature (1 for a greedy row), over the whole vocabulary or,
    where the row's grammar is known, over the tokens that it allows."""
    argmax_a: Tensor
    peak_a: Tensor
    """Log-probability of the argmax."""


class Teacher:
    """A loaded target."""

    def __init__(self, folder: Path, dtype: torch.dtype, device: torch.device, model: Any = None) -> None:
        """Load from a folder of safetensors, or take a model that was made already.

        A quantised target is loaded as it is where transformers has kernels for it, else as what its weights stand for.
        Raises UserError TargetUnsupported where transformers cannot.
        """
        self.model = model or _loaded(folder, dtype)
        self.model.to(device).eval().requires_grad_(False)
        self.device = device
        self.config = self.model.config.get_text_config()
        self.layers = aux_layers(self.config.num_hidden_layers)
        self.embedding_VH: Tensor = self.model.get_input_embeddings().weight.detach()
        self.head_VH: Tensor = self.model.get_output_embeddings().weight.detach()
        self.grammars = Grammars(folder, self.config.vocab_size)
        try:
            self._probe()
        except ImportError as error:  # kernels of a quantisation are looked for when they are first wanted
            raise _unsupported(error) from error

    def drafter_config(self, architecture: Any, draft_vocab_size: int) -> DrafterConfig:
        """Sizes of a drafter for this target; its layer is as wide as one of the target's."""
        c = self.config
        experts = getattr(c, "num_experts_per_tok", None)
        width = getattr(c, "moe_intermediate_size", None) or c.intermediate_size
        rope = dict(c.rope_parameters)
        return DrafterConfig(
            architecture=architecture,
            hidden_size=c.hidden_size,
            intermediate_size=width * experts if experts else width,
            num_heads=c.num_attention_heads,
            num_kv_heads=c.num_key_value_heads,
            head_dim=getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads,
            rms_norm_eps=c.rms_norm_eps,
            rope_parameters=rope.get("full_attention", rope),
            max_positions=c.max_position_embeddings,
            vocab_size=c.vocab_size,
            draft_vocab_size=draft_vocab_size,
            aux_layers=self.layers,
        )

    def logits(self, last_CH: Tensor, head_DH: Tensor) -> Tensor:
        """Logits CD of final states, on the given rows of the head, as the target itself makes them."""
        logits_CD = last_CH.to(head_DH.dtype) @ head_DH.T
        if divisor := getattr(self.config, "logits_scaling", None):
            logits_CD = logits_CD / divisor
        if factor := getattr(self.config, "logit_scale", None):
            logits_CD = logits_CD * factor
        if cap := getattr(self.config, "final_logit_softcapping", None):
            logits_CD = torch.tanh(logits_CD / cap) * cap
        return logits_CD

    def release(self) -> None:
        """Free the layers, once no more states are wanted; `logits`, head and embedding stay."""
        self.model = None

    @torch.no_grad()
    def states(self, rows: Sequence[Row]) -> list[RowStates]:
        """Run rows of similar length together."""
        width = max(row.length for row in rows) + 1
        ids_BT = torch.zeros(len(rows), width, dtype=torch.long)
        for b, row in enumerate(rows):
            ids_BT[b, : row.length + 1] = torch.tensor(row.ids[: row.length + 1])
        out = self.model.base_model(input_ids=ids_BT.to(self.device), use_cache=False, output_hidden_states=True)
        found = []
        for b, row in enumerate(rows):
            label_a = torch.cat([torch.arange(start + 1, end + 1) for start, end in row.anchors])
            aux_nCH = torch.stack([out.hidden_states[k][b, : row.length] for k in self.layers], dim=1).bfloat16()
            last_aH = out.last_hidden_state[b, label_a].bfloat16()
            scalars = self._scalars(last_aH, row)
            found.append(RowStates(aux_nCH.cpu(), last_aH.cpu(), *(x.cpu() for x in scalars)))
        return found

    def _scalars(self, last_aH: Tensor, row: Row) -> tuple[Tensor, Tensor, Tensor]:
        """Log-sum-exp (float32), argmax (int32) and its log-probability (float32), all of the rounded states."""
        block = max(1, VOCAB_BLOCK_ELEMENTS // len(self.head_VH))
        masks = Masks(*self.grammars.masks([row]), torch.arange(len(self.head_VH))) if row.grammar else None
        found = []
        for index_C in torch.split(torch.arange(len(last_aH)), block):
            logits_CV = self.logits(last_aH[index_C.to(self.device)], self.head_VH).float() / (row.temperature or 1.0)
            if masks:
                logits_CV.masked_fill_(~masks.allowed(index_C).to(self.device), float("-inf"))
            lse_C, (most_C, argmax_C) = logits_CV.logsumexp(-1), logits_CV.max(-1)
            found.append((lse_C, argmax_C.int(), most_C - lse_C))
        lse, argmax, peak = zip(*found, strict=True)
        return torch.cat(lse), torch.cat(argmax), torch.cat(peak)

    @torch.no_grad()
    def _probe(self) -> None:
        """Refuse a target whose logits are not what `logits` makes of its final state."""
        ids_BT = torch.arange(16, device=self.device)[None] % self.config.vocab_size
        out = self.model(input_ids=ids_BT, use_cache=False, output_hidden_states=True)
        last_TH = self.model.base_model(input_ids=ids_BT, use_cache=False).last_hidden_state[0]
        theirs, ours = out.logits[0].float(), self.logits(last_TH, self.head_VH).float()
        if len(out.hidden_states) != self.config.num_hidden_layers + 1 or theirs.shape != ours.shape:
            raise UserError(reasons.TARGET_UNSUPPORTED, "The target does not show its hidden states layer by layer.")
        if not (theirs - ours).abs().max() <= PROBE_TOLERANCE * theirs.abs().max():
            raise UserError(
                reasons.TARGET_UNSUPPORTED,
                f"{type(self.model).__name__} makes its logits in a way that is not known: it cannot be a teacher.",
            )


def _unsupported(error: Exception) -> UserError:
    return UserError(reasons.TARGET_UNSUPPORTED, f"The target cannot be loaded: {error}"[:500])
