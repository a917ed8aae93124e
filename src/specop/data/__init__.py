"""The dataset engine: from logs of conversations to rows of tokens that can be trusted. `python -m specop.data`.

Two passes over the sources, both streams. The first (`decide`) keeps of each row its key, hashes and time, in DuckDB,
and decides what becomes of it; the second (`build`) sends the payloads of what is kept through the target's own
template and tokenizer into Parquet. Nothing is ever sorted, joined or held by payload, so memory does not grow with
the input.
"""
