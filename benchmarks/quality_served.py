"""What a real engine accepts of a drafter on the requests of `make bench-quality`, in a process of its own.

    python -m benchmarks.quality_served TARGET DRAFTER TEST.parquet TOKENS

The engine answers the prompts of the test part anew, held by the same grammars, and its own counters say how many of
the drafts it accepted: accepted tokens per draft, as JSON on the last line.
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
    counters = {metric.name: metric.value for metric in engine.get_metrics() if hasattr(metric, "value")}
    drafts = counters["vllm:spec_decode_num_drafts"]
    accepted = counters["vllm:spec_decode_num_accepted_tokens"]
    print(json.dumps({"drafts": drafts, "accepted_per_draft": accepted / drafts}))


if __name__ == "__main__":
    main()
