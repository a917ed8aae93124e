"""The tokenizer alone, as the bound of everything around it: run by `benchmarks.data`.

Each of some processes holds its share of the rendered texts in memory and calls `encode_batch` until they are done;
the time is that of the slowest, from a common start.
"""

import json
import multiprocessing
import os
import sys
import time
from pathlib import Path

from tokenizers import Tokenizer

BATCH = 128


def share(texts: list[str], target: str, gate: "multiprocessing.synchronize.Barrier") -> tuple[float, float]:
    """Encode some texts after the gate has opened; seconds, and those of the processor."""
    tokenizer = Tokenizer.from_file(f"{target}/tokenizer.json")
    gate.wait()
    began, before = time.perf_counter(), time.process_time()
    for start in range(0, len(texts), BATCH):
        tokenizer.encode_batch(texts[start : start + BATCH], add_special_tokens=False)
    return time.perf_counter() - began, time.process_time() - before


def main() -> None:
    """Encode the texts of a file, one JSON string a line, and say how long it took."""
    path, target, processes = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    texts = [json.loads(line) for line in path.read_bytes().splitlines()]
    context = multiprocessing.get_context("fork")
    gate, times = context.Barrier(processes), context.SimpleQueue()

    def run(part: list[str]) -> None:
        times.put(share(part, target, gate))

    workers = [context.Process(target=run, args=(texts[index::processes],)) for index in range(processes)]
    for worker in workers:
        worker.start()
    seconds, used = zip(*[times.get() for _ in workers], strict=True)
    for worker in workers:
        worker.join()
    print(json.dumps({"seconds": round(max(seconds), 3), "cpu_seconds": round(sum(used), 3), "rows": len(texts)}))


if __name__ == "__main__":
    main()
