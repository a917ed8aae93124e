"""Tokenising and masking with Hugging Face datasets, as a careful user writes it: run by `benchmarks.data`.

It runs in the peer's environment and knows nothing of this project. Rows are loaded before the clock starts; what is
timed is `Dataset.map` with two processes, which writes its result to Arrow files, as it does for everybody.
"""

import json
import resource
import sys
import tempfile
import time
from bisect import bisect_left, bisect_right
from typing import Any

from datasets import Dataset, disable_caching, disable_progress_bars, load_dataset
from transformers import AutoTokenizer

END = "<|im_end|>"


def encode(batch: dict[str, list[Any]], tokenizer: Any) -> dict[str, list[Any]]:
    """Render, tokenise and mask one batch: 1 for tokens that the assistant generated."""
    texts, spans = [], []
    for messages in batch["messages"]:
        whole = tokenizer.apply_chat_template(messages, tokenize=False)
        seen = tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
        end = whole.rindex(END) + len(END)
        texts.append(whole[:end])
        spans.append((len(seen), end))
    found = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False)
    masks = []
    for offsets, (start, end) in zip(found["offset_mapping"], spans, strict=True):
        first = bisect_left(offsets, start, key=lambda place: place[0])
        last = bisect_right(offsets, end, key=lambda place: place[1])
        masks.append([0] * first + [1] * (last - first) + [0] * (len(offsets) - last))
    return {"input_ids": found["input_ids"], "loss_mask": masks}


def cpu_seconds() -> float:
    """Of this process and of those that it had: map ends its own."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(of.ru_utime + of.ru_stime for of in used)


def main() -> None:
    """Tokenise the rows of a file and say how long it took."""
    path, target, processes = sys.argv[1], sys.argv[2], int(sys.argv[3])
    disable_progress_bars()
    disable_caching()
    tokenizer = AutoTokenizer.from_pretrained(target)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        rows: Dataset = load_dataset("json", data_files=path, split="train", cache_dir=folder)
        loaded, before = time.perf_counter(), cpu_seconds()
        made = rows.map(
            encode,
            batched=True,
            num_proc=processes,
            remove_columns=rows.column_names,
            fn_kwargs={"tokenizer": tokenizer},
        )
        done, used = time.perf_counter(), cpu_seconds() - before
        column = made.with_format("numpy")
        tokens = supervised = 0
        for batch in column.iter(10_000):
            tokens += sum(len(ids) for ids in batch["input_ids"])
            supervised += sum(int(mask.sum()) for mask in batch["loss_mask"])
        report = {
            "load_seconds": round(loaded - began, 3),
            "seconds": round(done - loaded, 3),
            "cpu_seconds": round(used, 3),
            "rows": len(made),
            "tokens": tokens,
            "supervised": supervised,
        }
        print(json.dumps(report))


if __name__ == "__main__":
    main()
