"""What a worker takes, and that it knows how long a request will wait: with a simulated engine."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from statistics import median, quantiles
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rhapsode_server.engine.batch import Batch, BatchResult
from rhapsode_server.engine.block_pool import BlockPool
from rhapsode_server.engine.engine import Engine, EngineStats
from rhapsode_server.engine.request import Constraint, EngineRequest
from rhapsode_server.engine.scheduler import Scheduler
from rhapsode_server.errors import DeadlineUnreachable, Overloaded
from rhapsode_server.workers.admission import Admission
from support.checking_runner import Clock

END = 1


def request(request_id: int, num_prompt_tokens: int, max_new_tokens: int, **fields: Any) -> EngineRequest:
    return EngineRequest(
        request_id=request_id,
        prompt_ids=(2,) * num_prompt_tokens,
        max_new_tokens=max_new_tokens,
        stop_token_ids=frozenset({END}),
        **fields,
    )


def make_admission(clock: Clock | None = None, **limits: int) -> Admission:
    defaults = {"max_sequences": 2, "max_queued_requests": 3, "max_queued_tokens": 100}
    return Admission(**defaults | limits, clock=clock or Clock())


def stats(*, waiting: int, batch_tokens: int) -> EngineStats:
    return EngineStats(
        waiting=waiting, running=2, blocks_used=0, blocks_total=9, batch_rows=2, batch_tokens=batch_tokens
    )


def fill(admission: Admission, clock: Clock) -> None:
    """Both places are taken, another request waits, and the engine has computed 20 tokens a second for 4 s."""
    for request_id in range(3):
        admission.admit(request(request_id, 10, 10))
    admission.begin(0, 0)
    admission.begin(1, 0)
    for _ in range(5):
        admission.note_step(stats(waiting=1, batch_tokens=20))
        clock.now += 1
    clock.now -= 1


def test_a_free_place_takes_whatever_comes() -> None:
    admission = make_admission(max_queued_requests=0, max_queued_tokens=0)
    admission.admit(request(0, 500, 500))
    admission.admit(request(1, 500, 500))
    with pytest.raises(Overloaded) as overloaded:
        admission.admit(request(2, 1, 1))
    assert overloaded.value.retry_after == 1.0, "nothing was measured"
    admission.end(0, 0)
    admission.admit(request(3, 500, 500))


def test_the_queue_is_bounded_by_requests() -> None:
    admission = make_admission()
    for request_id in range(5):
        admission.admit(request(request_id, 1, 1))
    with pytest.raises(Overloaded):
        admission.admit(request(5, 1, 1))
    admission.begin(0, 0)
    with pytest.raises(Overloaded):
        admission.admit(request(5, 1, 1))
    admission.end(0, 1)
    admission.admit(request(5, 1, 1))


def test_the_queue_is_bounded_by_tokens() -> None:
    admission = make_admission(max_queued_requests=99)
    for request_id in range(3):
        admission.admit(request(request_id, 30, 30))
    with pytest.raises(Overloaded):
        admission.admit(request(3, 30, 11))
    admission.admit(request(3, 30, 10))
    admission.end(2, 0)
    admission.admit(request(4, 30, 30))


def test_it_knows_no_wait_before_it_has_measured_one() -> None:
    admission = make_admission()
    for request_id in range(4):
        admission.admit(request(request_id, 1, 1))
    assert admission.predicted_wait(20) == 0.0


def test_the_wait_is_that_for_what_goes_before_and_for_a_place() -> None:
    clock = Clock()
    admission = make_admission(clock)
    fill(admission, clock)
    assert admission.predicted_wait(20) == pytest.approx((20 + 20) / 20)
    assert admission.predicted_wait(40) == pytest.approx((20 + 40) / 20)
    assert admission.predicted_wait(20, priority=5) == pytest.approx(20 / 20), "it goes before the one that waits"
    assert admission.predicted_wait(20, priority=-5) == pytest.approx((20 + 20) / 20)


def test_requests_that_end_early_shorten_the_wait() -> None:
    clock = Clock()
    admission = make_admission(clock)
    fill(admission, clock)
    admission.end(0, num_generated=0)
    admission.begin(2, 0)
    for request_id in (3, 4):
        admission.admit(request(request_id, 10, 10))
    assert admission.predicted_wait(20) == pytest.approx(60 / 20 / 2), "half of what was asked for was needed"


def test_steps_with_room_for_more_tell_nothing_of_the_speed() -> None:
    clock = Clock()
    admission = make_admission(clock)
    fill(admission, clock)
    admission.note_step(stats(waiting=0, batch_tokens=20))
    before = admission.predicted_wait(20)
    for _ in range(100):
        clock.now += 1
        admission.note_step(stats(waiting=0, batch_tokens=1))
    assert admission.predicted_wait(20) == pytest.approx(before, rel=0.01)


def test_a_request_that_would_begin_after_its_deadline_is_refused() -> None:
    clock = Clock()
    admission = make_admission(clock)
    fill(admission, clock)
    with pytest.raises(DeadlineUnreachable, match=r"it would begin in 2\.0 s, after its deadline") as overloaded:
        admission.admit(request(3, 10, 10, deadline=clock.now + 1.9))
    assert overloaded.value.retry_after == pytest.approx(2.0)
    admission.admit(request(3, 10, 10, deadline=clock.now + 2.1))
    admission.end(3, 0)
    admission.admit(request(3, 10, 10, deadline=clock.now + 1.9, priority=5))


def test_what_is_being_prepared_keeps_only_its_like_waiting() -> None:
    clock = Clock()
    admission = make_admission(clock)
    constrained = {"constraint": Constraint("regex", "a")}
    fill(admission, clock)
    for request_id in (3, 4):
        admission.admit(request(request_id, 10, 10, **constrained))
    assert admission.predicted_wait(20) == pytest.approx((20 + 20) / 20), "those that are prepared are not ahead"
    with pytest.raises(Overloaded):
        admission.admit(request(5, 10, 10, **constrained))
    admission.admit(request(5, 10, 10, deadline=clock.now + 2.1))
    admission.end(5, 0)
    admission.note_prepared(3)
    assert admission.predicted_wait(20) == pytest.approx((20 + 20 + 20) / 20)
    admission.note_prepared(4)
    with pytest.raises(Overloaded):
        admission.admit(request(6, 10, 10))
    admission.begin(4, 0)
    admission.end(4, 10)
    admission.admit(request(6, 10, 10))


def test_what_is_being_prepared_takes_no_place() -> None:
    admission = make_admission(max_queued_requests=0)
    constrained = {"constraint": Constraint("regex", "a")}
    for request_id in range(2):
        admission.admit(request(request_id, 1, 1, **constrained))
    with pytest.raises(Overloaded):
        admission.admit(request(2, 1, 1, **constrained))
    admission.admit(request(2, 1, 1))
    admission.end(0, 0)
    admission.end(1, 0)
    admission.admit(request(3, 1, 1, **constrained))


@given(st.lists(st.tuples(st.sampled_from(["admit", "constrain", "prepared", "begin", "end"]), st.integers(1, 6))))
def test_the_books_are_those_of_the_requests_that_have_not_ended(events: list[tuple[str, int]]) -> None:
    """In any order, and for requests that are not there."""
    admission = make_admission(max_sequences=9)
    place: dict[int, str] = {}
    for what, request_id in events:
        match what, place.get(request_id):
            case (("admit" | "constrain"), None):
                constraint = Constraint("regex", "a") if what == "constrain" else None
                admission.admit(request(request_id, request_id, 10, constraint=constraint))
                place[request_id] = "preparing" if constraint else "waiting"
            case "prepared", at:
                admission.note_prepared(request_id)
                place |= {request_id: "waiting"} if at == "preparing" else {}
            case "begin", at:
                admission.begin(request_id, 0)
                place |= {request_id: "running"} if at == "waiting" else {}
            case "end", _:
                admission.end(request_id, 0)
                place.pop(request_id, None)
        assert admission.num_tokens == sum(10 + request_id for request_id in place)
        assert admission.num_running == list(place.values()).count("running")
        assert admission.num_waiting == len(place) - admission.num_running
    admission.clear()
    assert (admission.num_tokens, admission.num_waiting, admission.num_running) == (0, 0, 0)


def test_an_engine_that_is_gone_leaves_no_queue() -> None:
    clock = Clock()
    admission = make_admission(clock)
    for request_id in range(5):
        admission.admit(request(request_id, 1, 1))
    admission.clear()
    admission.admit(request(5, 1, 1))


@dataclass
class Simulation:
    """The real scheduler, a runner whose steps take 2 ms and 0.1 ms for each token, and an admission before it."""

    ends_early: float = 0.0
    num_blocks: int = 10_000
    max_queued_requests: int = 10_000
    clock: Clock = field(default_factory=Clock)
    random: Random = field(default_factory=lambda: Random(1))
    waits: list[tuple[float, float]] = field(default_factory=list)
    num_refused: int = 0
    _submitted: dict[int, tuple[float, float]] = field(default_factory=dict)
    _num_generated: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        pool = BlockPool(num_blocks=self.num_blocks, block_size=16)
        self.engine = Engine(Scheduler(pool, max_sequences=8, max_batch_tokens=64, clock=self.clock), self)
        self.admission = make_admission(
            self.clock, max_sequences=8, max_queued_requests=self.max_queued_requests, max_queued_tokens=10**9
        )

    def execute(self, batch: Batch) -> "Simulation":
        self.clock.now += 0.002 + 0.0001 * batch.num_tokens
        self._num_draws = sum(row.draw is not None for row in batch.rows)
        return self

    def read(self) -> BatchResult:
        return BatchResult(token_ids=[END if self.random.random() < self.ends_early else 2] * self._num_draws)

    def submit(self, asked: EngineRequest) -> bool:
        predicted = self.admission.predicted_wait(asked.num_reserved_tokens, asked.priority)
        try:
            self.admission.admit(asked)
        except Overloaded:
            self.num_refused += 1
            return False
        self._submitted[asked.request_id] = predicted, self.clock.now
        self._num_generated[asked.request_id] = 0
        self.engine.submit(asked)
        return True

    def step(self) -> list[int]:
        """The requests that ended."""
        before, result = self.clock.now, self.engine.step()
        for started in result.started:
            predicted, submitted_at = self._submitted.pop(started.request_id)
            self.waits.append((predicted, before - submitted_at))
            self.admission.begin(started.request_id, 0)
        for event in result.events:
            self._num_generated[event.request_id] += event.token_id is not None
            if event.finish_reason:
                self.admission.end(event.request_id, self._num_generated.pop(event.request_id))
        self.admission.note_step(result.stats)
        return [event.request_id for event in result.events if event.finish_reason]

    def ratios(self) -> list[float]:
        """Predicted over real waits once the load is steady."""
        steady = self.waits[len(self.waits) // 4 :]
        return [predicted / actual for predicted, actual in steady]


def many_callers(simulation: Simulation, sizes: Callable[[Random], tuple[int, int]], callers: int) -> None:
    """So many callers, each with a new request as soon as the last has ended."""
    numbers: Iterator[int] = iter(range(10**9))
    waiting = callers
    while len(simulation.waits) < 600:
        for _ in range(waiting):
            assert simulation.submit(request(next(numbers), *sizes(simulation.random)))
        waiting = len(simulation.step())


def too_many_arrivals(simulation: Simulation, sizes: Callable[[Random], tuple[int, int]], rate: float) -> None:
    """More requests a second, at random times, than the engine can do; a full queue refuses the rest."""
    numbers: Iterator[int] = iter(range(10**9))
    next_arrival = simulation.clock.now
    while len(simulation.waits) < 600:
        while next_arrival <= simulation.clock.now:
            simulation.submit(request(next(numbers), *sizes(simulation.random)))
            next_arrival += simulation.random.expovariate(rate)
        simulation.step()


def equal(_: Random) -> tuple[int, int]:
    return 20, 30


def mixed(random: Random) -> tuple[int, int]:
    return random.randint(1, 100), random.randint(1, 80)


def two_kinds(random: Random) -> tuple[int, int]:
    return (5, 100) if random.random() < 0.3 else (100, 5)


@pytest.mark.parametrize("load", ["callers", "arrivals"])
@pytest.mark.parametrize("sizes", [equal, mixed, two_kinds])
@pytest.mark.parametrize("kind", [{}, {"ends_early": 0.05}, {"num_blocks": 25}], ids=["plain", "early", "memory"])
def test_the_predicted_wait_is_within_a_factor_of_two(load: str, sizes: Any, kind: dict[str, Any]) -> None:
    if load == "callers":
        simulation = Simulation(**kind)
        many_callers(simulation, sizes, callers=40)
    else:
        simulation = Simulation(max_queued_requests=30, **kind)
        too_many_arrivals(simulation, sizes, rate=1000.0)
        assert simulation.num_refused > 100
    lowest, *_, highest = quantiles(simulation.ratios(), n=20)
    assert lowest > 0.5
    assert highest < 2
    assert 0.8 < median(simulation.ratios()) < 1.25
