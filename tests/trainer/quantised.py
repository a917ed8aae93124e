"""The tiny target as others publish theirs in eight bits, in the formats that transformers reads without a GPU."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

BLOCK = 32
"""Side of a block of weights that has a scale of its own (fp8)."""
FP8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FP8).max
CONFIGS: dict[str, dict[str, Any]] = {
    "fp8": {
        "activation_scheme": "dynamic",
        "weight_block_size": [BLOCK, BLOCK],
        "modules_to_not_convert": ["lm_head"],
    },
    "compressed-tensors": {
        "format": "float-quantized",
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {"type": "float", "num_bits": 8, "strategy": "channel", "symmetric": True, "dynamic": False},
                "input_activations": None,
                "output_activations": None,
            }
        },
    },
}
METHODS = [
    "fp8",
    pytest.param(  # its package compiles at its import, for which torch uses what torch deprecates
        "compressed-tensors", marks=pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
    ),
]


def quantised(method: str, source: Path, folder: Path, *, restored: bool = False) -> Path:
    """Write the target in `source` to `folder` with the linear weights of its layers in eight bits, and return it.

    With `restored` they are multiplied out again: the same model in a format that needs no reader of its own.
    """
    shutil.copytree(source, folder)
    tensors: dict[str, Tensor] = {}
    for name, weight in load_file(folder / "model.safetensors").items():
        if not name.endswith("_proj.weight"):
            tensors[name] = weight
            continue
        rows, columns = weight.shape
        block = (BLOCK, BLOCK) if method == "fp8" else (1, columns)
        blocks = weight.view(rows // block[0], block[0], columns // block[1], block[1])
        scale = blocks.abs().amax((1, 3), keepdim=True) / LARGEST
        small = (blocks / scale).to(FP8)
        if restored:
            tensors[name] = (small.float() * scale).view(rows, columns)
            continue
        tensors[name] = small.view(rows, columns)
        scales = scale.view(rows // block[0], columns // block[1])
        tensors[f"{name}_scale_inv" if method == "fp8" else f"{name}_scale"] = scales
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    if not restored:
        file = folder / "config.json"
        config = json.loads(file.read_text())
        file.write_text(json.dumps({**config, "quantization_config": {"quant_method": method, **CONFIGS[method]}}))
    return folder
