"""Windows and captures: what is shown when, and that nothing is counted twice or lost."""

from hypothesis import given
from hypothesis import strategies as st

from specop.api.endpoint import CaptureStatus
from specop.controllers.readings import Captures, Shipped, Windows
from specop.domain.observed import CaptureReading


def engine(tokens: float, requests: float) -> dict[tuple[str, str], float]:
    return {("tokens", ""): tokens, ("requests", ""): requests}


def test_the_first_traffic_is_shown_at_once_and_the_next_after_the_period() -> None:
    windows = Windows(period=60)
    shown = [
        windows.add({"pod": engine(tokens, requests)}, now)
        for now, tokens, requests in [(0, 0, 0), (10, 500, 5), (20, 600, 6), (70, 700, 7), (80, 700, 7), (140, 700, 7)]
    ]
    assert shown == [False, True, False, True, False, False]


def test_a_window_counts_only_the_time_with_traffic() -> None:
    windows = Windows(period=60)
    for now, tokens, requests in [(0, 0, 0), (100, 0, 0), (110, 500, 5)]:
        windows.add({"pod": engine(tokens, requests)}, now)
    assert windows.result is not None
    assert (windows.result.window_seconds, windows.result.throughput) == (10, "50.0")


def test_requests_that_have_not_finished_are_not_shown_yet() -> None:
    windows = Windows(period=60)
    shown = [windows.add({"pod": engine(tokens, requests)}, now) for now, tokens, requests in [(0, 0, 0), (10, 9, 0)]]
    assert shown == [False, False]
    assert windows.add({"pod": engine(20, 1)}, 20)
    assert windows.result is not None
    assert (windows.result.window_seconds, windows.result.throughput) == (20, "1.0")


def test_pods_are_summed_and_a_pod_that_comes_or_goes_disturbs_nothing() -> None:
    windows = Windows(period=0)
    windows.add({"a": engine(100, 1)}, 0)
    windows.add({"a": engine(200, 2), "b": engine(9000, 90)}, 10)
    assert windows.result is not None
    assert windows.result.requests == 1
    windows.add({"b": engine(9300, 93)}, 20)
    assert windows.result.requests == 3


READ = Shipped(5, "2026-01-01T00:00:05Z")


def test_a_new_endpoint_is_told_everything_that_was_shipped() -> None:
    captures = Captures()
    captures.add({"a": READ, "b": Shipped(2, "2026-01-01T00:00:03Z")}, None, frozenset("ab"))
    assert captures.reading(None, awaited=False) == CaptureReading(7, "2026-01-01T00:00:03Z")


def test_a_watermark_alone_is_news_only_where_it_is_awaited() -> None:
    captures = Captures()
    captures.add({"a": READ}, None, frozenset("a"))
    stored = CaptureStatus(requests=5, shipped_until="2026-01-01T00:00:00Z")
    assert captures.reading(stored, awaited=False) is None
    assert captures.reading(stored, awaited=True) == CaptureReading(0, "2026-01-01T00:00:05Z")


def test_after_a_restart_of_the_operator_what_was_missed_is_made_up_for_as_far_as_can_be_known() -> None:
    captures = Captures()
    captures.add({"a": Shipped(12, None)}, CaptureStatus(requests=10), frozenset("a"))
    assert captures.reading(CaptureStatus(requests=10), awaited=False) == CaptureReading(2, None)
    captures = Captures()
    captures.add({"a": Shipped(3, None)}, CaptureStatus(requests=10), frozenset("a"))
    assert captures.reading(CaptureStatus(requests=10), awaited=False) is None


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 50), st.booleans(), st.booleans()), max_size=30))
def test_every_shipped_request_is_counted_once_whatever_fails(steps: list[tuple[str, int, bool, bool]]) -> None:
    """Pods ship, restart at zero, are read or not; status is written or not: in the end the count is exact."""
    captures, counters, shipped, stored = Captures(), dict.fromkeys("abc", 0), 0, 0
    captures.add({pod: Shipped(0, None) for pod in counters}, None, frozenset(counters))
    for pod, requests, restarted, written in steps:
        if restarted:
            # A counter that restarts between two readings and passes its old value again cannot be told apart.
            captures.add({each: Shipped(count, None) for each, count in counters.items()}, None, frozenset(counters))
            counters[pod] = 0
            captures.add({pod: Shipped(0, None)}, None, frozenset(counters))
        counters[pod] += requests
        shipped += requests
        captures.add({pod: Shipped(counters[pod], None)}, None, frozenset(counters))
        reading = captures.reading(CaptureStatus(requests=stored), awaited=False)
        if written and reading is not None:
            stored += reading.requests
    reading = captures.reading(CaptureStatus(requests=stored), awaited=False)
    assert stored + (reading.requests if reading else 0) == shipped
