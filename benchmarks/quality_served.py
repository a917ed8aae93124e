"""What a real engine accepts of a drafter on the requests of `make bench-quality`, in a process of its own.

    python -m benchmarks.quality_served TARGET DRAFTER TEST.parquet TOKENS

The engine answers the prompts of the test part anew, held by the same grammars, and its own counters say how many of
the drafted tokens it accepted per step of the target, as JSON on the last line. `specop.controllers.samples` says why
its counter of drafts is no measure.
"""

import json
import os
import sys
from typing import Any

import pyarrow.parquet as pq


def main() -> None:
    """Answer all prompts, one stream after another as a single user would."""
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    from vllm import LLM, SamplingParams  # noqa: PLC0415 - after the environment is set
    from vllm.sampling_params import StructuredOutputsParams  # noqa: PLC0415

    target, drafter, test, tokens = sys.argv[1:]
    engine = LLM(
        model=target,
        enforce_eager=True,
        max_model_len=2048,
        max_num_seqs=8,
        gpu_memory_utilization=0.5,
        disable_log_stats=False,
        speculative_config={"method": "eagle3", "model": drafter, "num_speculative_tokens": int(tokens)},
    )
    prompts: list[Any] = []
    sampling = []
    for row in pq.read_table(test).to_pylist():
        (span,) = row["spans"]
        grammar = json.loads(row.get("grammar") or "{}").get("jsonSchema")
        prompts.append({"prompt_token_ids": row["input_ids"][: span["start"]]})
        sampling.append(
            SamplingParams(
                temperature=row["temperature"],
                max_tokens=span["end"] - span["start"],
                seed=0,
                ignore_eos=grammar is None,
                structured_outputs=StructuredOutputsParams(json=grammar) if grammar else None,
            )
        )
    engine.generate(prompts, sampling, use_tqdm=False)
    metrics: dict[str, Any] = {metric.name: metric for metric in engine.get_metrics()}
    steps = metrics["vllm:inter_token_latency_seconds"].count
    accepted = metrics["vllm:spec_decode_num_accepted_tokens"].value
    drafts = metrics["vllm:spec_decode_num_drafts"].value
    print(json.dumps({"steps": steps, "accepted_per_step": accepted / steps, "counted_drafts": drafts}))


if __name__ == "__main__":
    main()
