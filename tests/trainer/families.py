"""Tiny random targets of many families, each through the teacher and through a real vLLM engine in this process.

    python -m tests.trainer.families OUT.json Llama Qwen3 …       (all without names: `make bench-families`)

For each family four things are compared, as the greatest difference over the greatest value: states of captured layers,
the embedding that the drafter reads, the target's logits, and the logits of an exported drafter's first draft. It runs
outside pytest, because an engine in the same process changes much of it; engines start one after another. What passes
belongs into `src/specop/api/families.json`.
"""

import gc
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from specop.api.families import family_of
from specop.trainer.export import read_drafter, write_drafter
from specop.trainer.model import Eagle3
from specop.trainer.teacher import Teacher
from tests.tiny import END_OF_TURN, VOCAB_SIZE, build_tiny
from tests.trainer.packs import make_pack

COMMON = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "initializer_range": 0.08,
    "tie_word_embeddings": False,
    "bos_token_id": END_OF_TURN,
    "eos_token_id": END_OF_TURN,
    "pad_token_id": END_OF_TURN,
}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 64}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("Llama", {}),
    "Qwen2": ("Qwen2", {}),
    "Qwen3": ("Qwen3", {}),
    "Qwen3-MoE": ("Qwen3Moe", {**EXPERTS, "num_experts": 8, "decoder_sparse_step": 1, "norm_topk_prob": True}),
    "Mistral": ("Mistral", {"sliding_window": None}),
    "Granite": (
        "Granite",
        {
            "embedding_multiplier": 12.0,
            "logits_scaling": 8.0,
            "residual_multiplier": 0.22,
            "attention_multiplier": 0.02,
        },
    ),
    "gpt-oss": ("GptOss", {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 64}),
    "Gemma-3": ("Gemma3", {"sliding_window": 64, "query_pre_attn_scalar": 32, "final_logit_softcapping": 20.0}),
}
TOLERANCE = 2e-4
"""Of float32, relative to the greatest value; a layer too early or a factor too much is a difference of about one."""
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
}
PROMPT = tuple((7 * i * i + 3 * i) % (VOCAB_SIZE - 3) + 3 for i in range(40))


def build(folder: Path, family: str) -> Path:
    """Write a target: weights of its family, tokenizer and template of `tests.tiny`."""
    build_tiny(folder)
    for old in folder.glob("*.safetensors"):
        old.unlink()
    name, extra = FAMILIES[family]
    kind = f"{name}TextConfig" if name == "Gemma3" else f"{name}Config"
    torch.manual_seed(0)
    config = getattr(transformers, kind)(**{**COMMON, **extra})
    model = getattr(transformers, f"{name}ForCausalLM")(config)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter.dim() == 1 and "sinks" not in parameter_name:
                parameter.add_(0.2 * torch.randn(parameter.shape))  # norms and biases that do something
    model.save_pretrained(folder)
    return folder


@torch.no_grad()
def drafter(folder: Path, teacher: Teacher) -> tuple[Eagle3, Tensor]:
    """Write a random drafter for this target, and read it back."""
    torch.manual_seed(1)
    vocabulary_D = torch.randperm(VOCAB_SIZE)[:128].sort().values
    model = Eagle3(teacher.drafter_config("Eagle31", 128), teacher.embedding_VH)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape)
        parameter.copy_(1 + 0.2 * noise if parameter.dim() == 1 else noise * parameter.shape[-1] ** -0.5)
    verifier = {"name_or_path": "target", "architectures": []}
    write_drafter(folder, model.config, model.state_dict(), vocabulary_D, steps=2, verifier=verifier)
    return read_drafter(folder, teacher.embedding_VH, model.config)


@torch.no_grad()
def taught(teacher: Teacher, ids: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Captured states of a prompt (N, C, H), and the target's logits after it (V)."""
    out = teacher.model.base_model(input_ids=torch.tensor([ids]), use_cache=False, output_hidden_states=True)
    aux_NCH = torch.stack([out.hidden_states[layer][0] for layer in teacher.layers], dim=1)
    return aux_NCH, teacher.logits(out.last_hidden_state[0, -1:], teacher.head_VH)[0]


@torch.no_grad()
def drafted(model: Eagle3, ids: list[int], aux_NCH: Tensor) -> Tensor:
    """Logits (D) of the first draft after a prompt and the token that the target gave it."""
    count = len(ids) - 1
    pack = make_pack(model.config, [(count, [(count - 1, count)])], next_N=torch.tensor(ids[1:]), aux_NCH=aux_NCH)
    (hidden_AH,) = model.unroll(pack, 1)
    logits_D: Tensor = model.lm_head(hidden_AH)[0]
    return logits_D


class Engine:
    """A vLLM engine in this process that keeps what passes through its target and its drafter."""

    def __init__(self, target: Path, drafter_folder: Path, model_impl: str) -> None:
        from vllm import LLM  # noqa: PLC0415 - after the environment is set

        self.llm = LLM(
            model=str(target),
            dtype="float32",
            enforce_eager=True,
            max_model_len=128,
            max_num_seqs=1,
            model_impl=model_impl,
            speculative_config={"method": "eagle3", "model": str(drafter_folder), "num_speculative_tokens": 2},
        )
        core = self.llm.llm_engine.engine_core.engine_core
        self.runner = core.model_executor.driver_worker.worker.model_runner
        self.seen: dict[str, list[Tensor]] = {}
        self._watch(self.runner.drafter.model, "combine_hidden_states", "states", given=True)
        self._watch(self.runner.drafter.model, "compute_logits", "draft", given=False)
        self._watch(self.runner.model, "compute_logits", "logits", given=False)

    def _watch(self, module: Any, method: str, name: str, *, given: bool) -> None:
        original = getattr(module, method)

        def watched(*args: Any, **more: Any) -> Any:
            out = original(*args, **more)
            self.seen.setdefault(name, []).append((args[0] if given else out).detach().clone())
            return out

        object.__setattr__(module, method, watched)

    def ask(self, ids: tuple[int, ...]) -> int:
        """Generate a few tokens after a prompt; return the first."""
        from vllm import SamplingParams  # noqa: PLC0415

        self.seen.clear()
        sampling = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)
        (answer,) = self.llm.generate([{"prompt_token_ids": list(ids)}], sampling, use_tqdm=False)
        return int(answer.outputs[0].token_ids[0])

    def found(self, count: int, vocabulary_D: Tensor) -> dict[str, Tensor]:
        """What it made of the prompt of `count` tokens."""
        embedding = self.runner.drafter.model.model.embed_tokens.weight
        return {
            "states": self.seen["states"][0][:count],
            "embedding": embedding[:VOCAB_SIZE],
            "logits": self.seen["logits"][0][-1, :VOCAB_SIZE],
            "draft": self.seen["draft"][0][-1, vocabulary_D],
        }

    def close(self) -> None:
        """Make room for the next."""
        from vllm.distributed import cleanup_dist_env_and_memory  # noqa: PLC0415

        self.llm.llm_engine.engine_core.shutdown()
        del self.llm, self.runner
        cleanup_dist_env_and_memory()
        gc.collect()


def compare(family: str, folder: Path) -> dict[str, Any]:
    """Differences of one family, by what was compared."""
    target = build(folder / "target", family)
    teacher = Teacher(target, torch.float32, torch.device("cpu"))
    architecture = teacher.model.config.architectures[0]
    model, vocabulary_D = drafter(folder / "drafter", teacher)
    # Before the engine starts: it rewrites the classes of transformers that it serves.
    aux_NCH, logits_V = taught(teacher, PROMPT)
    known = family_of(architecture)
    engine = Engine(target, folder / "drafter", known.model_impl if known else "auto")
    first = engine.ask(PROMPT)
    theirs = engine.found(len(PROMPT), vocabulary_D)
    engine.close()
    ours = {
        "states": aux_NCH.flatten(1),
        "embedding": teacher.embedding_VH,
        "logits": logits_V,
        "draft": drafted(model, [*PROMPT, first], aux_NCH),
    }
    differences = {
        name: float((theirs[name] - value).abs().max() / value.abs().max())
        if theirs[name].shape == value.shape
        else 9.0
        for name, value in ours.items()
    }
    return {"architecture": architecture, **differences}


def main() -> None:
    """Compare the families that are named; a family that fails says why, and the next goes on."""
    os.environ.update(ENVIRONMENT)
    out, families = Path(sys.argv[1]), sys.argv[2:] or list(FAMILIES)
    found: dict[str, Any] = {}
    for family in families:
        with tempfile.TemporaryDirectory() as folder:
            try:
                found[family] = compare(family, Path(folder))
            except Exception as error:  # noqa: BLE001 - whatever it is, it is this family's result
                found[family] = {"error": f"{type(error).__name__}: {error}"[:500]}
        print(family, found[family], flush=True)  # noqa: T201 - for who runs it by hand
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(found, indent=1) + "\n")
    sys.exit(not all(agree(result) for result in found.values()))


def agree(result: dict[str, Any]) -> bool:
    """Whether all four are the same."""
    return all(result.get(name, 1.0) < TOLERANCE for name in ("states", "embedding", "logits", "draft"))


if __name__ == "__main__":
    main()
