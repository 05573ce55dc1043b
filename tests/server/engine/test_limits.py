"""What ends a request besides its tokens: time, constraints; and what keeps it from ending."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rhapsode_server.engine.request import FinishReason, SamplingParameters
from rhapsode_server.engine.scheduler import MATCHER_SECONDS
from support.checking_runner import (
    END,
    NUM_TOKENS,
    Clock,
    Outcome,
    expected,
    expected_prompt_scores,
    make_engine,
    mask,
    request,
    run,
    runner_of,
    step,
)

DEPTHS = pytest.mark.parametrize("depth", [1, 2])
PENALISED = SamplingParameters(repetition_penalty=1.5)
BANNED = SamplingParameters(banned_sequences=((3, 4),))


@dataclass
class FakeMatcher:
    """Allows one token of each place; fails at `fails_at` tokens, if that is set."""

    places: Sequence[Sequence[int]]
    fails_at: int | None = None
    accepted: list[int] = field(default_factory=list)

    def allowed_mask(self) -> bytes:
        self._fail()
        return mask(self.places[len(self.accepted)])

    def accept(self, token_id: int) -> None:
        assert token_id in self.places[len(self.accepted)]
        self.accepted.append(token_id)

    @property
    def is_complete(self) -> bool:
        return len(self.accepted) == len(self.places)

    def _fail(self) -> None:
        if self.fails_at == len(self.accepted):
            raise RuntimeError("the grammar is at its end of wits")


@DEPTHS
@settings(max_examples=50, deadline=None)
@given(prompt=st.lists(st.integers(0, 49), min_size=1, max_size=9), minimum=st.integers(0, 12))
def test_no_stop_token_is_drawn_before_min_new_tokens(depth: int, prompt: list[int], minimum: int) -> None:
    stops = frozenset(range(0, NUM_TOKENS, 3))
    engine = make_engine(depth=depth)
    asked = request(0, prompt, 10, min_new_tokens=minimum, stop_token_ids=stops)
    engine.submit(asked)
    outcome = run(engine)[0]
    assert outcome.tokens == expected(asked).tokens
    assert not stops.intersection(outcome.tokens[: min(minimum, 9)])
    assert outcome.finish_reason is (FinishReason.STOP_TOKEN if outcome.tokens[-1] in stops else FinishReason.LENGTH)


@DEPTHS
@pytest.mark.parametrize("sampling", [PENALISED, BANNED])
def test_a_row_whose_draw_needs_the_last_token_waits_for_it_alone(depth: int, sampling: SamplingParameters) -> None:
    """The runner checks each history; the other row is not held up."""
    engine = make_engine(depth=depth)
    asked = [
        request(0, [1, 2], 10, sampling=sampling, stop_token_ids=frozenset()),
        request(1, [3], 12, stop_token_ids=frozenset()),
    ]
    for one in asked:
        engine.submit(one)
    outcomes = run(engine)
    assert [outcomes[0].tokens, outcomes[1].tokens] == [expected(one).tokens for one in asked]
    slots = [[row.slot for row in batch.rows] for batch in runner_of(engine).batches]
    assert all(1 in rows for rows in slots[:12]), "the other advances in every step"
    assert sum(0 in rows for rows in slots[:12]) == (10 if depth == 1 else 6)
    assert all(row.token_ids is not None for batch in runner_of(engine).batches for row in batch.rows if row.slot == 0)


@DEPTHS
def test_a_constraint_is_followed_and_ends_when_it_is_complete(depth: int) -> None:
    engine, matcher = make_engine(depth=depth), FakeMatcher([[5], [8, 9], [11]])
    engine.submit(request(0, [1, 2], 10), matcher)
    engine.submit(request(1, [3], 10))
    outcomes = run(engine)
    assert outcomes[0].tokens == matcher.accepted
    assert outcomes[0].finish_reason is FinishReason.CONSTRAINT
    assert outcomes[1].tokens == expected(request(1, [3], 10)).tokens


def test_a_constraint_that_is_complete_with_the_last_token_has_ended_as_it_should() -> None:
    engine = make_engine()
    engine.submit(request(0, [1, 2], 2), FakeMatcher([[5], [8]]))
    engine.submit(request(1, [1, 2], 2), FakeMatcher([[5], [8], [9]]))
    outcomes = run(engine)
    assert [outcomes[n].finish_reason for n in range(2)] == [FinishReason.CONSTRAINT, FinishReason.LENGTH]


def test_a_constraint_that_allows_nothing_but_the_end_ends_at_once() -> None:
    engine = make_engine()
    engine.submit(request(0, [1, 2], 10), FakeMatcher([]))
    assert run(engine)[0] == Outcome(finish_reason=FinishReason.CONSTRAINT)
    assert runner_of(engine).num_tokens == 0


@DEPTHS
@pytest.mark.parametrize("num_new", [0, 10])
def test_a_constraint_that_is_complete_from_the_start_leaves_the_prompt_to_be_scored(depth: int, num_new: int) -> None:
    engine, asked = make_engine(depth=depth), request(0, [1, 2, 3], num_new, prompt_top_logprobs=1)
    engine.submit(asked, FakeMatcher([]))
    outcome = run(engine)[0]
    assert (outcome.tokens, outcome.finish_reason) == ([], FinishReason.CONSTRAINT)
    assert outcome.prompt_scores == expected_prompt_scores(asked)


def test_the_end_token_ends_a_constraint_that_allows_it() -> None:
    engine, matcher = make_engine(), FakeMatcher([[5], [END], [6]])
    engine.submit(request(0, [1, 2], 10), matcher)
    assert run(engine)[0] == Outcome([5, END], FinishReason.STOP_TOKEN, num_cached_tokens=0)
    assert matcher.accepted == [5], "the end is no part of the form"


@DEPTHS
@pytest.mark.parametrize("fails_at", [0, 1, 2])
def test_a_matcher_that_fails_ends_its_own_request(depth: int, fails_at: int) -> None:
    engine = make_engine(depth=depth)
    engine.submit(request(0, [1, 2], 10), FakeMatcher([[5], [8], [9], [10]], fails_at))
    engine.submit(request(1, [3], 10))
    outcomes = run(engine)
    assert outcomes[0].tokens == [5, 8][:fails_at]
    assert outcomes[0].finish_reason is FinishReason.BAD_CONSTRAINT
    assert outcomes[0].detail == "the grammar is at its end of wits"
    assert outcomes[1].tokens == expected(request(1, [3], 10)).tokens


@dataclass
class SlowMatcher:
    """Allows all, and takes its time."""

    clock: Clock
    seconds: float

    def allowed_mask(self) -> bytes:
        return mask(range(NUM_TOKENS))

    def accept(self, token_id: int) -> None:
        self.clock.now += self.seconds

    @property
    def is_complete(self) -> bool:
        return False


@DEPTHS
def test_slow_matchers_take_turns_and_stall_nobody_else(depth: int) -> None:
    clock, outcomes = Clock(), dict[int, Outcome]()
    engine = make_engine(depth=depth, matcher_clock=clock)
    asked = [request(n, [n + 1], 12, stop_token_ids=frozenset()) for n in range(4)]
    for one in asked:
        engine.submit(one, None if one.request_id == 0 else SlowMatcher(clock, 1.5 * MATCHER_SECONDS))
    while 0 not in outcomes or outcomes[0].finish_reason is None:
        began, tokens = clock.now, len(outcomes.get(0, Outcome()).tokens)
        result = step(engine, outcomes)
        assert clock.now - began < 3.5 * MATCHER_SECONDS, "one before, one after"
        assert not result.started or len(result.started) == 4
        assert len(outcomes[0].tokens) == tokens + 1 or (depth == 2 and not tokens)
    run(engine, outcomes)
    assert [outcomes[n].tokens for n in range(4)] == [expected(one).tokens for one in asked]
    assert {outcome.finish_reason for outcome in outcomes.values()} == {FinishReason.LENGTH}


def test_tokens_that_wait_for_a_matcher_are_dropped_with_their_request() -> None:
    clock = Clock()
    engine = make_engine(matcher_clock=clock)
    for n in range(3):
        asked = request(n, [n + 1], 5, stop_token_ids=frozenset())
        engine.submit(asked, SlowMatcher(clock, 2 * MATCHER_SECONDS))
    assert {event.request_id for event in engine.step().events} == {0}
    engine.cancel(1)
    outcomes = run(engine)
    assert 1 not in outcomes
    assert len(outcomes[2].tokens) == 5


class PanicException(BaseException):
    """What a panic of the library looks like."""


def test_a_panic_ends_its_own_request_and_an_interrupt_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, matcher = make_engine(), FakeMatcher([[5], [8], [9]])
    error: list[BaseException] = [PanicException("a bug"), KeyboardInterrupt()]

    def fail() -> None:
        raise error.pop(0)

    monkeypatch.setattr(matcher, "_fail", fail)
    engine.submit(request(0, [1], 5), matcher)
    engine.submit(request(1, [2], 5))
    outcomes = run(engine)
    assert (outcomes[0].finish_reason, outcomes[0].detail) == (FinishReason.BAD_CONSTRAINT, "a bug")
    assert outcomes[1].tokens == expected(request(1, [2], 5)).tokens
    engine.submit(request(2, [1], 5), matcher)
    with pytest.raises(KeyboardInterrupt):
        engine.step()


def test_a_constraint_under_which_nothing_can_be_drawn_is_bad() -> None:
    engine = make_engine()
    runner_of(engine).not_finite_after = [1, 2, 5]
    engine.submit(request(0, [1, 2], 10), FakeMatcher([[5], [8]]))
    outcome = run(engine)[0]
    assert (outcome.tokens, outcome.finish_reason) == ([5], FinishReason.BAD_CONSTRAINT)
    assert "can be drawn" in outcome.detail


@DEPTHS
@pytest.mark.parametrize(
    ("limit", "reason"), [("ends_at", FinishReason.TIME_LIMIT), ("deadline", FinishReason.EXPIRED)]
)
def test_time_ends_a_request_that_generates(depth: int, limit: str, reason: FinishReason) -> None:
    clock, outcomes = Clock(), dict[int, Outcome]()
    engine = make_engine(depth=depth, clock=clock)
    asked = request(0, [1, 2], 100, stop_token_ids=frozenset(), **{limit: clock.now + 5})
    engine.submit(asked)
    for _ in range(5):
        step(engine, outcomes)
        clock.now += 1
    given = len(outcomes[0].tokens)
    assert step(engine, outcomes).events[0].finish_reason is reason
    run(engine, outcomes)
    assert outcomes[0].tokens == expected(asked).tokens[:given]
    assert given == 6 - depth


@DEPTHS
@pytest.mark.parametrize(
    ("limit", "reason"), [("ends_at", FinishReason.TIME_LIMIT), ("deadline", FinishReason.EXPIRED)]
)
def test_time_ends_a_request_that_waits_before_it_costs_anything(depth: int, limit: str, reason: FinishReason) -> None:
    clock, outcomes = Clock(), dict[int, Outcome]()
    engine = make_engine(depth=depth, max_sequences=1, clock=clock)
    engine.submit(request(0, [3], 40, stop_token_ids=frozenset()))
    engine.submit(request(1, range(30), 40, **{limit: clock.now + 2}))
    step(engine, outcomes)
    clock.now += 2
    result = step(engine, outcomes)
    assert (result.events[0].request_id, result.events[0].finish_reason) == (1, reason)
    assert result.stats.waiting == 0
    run(engine, outcomes)
    assert outcomes[1].tokens == []
    assert all(row.slot == 0 and row.num_tokens == 1 for batch in runner_of(engine).batches for row in batch.rows)


@DEPTHS
def test_time_ends_a_request_whose_prompt_is_being_computed(depth: int) -> None:
    clock, outcomes = Clock(), dict[int, Outcome]()
    engine = make_engine(depth=depth, num_blocks=200, clock=clock)
    engine.submit(request(0, range(400), 4, ends_at=clock.now + 1))
    for _ in range(3):
        step(engine, outcomes)
    clock.now += 1
    run(engine, outcomes)
    assert outcomes[0] == Outcome(finish_reason=FinishReason.TIME_LIMIT, num_cached_tokens=0)
    assert runner_of(engine).num_tokens == 3 * 16


def test_who_has_given_up_is_not_told_what_there_is() -> None:
    clock = Clock()
    engine = make_engine(clock=clock)
    engine.submit(request(0, [1], 4, ends_at=clock.now, deadline=clock.now))
    assert run(engine)[0].finish_reason is FinishReason.EXPIRED


def test_limits_that_lie_ahead_change_nothing() -> None:
    clock = Clock()
    engine = make_engine(clock=clock)
    asked = request(0, [1], 4, ends_at=clock.now + 1, deadline=clock.now + 1)
    engine.submit(asked)
    assert run(engine)[0].tokens == expected(asked).tokens
