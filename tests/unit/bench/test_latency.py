"""The histogram beside sorted lists."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsbroker.bench.latency import Histogram


def exact(values: list[int], percent: float) -> int:
    """Returns the smallest value that `percent` of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(-(-len(values) * int(percent * 10) // 1000) - 1, 0)]


@given(st.lists(st.integers(0, 1 << 50), min_size=1), st.sampled_from([1.0, 50.0, 90.0, 99.0, 99.9, 100.0]))
def test_percentiles_are_those_of_the_sorted_list_to_1_6_percent(values: list[int], percent: float) -> None:
    histogram = Histogram()
    for value in values:
        histogram.add_duration(value)
    wanted = exact(values, percent)
    assert histogram.percentile_ns(percent) == pytest.approx(wanted, rel=0.016, abs=1)


def test_short_durations_are_exact() -> None:
    histogram = Histogram()
    for value in range(100):
        histogram.add_duration(value)
    assert [histogram.percentile_ns(percent) for percent in (1, 50, 100)] == [0, 49, 99]


def test_a_clock_that_went_back_counts_as_no_time() -> None:
    histogram = Histogram()
    histogram.add_duration(-5)
    assert (histogram.total, histogram.percentile_ns(50)) == (1, 0)


def test_a_duration_may_be_counted_many_times_at_once() -> None:
    histogram = Histogram()
    histogram.add_duration(1000, 99)
    histogram.add_duration(1 << 40)
    assert histogram.total == 100
    assert histogram.percentile_ns(99) == pytest.approx(1000, rel=0.016)
    assert histogram.percentile_ns(100) == pytest.approx(1 << 40, rel=0.016)


def test_no_percentile_is_above_the_highest() -> None:
    histogram = Histogram()
    histogram.add_duration(1_000_000_007)
    assert histogram.percentile_ns(50) <= 1_000_000_007
    assert histogram.summary_us()["max"] == 1_000_000.0


def test_nothing_counted_is_all_zeros() -> None:
    assert Histogram().summary_us() == {"p50": 0, "p90": 0, "p99": 0, "p99.9": 0, "max": 0}
