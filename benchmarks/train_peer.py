"""The peer's side of `make bench-train`, alone in its own environment: nothing of this project is imported.

It is: speculators' unmodified `Eagle3DraftModel`, its loss, its file reader and its collate function, in the plainest
loop that trains: forward, backward, clip, AdamW. Attention is `sdpa` and losses are `eager`, the two that run on a CPU.
It is not: its `Trainer`, which wants an accelerator; so nothing of its logging, workers and checkpoints costs it time.

In its favour: the fused AdamW, where its own trainer takes the plain one; no padding, where its own sampler pads.
"""

import argparse
import importlib.metadata
import json
import time
from pathlib import Path
from typing import Any

import torch
from hs_connectors import FileTransfer
from safetensors.torch import load_file, save_file
from speculators import SpeculatorsConfig, VerifierConfig
from speculators.losses import resolve_loss_config
from speculators.models.eagle3 import Eagle3SpeculatorConfig
from speculators.models.eagle3.core import Eagle3DraftModel
from speculators.models.eagle3.data import shift_batch
from speculators.proposals.greedy import GreedyTokenProposalConfig
from speculators.train.data import CollateFn
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from transformers import LlamaConfig

Json = dict[str, Any]


class Peer:
    """Model, data and loop over one workload."""

    def __init__(self, folder: Path) -> None:
        self.plan = json.loads((folder / "workload.json").read_text())
        self.bfloat16 = self.plan["dtype"] == "BFloat16"
        self.transfer = FileTransfer(folder / "states")
        self.model = self._model(load_file(folder / "weights.safetensors"))

    def _model(self, weights: dict[str, Tensor]) -> Eagle3DraftModel:
        drafter, layer = self.plan["drafter"], LlamaConfig(**self.plan["layer"])
        layer._attn_implementation = "sdpa"  # noqa: SLF001 - as its own from_training_args sets it
        modern = drafter["architecture"] == "Eagle31"
        config = Eagle3SpeculatorConfig(
            transformer_layer_config=layer,
            draft_vocab_size=drafter["draft_vocab_size"],
            norm_before_residual=modern,
            fc_norm=modern,
            norm_output=modern,
            eagle_aux_hidden_state_layer_ids=list(drafter["aux_layers"]),
            speculators_config=SpeculatorsConfig(
                algorithm="eagle3",
                proposal_methods=[GreedyTokenProposalConfig(speculative_tokens=self.plan["steps"])],
                default_proposal_method="greedy",
                verifier=VerifierConfig(name_or_path=None, architectures=["LlamaForCausalLM"]),
            ),
        )
        model = Eagle3DraftModel(config)
        state = {name.removeprefix("drafter."): x for name, x in weights.items() if name.startswith("drafter.")}
        state["embed_tokens.weight"] = weights["embedding"].float()
        state["verifier_lm_head.weight"] = weights["head"]
        state["verifier_norm.weight"] = torch.ones(drafter["hidden_size"])
        missing, unexpected = model.load_state_dict(state, strict=False)
        if unexpected or set(missing) - {"t2d", "d2t"}:
            raise SystemExit(f"weights do not fit: missing {missing}, unexpected {unexpected}")
        model.lm_head.weight.requires_grad_(True)
        return model.float().train()

    def batch(self, members: list[int], dtype: torch.dtype) -> dict[str, Tensor]:
        """Read a pack as its dataset does, collate it as its loader does."""
        samples = []
        for member in members:
            cached = self.transfer.get_cached(member)
            length = len(cached["token_ids"])
            samples.append(
                {
                    "hidden_states": cached["hidden_states"][:, :-1].flatten(1),
                    "input_ids": cached["token_ids"],
                    "verifier_last_hidden_states": cached["hidden_states"][:, -1],
                    "loss_mask": torch.tensor(self.plan["rows"][member]["taught"], dtype=torch.bool),
                    "lengths": torch.tensor([length]),
                    "position_ids": torch.arange(length),
                }
            )
        width = sum(len(sample["input_ids"]) - 1 for sample in samples)
        collate = CollateFn(width, self.plan["drafter"]["hidden_size"], dtype=dtype, preprocess=shift_batch)
        batch: dict[str, Tensor] = collate(samples)
        del batch["error_records"]
        return batch

    def loss(self, batch: dict[str, Tensor], steps: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Run its forward pass, which ends with its loss."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
            _, loss, metrics = self.model(
                **batch,
                ttt_steps=steps,
                ttt_step_loss_decay=self.plan["step_decay"],
                loss_config=resolve_loss_config("kl_div", "eager"),
            )
        return loss, metrics

    def train(self, warm: int) -> Json:
        """Train; seconds and tokens after the first `warm` steps."""
        wanted = [p for p in self.model.parameters() if p.requires_grad]
        optimiser = torch.optim.AdamW(
            wanted, lr=self.plan["learning_rate"], betas=(0.9, 0.95), weight_decay=0.0, fused=True
        )
        dtype = torch.bfloat16 if self.bfloat16 else torch.float32
        seconds: list[float] = []
        cpu_seconds: list[float] = []
        tokens: list[int] = []
        for members in self.plan["packs"]:
            began, used = time.perf_counter(), time.process_time()
            batch = self.batch(members, dtype)
            loss, _ = self.loss(batch, self.plan["steps"])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            clip_grad_norm_(wanted, self.plan["max_grad_norm"])
            optimiser.step()
            loss.item()
            seconds.append(time.perf_counter() - began)
            cpu_seconds.append(time.process_time() - used)
            tokens.append(batch["input_ids"].shape[1])
        return {"seconds": seconds[warm:], "cpu_seconds": cpu_seconds[warm:], "tokens": tokens[warm:]}

    def check(self, rows: list[int], steps: int, out: Path) -> Json:
        """Loss and gradients over a pack of these rows, in float32."""
        loss, metrics = self.loss(self.batch(rows, torch.float32), steps)
        loss.backward()  # type: ignore[no-untyped-call]
        grads = {name: p.grad for name, p in self.model.named_parameters() if p.grad is not None}
        save_file(grads, out)
        return {"loss": loss.item(), "parts": [metrics[f"loss_{k}_sum"].item() for k in range(steps)]}


def main() -> None:
    """Answer in JSON on standard output."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--warm", type=int, default=0)
    parser.add_argument("--check", type=json.loads, help="[rows, draft steps]: loss and gradients instead of speed")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    peer = Peer(given.folder)
    if given.check:
        rows, steps = given.check
        answer = peer.check(rows, steps, given.folder / "peer.safetensors")
    else:
        answer = peer.train(given.warm)
    versions = {name: importlib.metadata.version(name) for name in ("speculators", "torch", "transformers")}
    print(json.dumps({**answer, "versions": versions}))


if __name__ == "__main__":
    main()
