"""Trainer and engine see the same of a target: one family by vLLM's own class, one by its transformers backend.

All families: `make bench-families`.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from specop.api.families import families, unproven
from tests.trainer.families import FAMILIES, agree


def test_the_list_of_proven_families_is_what_can_be_checked() -> None:
    assert [family.name for family in families()] == list(FAMILIES)
    for family, (name, _) in zip(families(), FAMILIES.values(), strict=True):
        assert f"{name}ForCausalLM" in family.architectures
        assert unproven(family.architectures[0]) is None
    assert unproven("") is None
    assert "targets of OtherForCausalLM are not proven" in str(unproven("OtherForCausalLM"))


@pytest.mark.engine
@pytest.mark.timeout(300)
def test_trainer_and_engine_agree_on_a_target(tmp_path: Path) -> None:
    names, out = ["Llama", "Gemma-3"], tmp_path / "families.json"
    done = subprocess.run(
        [sys.executable, "-m", "tests.trainer.families", str(out), *names], capture_output=True, text=True, check=False
    )
    found = json.loads(out.read_text())
    assert list(found) == names, done.stderr[-2000:]
    assert {name: agree(result) for name, result in found.items()} == dict.fromkeys(names, True), found
