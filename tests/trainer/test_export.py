"""The exported files: complete, accepted, and the same drafter when read back."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from specop.api import reasons
from specop.common.errors import UserError
from specop.serving.inspect import check_folder
from specop.storage.local import LocalStore
from specop.storage.target import target_facts
from specop.trainer.export import Layout, read_drafter, write_drafter
from tests.tiny import AUX_LAYERS, NUM_LAYERS
from tests.trainer.fresh_process import STEPS
from tests.trainer.tiny_run import ROOT, World, parts

VERIFIER = {"name_or_path": "target", "architectures": ["LlamaForCausalLM"]}


@pytest.mark.parametrize("layout", ["Speculators", "Eagle"])
@pytest.mark.parametrize(("architecture", "size"), [("Eagle3", 128), ("Eagle31", 128), ("Eagle31", 259)])
def test_what_is_written_is_accepted_and_is_the_same_drafter(
    architecture: str, size: int, layout: Layout, world: World, tmp_path: Path
) -> None:
    model, course, teacher = parts(world, tmp_path, architecture=architecture)
    if size == model.config.vocab_size:
        model = type(model)(model.config.with_vocabulary(size), teacher.embedding_VH)
        model.initialise(teacher.head_VH.float(), 0)
        vocabulary_D = torch.arange(size)
    else:
        vocabulary_D = course.vocabulary_D
    weights = {name: tensor.bfloat16().float() for name, tensor in model.state_dict().items()}
    model.load_state_dict(weights)
    write_drafter(tmp_path / "d", model.config, weights, vocabulary_D, steps=3, verifier=VERIFIER, layout=layout)

    facts = target_facts(LocalStore(), world.target)
    contract = check_folder(tmp_path / "d", facts)
    assert (contract.architecture, contract.aux_layers, contract.decoding_heads, contract.dtype) == (
        architecture,
        list(AUX_LAYERS),
        3,
        "bfloat16",
    )
    assert contract.draft_vocab_size == len(vocabulary_D)
    again, kept_D = read_drafter(tmp_path / "d", teacher.embedding_VH, model.config)
    assert torch.equal(kept_D, vocabulary_D)
    pack = course.holdout.pack([0, 1], torch.device("cpu"))
    with torch.no_grad():
        for ours, theirs in zip(model.unroll(pack, 3), again.unroll(pack, 3), strict=True):
            assert torch.equal(model.lm_head(ours), again.lm_head(theirs))
    tensors = load_file(tmp_path / "d" / "model.safetensors")
    assert ("d2t" in tensors) == (size != 259)
    if "d2t" in tensors:
        assert torch.equal(tensors["d2t"] + torch.arange(len(vocabulary_D)), vocabulary_D)
        assert torch.equal(tensors["t2d"].nonzero().squeeze(1), vocabulary_D)
    assert "embed_tokens.weight" not in tensors
    prefixes = {name.split("self_attn")[0] for name in tensors if "self_attn" in name}
    assert prefixes == {"layers.0." if layout == "Speculators" else "midlayer."}


def test_a_fresh_process_makes_the_same_logits_of_the_files(world: World, tmp_path: Path) -> None:
    model, course, _ = parts(world, tmp_path)
    weights = {name: tensor.bfloat16().float() for name, tensor in model.state_dict().items()}
    model.load_state_dict(weights)
    write_drafter(tmp_path / "d", model.config, weights, course.vocabulary_D, steps=STEPS, verifier=VERIFIER)
    pack = course.holdout.pack([0, 1], torch.device("cpu"))
    torch.save(pack, tmp_path / "pack")
    files = [world.folder, tmp_path / "d", tmp_path / "pack", tmp_path / "result"]
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    subprocess.run(
        [sys.executable, "-m", "tests.trainer.fresh_process", *map(str, files)],
        env={**os.environ, **threads, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
        check=True,
    )
    kept_D, found = torch.load(tmp_path / "result")
    assert torch.equal(kept_D, course.vocabulary_D)
    with torch.no_grad():
        expected = [model.lm_head(h) for h in model.unroll(pack, STEPS)]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(expected, found, strict=True))


def test_no_key_is_left_to_a_reader_s_default(world: World, tmp_path: Path) -> None:
    for architecture, modern in (("Eagle3", False), ("Eagle31", True)):
        model, course, _ = parts(world, tmp_path, architecture=architecture)
        folder = tmp_path / architecture
        write_drafter(folder, model.config, model.state_dict(), course.vocabulary_D, steps=3, verifier=VERIFIER)
        config = json.loads((folder / "config.json").read_text())
        assert {name: config[name] for name in config if name != "transformer_layer_config"} == {
            "architectures": ["Eagle3DraftModel"],
            "speculators_model_type": "eagle3",
            "speculators_version": "0.9.0",
            "draft_vocab_size": len(course.vocabulary_D),
            "target_hidden_size": 64,
            "eagle_aux_hidden_state_layer_ids": [1, NUM_LAYERS // 2, NUM_LAYERS - 1],
            "norm_before_residual": modern,
            "norm_before_fc": False,
            "fc_norm": modern,
            "norm_output": modern,
            "embed_requires_grad": False,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "speculators_config": {
                "algorithm": "eagle3",
                "default_proposal_method": "greedy",
                "proposal_methods": [
                    {
                        "proposal_type": "greedy",
                        "speculative_tokens": 3,
                        "verifier_accept_k": 1,
                        "accept_tolerance": 0.0,
                    }
                ],
                "verifier": VERIFIER,
            },
        }


def test_the_layout_of_eagle_says_it_to_each_of_its_readers(world: World, tmp_path: Path) -> None:
    model, course, _ = parts(world, tmp_path, architecture="Eagle3")
    scaling = {"rope_type": "linear", "factor": 8.0}
    rope = {**scaling, "rope_theta": 5e5}
    config = replace(model.config, rope_parameters=rope)
    weights = model.state_dict()
    write_drafter(tmp_path, config, weights, course.vocabulary_D, steps=3, verifier=VERIFIER, layout="Eagle")
    said = json.loads((tmp_path / "config.json").read_text())
    assert said["architectures"] == ["LlamaForCausalLMEagle3"]
    assert said["eagle_aux_hidden_state_layer_ids"] == [1, 2, 3]
    assert said["eagle_config"] == {"eagle_aux_hidden_state_layer_ids": [0, 1, 2], "use_aux_hidden_state": True}
    assert (said["num_aux_hidden_states"], said["norm_before_residual"]) == (3, False)
    assert (said["rope_parameters"], said["rope_theta"]) == (rope, 5e5)
    assert said["rope_scaling"] == scaling
    assert AutoConfig.for_model(**said).draft_vocab_size == len(course.vocabulary_D)


def edit(folder: Path, **changed: Any) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for name, value in changed.items():
        inner = config["transformer_layer_config"]
        (inner if name in inner else config)[name] = value
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(
    "changed",
    [
        {"hidden_size": 128},
        {"intermediate_size": 64},
        {"num_attention_heads": 4},
        {"rms_norm_eps": 1e-5},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 5.0}},
        {"norm_before_residual": False},
        {"fc_norm": False},
        {"norm_output": False},
        {"norm_before_fc": True},
        {"eagle_aux_hidden_state_layer_ids": [0, 1, 2]},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_a_drafter_of_another_shape_is_refused_by_the_field_that_differs(
    changed: dict[str, Any], world: World, tmp_path: Path
) -> None:
    model, course, teacher = parts(world, tmp_path)
    weights = model.state_dict()
    write_drafter(tmp_path / "d", model.config, weights, course.vocabulary_D, steps=3, verifier=VERIFIER)
    edit(tmp_path / "d", **changed)
    with pytest.raises(UserError, match=next(iter(changed))) as raised:
        read_drafter(tmp_path / "d", teacher.embedding_VH, model.config)
    assert raised.value.reason == reasons.WARM_START_MISMATCH


def test_tensors_in_the_layout_of_eagle_are_read_and_missing_ones_named(world: World, tmp_path: Path) -> None:
    model, course, teacher = parts(world, tmp_path)
    write_drafter(tmp_path, model.config, model.state_dict(), course.vocabulary_D, steps=3, verifier=VERIFIER)
    file = tmp_path / "model.safetensors"
    tensors = {name.replace("layers.0.", "midlayer."): tensor for name, tensor in load_file(file).items()}
    save_file(tensors, file)
    again, _ = read_drafter(tmp_path, teacher.embedding_VH, model.config)
    assert again.state_dict().keys() == model.state_dict().keys()
    del tensors["fc.weight"]
    save_file(tensors, file)
    with pytest.raises(UserError, match=r"fc\.weight"):
        read_drafter(tmp_path, teacher.embedding_VH, model.config)
