"""Limits of one caller, by a clock that the test turns."""

from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rhapsode_server.errors import LimitReached
from rhapsode_server.rpc.quota import Quota
from rhapsode_server.tokens import Rate


@dataclass
class Clock:
    nanoseconds: int = 10**15

    def __call__(self) -> int:
        return self.nanoseconds

    def pass_seconds(self, seconds: float) -> None:
        self.nanoseconds += round(seconds * 1e9)


def is_admitted(quota: Quota) -> bool:
    try:
        with quota.call():
            return True
    except LimitReached:
        return False


def admitted(quota: Quota, attempts: int) -> int:
    return sum(is_admitted(quota) for _ in range(attempts))


def test_without_limits_there_are_none() -> None:
    quota = Quota()
    with ExitStack() as open_calls:
        for _ in range(1000):
            open_calls.enter_context(quota.call())
    quota.charge(10**9)
    assert is_admitted(quota)
    assert quota.width(64) == 64


def test_a_span_of_calls_at_once_and_then_as_they_are_paid() -> None:
    clock = Clock()
    quota = Quota(rate=Rate(calls=10, seconds=1), clock=clock)
    assert admitted(quota, 15) == 10
    clock.pass_seconds(0.1)
    assert admitted(quota, 15) == 1
    clock.pass_seconds(3600)
    assert admitted(quota, 15) == 10


def test_it_says_when_the_next_call_may_come() -> None:
    clock = Clock()
    quota = Quota(rate=Rate(calls=2, seconds=60), clock=clock)
    assert admitted(quota, 3) == 2
    with pytest.raises(LimitReached, match="this token allows 2 calls in 60 s") as refused, quota.call():
        pass
    assert refused.value.retry_after == pytest.approx(30)
    clock.pass_seconds(refused.value.retry_after - 1e-9)
    assert not is_admitted(quota)
    clock.pass_seconds(1e-9)
    assert is_admitted(quota)


def test_a_refused_call_counts_for_nothing() -> None:
    clock = Clock()
    quota = Quota(rate=Rate(calls=1, seconds=1), concurrency=1, clock=clock)
    with quota.call():
        assert admitted(quota, 100) == 0
    clock.pass_seconds(1)
    assert is_admitted(quota)


def test_what_is_charged_later_holds_up_the_next() -> None:
    clock = Clock()
    quota = Quota(rate=Rate(calls=10, seconds=1), clock=clock)
    with quota.call():
        quota.charge(99)
    assert not is_admitted(quota)
    clock.pass_seconds(9)
    assert not is_admitted(quota)
    clock.pass_seconds(0.1)
    assert is_admitted(quota)


def test_so_many_at_the_same_time_and_places_come_back_however_calls_end() -> None:
    quota = Quota(concurrency=2)
    with quota.call(), quota.call():
        with pytest.raises(LimitReached, match="2 calls of this token are open, as many as it may have") as refused:
            quota.call().__enter__()
        assert refused.value.retry_after > 0
    with pytest.raises(ZeroDivisionError), quota.call():
        raise ZeroDivisionError
    with quota.call():
        assert is_admitted(quota)
    assert quota.width(64) == 2


def test_limits_may_change_under_open_calls() -> None:
    quota = Quota(concurrency=2)
    with quota.call(), quota.call():
        quota.limit(None, 3)
        with quota.call():
            quota.limit(None, 1)
        assert not is_admitted(quota)
    assert is_admitted(quota)


def test_another_rate_begins_anew_and_the_same_goes_on() -> None:
    rate, clock = Rate(calls=2, seconds=60), Clock()
    quota = Quota(rate=rate, clock=clock)
    assert admitted(quota, 3) == 2
    quota.limit(Rate(calls=2, seconds=60), None)
    assert admitted(quota, 3) == 0
    quota.limit(Rate(calls=3, seconds=60), None)
    assert admitted(quota, 4) == 3
    quota.limit(None, None)
    assert admitted(quota, 9) == 9


@given(
    calls=st.integers(1, 1000),
    seconds=st.sampled_from([1, 60, 3600]),
    waits=st.lists(st.floats(0, 5000), max_size=200),
)
def test_never_more_than_one_span_ahead(calls: int, seconds: int, waits: list[float]) -> None:
    clock = Clock()
    quota, began, num_admitted = Quota(rate=Rate(calls=calls, seconds=seconds), clock=clock), clock(), 0
    for wait in waits:
        clock.pass_seconds(wait)
        num_admitted += is_admitted(quota)
        share = seconds * 10**9 // calls
        assert num_admitted * share <= seconds * 10**9 + clock() - began
