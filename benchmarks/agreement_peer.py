"""speculators' side of `benchmarks.agreement`, alone in its own environment: reads a drafter as its users do."""

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from speculators.models.eagle3 import Eagle3SpeculatorConfig
from speculators.models.eagle3.core import Eagle3DraftModel
from torch import Tensor


def main() -> None:
    """Print the greatest difference between its logits and the expected ones, over positions that both have."""
    folder = Path(sys.argv[1])
    given = load_file(folder / "inputs.safetensors")
    config = Eagle3SpeculatorConfig.from_pretrained(folder)
    # Its default wants an accelerator.
    config.transformer_layer_config._attn_implementation = "sdpa"  # noqa: SLF001
    model = Eagle3DraftModel.from_pretrained(folder, config=config, dtype=torch.float32).eval()
    # It takes the target's embedding where its own is NaN; but under transformers 5 what a file lacks is whatever lay
    # in memory.
    with torch.no_grad():
        model.embed_tokens.weight.fill_(torch.nan)
    model.load_verifier_weights()
    found: list[Tensor] = []
    model.lm_head.register_forward_hook(lambda _module, _inputs, out: found.append(out[0]))
    steps, tokens, _ = given["logits"].shape
    with torch.no_grad():
        model(
            hidden_states=given["aux"].flatten(1)[None],
            input_ids=given["ids"][None, 1:],
            document_ids=torch.zeros(1, tokens, dtype=torch.long),
            position_ids=torch.arange(tokens)[None],
            ttt_steps=steps,
        )
    # At step k the last k positions have no token to be fed.
    print(max(float((found[k] - given["logits"][k])[: tokens - k].abs().max()) for k in range(steps)))


if __name__ == "__main__":
    main()
