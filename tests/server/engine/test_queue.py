"""Waiting requests: their order, and that none waits forever."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rhapsode_server.engine.queue import RequestQueue, Waiting
from support.checking_runner import Clock, make_engine, request, step


def queue_of(*arrivals: tuple[float, int]) -> RequestQueue:
    """Requests 0, 1, ... by their arrival and priority."""
    queue = RequestQueue()
    for request_id, (arrived_at, priority) in enumerate(arrivals):
        queue.push(Waiting(request(request_id, [1], 1, priority=priority)), arrived_at)
    return queue


def order(queue: RequestQueue) -> list[int]:
    return [queue.pop().request.request_id for _ in range(len(queue))]


def test_equals_go_in_order_of_arrival() -> None:
    assert order(queue_of((5.0, 3), (5.0, 3), (6.0, 3), (6.0, 3))) == [0, 1, 2, 3]


def test_the_higher_priority_goes_first() -> None:
    assert order(queue_of((5.0, 0), (5.0, -100), (5.0, 100), (5.0, 1))) == [2, 3, 0, 1]


@pytest.mark.parametrize(("arrived_at", "expected"), [(14.9, [1, 0]), (15.1, [0, 1])])
def test_a_second_of_waiting_is_worth_a_point(arrived_at: float, expected: list[int]) -> None:
    assert order(queue_of((5.0, 0), (arrived_at, 10))) == expected


arrivals = st.lists(st.tuples(st.integers(0, 40), st.integers(-100, 100)), max_size=40)


@given(arrivals=arrivals, now=st.integers(40, 300))
def test_the_order_is_that_of_priority_and_age_at_any_time(arrivals: list[tuple[int, int]], now: int) -> None:
    arrivals = sorted(arrivals, key=lambda arrival: arrival[0])

    def points(request_id: int) -> int:
        arrived_at, priority = arrivals[request_id]
        return priority + now - arrived_at

    expected = sorted(range(len(arrivals)), key=lambda request_id: (-points(request_id), request_id))
    assert order(queue_of(*arrivals)) == expected


@given(arrivals=arrivals, data=st.data())
def test_removing_takes_out_one_and_leaves_the_order(arrivals: list[tuple[int, int]], data: st.DataObject) -> None:
    kept, queue = order(queue_of(*arrivals)), queue_of(*arrivals)
    for request_id in data.draw(st.lists(st.integers(0, 40), max_size=20)):
        assert queue.remove(request_id) == (request_id in kept)
        kept = [other for other in kept if other != request_id]
    assert [waiting.request.request_id for waiting in queue] == kept
    assert order(queue) == kept
    assert not any(queue.remove(request_id) for request_id in range(41))


@settings(deadline=None)
@given(priority=st.integers(-100, 100), others=st.lists(st.integers(-100, 100), min_size=1, max_size=5))
def test_none_starves_however_many_of_high_priority_keep_coming(priority: int, others: list[int]) -> None:
    """One place, and in every second as many arrive as end: a request overtakes for at most so long as its lead."""
    clock = Clock()
    engine = make_engine(max_sequences=1, clock=clock)
    engine.submit(request(0, [1], 1))
    engine.submit(request(1, [1], 1, priority=priority))
    started, second = list[int](), 0
    while 1 not in started:
        engine.submit(request(2 + second, [1], 1, priority=others[second % len(others)]))
        started += [started.request_id for started in step(engine, {}).started]
        assert second <= max(0, max(others) - priority) + 1
        second, clock.now = second + 1, clock.now + 1
