"""speculators' side of `make bench-quality`, alone in its own environment.

It is: the unmodified model and loss of `train_peer` over a workload's packs, until the packs end, with the peer's own
weights of the draft steps (all alike); the head is trained, which is in its favour. It writes what it has learnt.
It is not: its Trainer, which wants an accelerator.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn.utils import clip_grad_norm_

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks.train_peer import Peer

FLOOR = 0.05
"""Share of the learning rate at which the linear schedule ends; as on the other side."""


def main() -> None:
    """Train, and answer in JSON on standard output."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    peer = Peer(given.folder)
    plan, total = peer.plan, len(peer.plan["packs"])
    wanted = [p for p in peer.model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(wanted, lr=0.0, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    dtype = torch.bfloat16 if peer.bfloat16 else torch.float32
    warm = max(1, round(plan["warmup"] * total))
    tokens, began = 0, time.perf_counter()
    for step, members in enumerate(plan["packs"]):
        done = (step - warm) / max(total - warm, 1)
        rate = plan["learning_rate"] * ((step + 1) / warm if step < warm else 1 - (1 - FLOOR) * done)
        batch = peer.batch(members, dtype)
        loss, _ = peer.loss(batch, plan["steps"])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        clip_grad_norm_(wanted, plan["max_grad_norm"])
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.step()
        tokens += batch["input_ids"].shape[1]
    seconds = time.perf_counter() - began
    trained = {name for name, p in peer.model.named_parameters() if p.requires_grad}
    save_file({k: v.contiguous() for k, v in peer.model.state_dict().items() if k in trained}, given.out)
    print(json.dumps({"seconds": seconds, "tokens": tokens}))


if __name__ == "__main__":
    main()
