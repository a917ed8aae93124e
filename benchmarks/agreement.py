"""Whether other programs read an exported drafter as we mean it: `python -m benchmarks.agreement`.

It is: drafters of every kind that the trainer writes, with random weights, read back by a fresh process of ours and by
`Eagle3DraftModel.from_pretrained` of speculators in its own environment, and their logits over three draft steps
compared with those of the model that was written. Writes build/bench/agreement.json; fails where they differ.
It is not: a test of engines; those are in `tests/trainer`.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks import peer
from specop.trainer.batches import Pack
from specop.trainer.export import read_drafter, write_drafter
from specop.trainer.model import DrafterConfig, Eagle3
from tests.trainer.packs import make_pack

ROOT = Path(__file__).resolve().parent.parent
REPORT = ROOT / "build" / "bench" / "agreement.json"
VOCAB, HIDDEN, TOKENS, STEPS = 512, 128, 48, 3
TOLERANCE = 1e-4
"""Of float32 logits, absolute; their spread is about one."""
CASES = [
    (architecture, layout, draft_vocab)
    for architecture in ("Eagle3", "Eagle31")
    for layout in ("Speculators", "Eagle")
    for draft_vocab in (200, VOCAB)
]


def drafter(architecture: Any, draft_vocab: int) -> DrafterConfig:
    """Sizes of a small drafter with grouped heads and a scaled rotary embedding."""
    return DrafterConfig(
        architecture=architecture,
        hidden_size=HIDDEN,
        intermediate_size=192,
        num_heads=4,
        num_kv_heads=2,
        head_dim=32,
        rms_norm_eps=1e-5,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 500_000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
        max_positions=2048,
        vocab_size=VOCAB,
        draft_vocab_size=draft_vocab,
        aux_layers=(1, 2, 3),
    )


def pack(c: DrafterConfig, ids: torch.Tensor, aux_NCH: torch.Tensor) -> Pack:
    """One document in which every token is an anchor."""
    served_A = torch.cat([ids[2:], ids[-1:]])
    return make_pack(c, [(TOKENS, [(0, TOKENS)])], next_N=ids[1:], aux_NCH=aux_NCH, served_A=served_A)


@torch.no_grad()
def logits(model: Eagle3, batch: Pack) -> torch.Tensor:
    """Logits of every draft step (K, A, D)."""
    return torch.stack([model.lm_head(hidden_AH) for hidden_AH in model.unroll(batch, STEPS)])


def write(folder: Path, architecture: str, layout: Any, draft_vocab: int) -> None:
    """Write a drafter, the inputs, and the logits that it must give."""
    torch.manual_seed(len(architecture) + draft_vocab)
    embedding_VH = _target(folder / "target")
    model = Eagle3(drafter(architecture, draft_vocab), embedding_VH)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.3 if parameter.dim() == 1 else parameter.shape[-1] ** -0.5
            parameter.copy_((scale * torch.randn(parameter.shape) + (parameter.dim() == 1)).bfloat16())
    vocabulary_D = torch.randperm(VOCAB)[:draft_vocab].sort().values
    verifier = {"name_or_path": str(folder / "target"), "architectures": ["LlamaForCausalLM"]}
    write_drafter(folder, model.config, model.state_dict(), vocabulary_D, steps=STEPS, verifier=verifier, layout=layout)
    ids, aux = torch.randint(VOCAB, (TOKENS + 1,)), torch.randn(TOKENS, 3, HIDDEN)
    inputs = {"ids": ids, "aux": aux, "embedding": embedding_VH, "logits": logits(model, pack(model.config, ids, aux))}
    save_file(inputs, folder / "inputs.safetensors")


def _target(folder: Path) -> torch.Tensor:
    """Write a target, whose embedding other programs take from its own files; return that."""
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=HIDDEN,
        intermediate_size=192,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        initializer_range=1.0,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    embedding_VH: torch.Tensor = model.get_input_embeddings().weight.detach()
    return embedding_VH


def reread(folder: Path, architecture: str) -> float:
    """Greatest difference of the logits when a fresh process reads the files."""
    given = load_file(folder / "inputs.safetensors")
    model, _ = read_drafter(folder, given["embedding"], drafter(architecture, 0))
    return float((logits(model, pack(model.config, given["ids"], given["aux"])) - given["logits"]).abs().max())


def main() -> None:
    """Compare all cases; or, in the fresh process, one."""
    if len(sys.argv) > 1:
        print(reread(Path(sys.argv[1]), sys.argv[2]))
        return
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as kept:
        for index, (architecture, layout, draft_vocab) in enumerate(CASES):
            folder = Path(kept) / str(index)
            write(folder, architecture, layout, draft_vocab)
            ours = _run([sys.executable, "-m", "benchmarks.agreement", str(folder), architecture])
            row = {"architecture": architecture, "layout": layout, "draftVocab": draft_vocab, "reread": ours}
            if layout == "Speculators":
                row["speculators"] = _run(
                    [str(peer.binary()), "-P", str(Path(__file__).with_name("agreement_peer.py")), str(folder)]
                )
            rows.append(row)
            print("  ".join(f"{key} {value}" for key, value in row.items()))
    worst: float = max(value for row in rows for key, value in row.items() if key in {"reread", "speculators"})
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps({"greatestDifference": worst, "tolerance": TOLERANCE, "cases": rows}, indent=1) + "\n")
    sys.exit(worst > TOLERANCE)


def _run(command: list[str]) -> float:
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        sys.exit(done.stderr)
    return float(done.stdout.split()[-1])


if __name__ == "__main__":
    main()
