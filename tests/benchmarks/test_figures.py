"""From timelines to figures, by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.serving.figures import Cost, Timeline, measured, percentile

COST = Cost(cpu_seconds=1.0, peak_bytes=2, largest_peak_bytes=1)


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, 1.0), (0.25, 1.0), (0.26, 2.0), (0.5, 2.0), (0.75, 3.0), (0.99, 4.0), (1.0, 4.0)]
)
def test_percentiles_of_four_values(share: float, expected: float):
    assert percentile([3.0, 1.0, 4.0, 2.0], share) == expected


def test_p99_of_a_hundred_leaves_one_out():
    assert percentile([float(value) for value in range(1, 101)], 0.99) == 99.0


def test_nothing_has_no_percentile():
    assert percentile([], 0.5) is None


@given(st.lists(st.floats(allow_nan=False), min_size=1), st.floats(0, 1))
def test_a_percentile_is_the_smallest_value_with_its_share_below(values: list[float], share: float):
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-9
    assert all(sum(value <= lower for value in values) < share * len(values) for lower in values if lower < found)


def test_what_falls_into_the_window_counts():
    early = Timeline(submitted=0.0, num_prompt_tokens=5, arrivals=[(1.0, 1), (3.0, 2), (4.0, 1), (11.0, 1)])
    late = Timeline(submitted=4.0, num_prompt_tokens=7, num_cached_tokens=3, arrivals=[(4.5, 1), (6.5, 1)])
    silent = Timeline(submitted=5.0, num_prompt_tokens=9)
    after = Timeline(submitted=10.5, num_prompt_tokens=9, arrivals=[(10.75, 1)])
    run = measured([early, late, silent, after], began=2.0, ended=10.0, cost=COST)
    assert run.num_tokens == 2 + 1 + 1 + 1
    assert run.tokens_per_second == 5 / 8
    assert run.first_token_seconds == [0.5]  # the early one was submitted before
    assert run.gaps == [1.0, 2.0]  # 1 to 3 began before, 4 to 11 ended after
    assert (run.num_prompt_tokens, run.num_cached_tokens) == ([7], [3])
    assert run.cost is COST
