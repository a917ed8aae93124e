"""Reads an exported drafter in a process that knows nothing but files, and stores its logits. Run by test_export.py."""

import sys
from pathlib import Path

import torch

from specop.trainer.export import read_drafter
from specop.trainer.teacher import Teacher

STEPS = 3


def main(target: str, drafter: str, pack: str, result: str) -> None:
    teacher = Teacher(Path(target), torch.float32, torch.device("cpu"))
    wanted = teacher.drafter_config("Eagle31", 128)
    model, vocabulary_D = read_drafter(Path(drafter), teacher.embedding_VH, wanted)
    given = torch.load(pack, weights_only=False)
    with torch.no_grad():
        logits = [model.lm_head(h) for h in model.unroll(given, STEPS)]
    torch.save((vocabulary_D, logits), result)


if __name__ == "__main__":
    main(*sys.argv[1:])
