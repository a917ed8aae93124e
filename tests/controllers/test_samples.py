"""Counters: parsing, differences, quantiles, figures."""

from collections.abc import Mapping
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specop.api.endpoint import Measured
from specop.controllers.samples import difference, measure, parse, quantile, total

PAGE = """\
# HELP vllm:spec_decode_num_drafts_total Number of spec decoding drafts.
# TYPE vllm:spec_decode_num_drafts_total counter
vllm:spec_decode_num_drafts_total{engine="0",model_name="base"} 1053.0
vllm:spec_decode_num_drafts_created{engine="0",model_name="base"} 1.7e+09
vllm:spec_decode_num_draft_tokens_total{engine="0",model_name="base"} 3159.0
vllm:spec_decode_num_accepted_tokens_total{engine="0",model_name="base"} 812.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="base",position="0"} 361.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="base",position="1"} 250.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="base",position="2"} 201.0
vllm:inter_token_latency_seconds_bucket{engine="0",le="+Inf",model_name="base"} 1160.0
vllm:inter_token_latency_seconds_count{engine="0",model_name="base"} 1160.0
vllm:generation_tokens_total{engine="0",model_name="base"} 1980.0
vllm:prompt_tokens_total{engine="0",model_name="base"} 197.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.1",model_name="base"} 8.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="+Inf",model_name="base"} 8.0
vllm:e2e_request_latency_seconds_bucket{engine="0",le="1.0",model_name="base"} 4.0
vllm:e2e_request_latency_seconds_bucket{engine="0",le="5.0",model_name="base"} 8.0
vllm:e2e_request_latency_seconds_bucket{engine="0",le="+Inf",model_name="base"} 8.0
vllm:request_time_per_output_token_seconds_sum{engine="0",model_name="base"} 0.16
vllm:request_time_per_output_token_seconds_count{engine="0",model_name="base"} 8.0
vllm:num_requests_running{engine="0",model_name="base"} 3.0
vllm:request_success_total{engine="0",finished_reason="stop",model_name="base"} 6.0
vllm:request_success_total{engine="0",finished_reason="length",model_name="base"} 2.0
"""

COUNTERS = st.dictionaries(
    st.tuples(st.sampled_from(["drafts", "accepted", "tokens", "requests"]), st.just("")),
    st.integers(0, 10**9).map(float),
)


def test_a_real_page_is_read() -> None:
    assert parse(PAGE) == {
        ("drafts", ""): 1053,
        ("draft_tokens", ""): 3159,
        ("accepted", ""): 812,
        ("accepted_at", "0"): 361,
        ("accepted_at", "1"): 250,
        ("accepted_at", "2"): 201,
        ("steps", ""): 1160,
        ("tokens", ""): 1980,
        ("ttft", "0.1"): 8,
        ("ttft", "+Inf"): 8,
        ("e2e", "1.0"): 4,
        ("e2e", "5.0"): 8,
        ("e2e", "+Inf"): 8,
        ("tpot_sum", ""): 0.16,
        ("tpot_count", ""): 8,
        ("requests", ""): 8,
    }


def test_figures_of_a_real_page() -> None:
    assert measure(parse(PAGE), 20.0) == Measured(
        window_seconds=20,
        requests=8,
        acceptance_rate="0.257",
        acceptance_length="1.70",
        per_position=["0.311", "0.216", "0.173"],
        tokens_per_second="50.0",
        throughput="99.0",
        ttft_p50_ms=50,
        e2e_p50_ms=1000,
        e2e_p90_ms=4200,
    )


def test_an_engine_without_a_drafter_has_no_acceptance() -> None:
    measured = measure({("tokens", ""): 100.0, ("requests", ""): 2.0}, 10.0)
    assert measured == Measured(window_seconds=10, requests=2, throughput="10.0")


@pytest.mark.parametrize("page", ["", "# nothing\n", "<html>not found</html>", "other_metric 1\n"])
def test_a_page_without_our_series_is_empty(page: str) -> None:
    assert parse(page) == {}


@pytest.mark.parametrize("line", ["vllm:generation_tokens_total{ nonsense", 'vllm:generation_tokens_total{a="b"} many'])
def test_nonsense_is_an_error_that_the_reader_expects(line: str) -> None:
    with pytest.raises((ValueError, IndexError)):
        parse(line + "\n")


@given(COUNTERS, st.dictionaries(st.sampled_from(["drafts", "accepted", "tokens", "requests"]), st.integers(0, 10**6)))
def test_a_difference_is_what_was_added(before: Mapping[tuple[str, str], float], added: Mapping[str, int]) -> None:
    after = dict(before)
    for name, count in added.items():
        after[name, ""] = after.get((name, ""), 0.0) + count
    assert difference(before, after) == {series: added.get(series[0], 0) for series in after}


@given(COUNTERS, COUNTERS)
def test_a_difference_is_never_negative_and_never_more_than_is_there(
    before: Mapping[tuple[str, str], float], after: Mapping[tuple[str, str], float]
) -> None:
    counted = difference(before, after)
    assert all(0 <= counted[series] <= after[series] for series in after)


@given(st.lists(COUNTERS, max_size=4))
def test_a_total_is_the_sum_of_its_parts(parts: list[Mapping[tuple[str, str], float]]) -> None:
    summed = total(parts)
    assert sum(summed.values()) == sum(sum(part.values()) for part in parts)


@given(
    st.lists(st.floats(0, 100), min_size=1, max_size=50),
    st.sets(st.sampled_from([0.1, 0.5, 1.0, 5.0, 10.0, 50.0]), min_size=1),
    st.floats(0.01, 1.0),
)
def test_a_quantile_lies_in_the_bucket_of_the_true_one(values: list[float], bounds: set[float], share: float) -> None:
    edges = [*sorted(bounds), inf]
    buckets = {edge: float(sum(value <= edge for value in values)) for edge in edges}
    found = quantile(buckets, share)
    true = sorted(values)[max(0, -int(-share * len(values) // 1) - 1)]
    upper = next(edge for edge in edges if true <= edge)
    lower = max([0.0, *(edge for edge in edges if edge < true)])
    assert found is not None
    assert lower - 1e-9 <= found <= (max(bounds) if upper == inf else upper) + 1e-9


@pytest.mark.parametrize("buckets", [{}, {1.0: 0.0, inf: 0.0}])
def test_without_observations_there_is_no_quantile(buckets: dict[float, float]) -> None:
    assert quantile(buckets, 0.5) is None
