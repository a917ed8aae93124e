import pytest

from demo.figures import Answer, Speculation, identical, percentile, speculation, speedup, summary

BASE = [Answer("a", 50, 0.1, 2.0), Answer("b", 100, 0.3, 4.0)]
DRAFTED = [Answer("a", 50, 0.1, 1.0), Answer("c", 100, 0.2, 1.5)]


def test_summary_of_one_stream() -> None:
    assert summary(BASE) == {"tokens_per_s": 25.0, "ttft_p50": 0.1, "e2e_p50": 2.0, "e2e_p90": 4.0}


def test_speedup_is_a_ratio_of_totals() -> None:
    assert speedup(BASE, DRAFTED) == 2.4


def test_identical_counts_equal_texts() -> None:
    assert identical(BASE, DRAFTED) == 1


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [([5.0], 50, 5.0), ([5.0], 90, 5.0), ([4, 3, 2, 1], 50, 2), (list(range(1, 11)), 90, 9), ([1, 2, 3], 50, 2)],
)
def test_percentiles_are_values_that_were_seen(values: list[float], percent: int, expected: float) -> None:
    assert percentile(values, percent) == expected


PAGE = {
    "vllm:inter_token_latency_seconds_count": 100.0,
    "vllm:spec_decode_num_draft_tokens_total": 300.0,
    "vllm:spec_decode_num_accepted_tokens_total": 180.0,
    "vllm:spec_decode_num_accepted_tokens_per_pos_total/0": 80.0,
    "vllm:spec_decode_num_accepted_tokens_per_pos_total/1": 60.0,
    "vllm:spec_decode_num_accepted_tokens_per_pos_total/2": 40.0,
}


def test_speculation_from_a_metrics_page() -> None:
    found = speculation(PAGE)
    assert found == Speculation(100, 300, 180, (80, 60, 40))
    assert found.figures() == {"acceptance_rate": 0.6, "acceptance_length": 2.8, "per_position": [0.8, 0.6, 0.4]}


def test_speculation_between_two_readings() -> None:
    before = Speculation(10, 30, 3, (2, 1, 0))
    assert Speculation(100, 300, 180, (80, 60, 40)).since(before) == Speculation(90, 270, 177, (78, 59, 40))


def test_counters_of_two_engines_make_no_difference() -> None:
    with pytest.raises(ValueError, match="two engines"):
        Speculation(10, 30, 3, (2, 1, 0)).since(Speculation(100, 300, 180, (80, 60, 40)))
