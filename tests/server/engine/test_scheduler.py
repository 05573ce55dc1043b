"""The scheduler and the engine loop against a runner that computes nothing but checks everything."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rhapsode_server.engine.batch import Batch, Row
from rhapsode_server.engine.block_pool import BlockPool
from rhapsode_server.engine.engine import Engine, StepResult
from rhapsode_server.engine.request import NOT_FINITE, EngineRequest, FinishReason
from rhapsode_server.engine.scheduler import Scheduler

BLOCK_SIZE = 4
END = 7


def next_token(token_ids: Sequence[int]) -> int:
    """A model of a kind: depends on every token so far, and sometimes ends."""
    return hash(tuple(token_ids)) % 50


@dataclass
class Tokens:
    ids: list[int]

    def token_ids(self) -> list[int]:
        return self.ids


@dataclass
class CheckingRunner:
    """Holds token ids where a real one holds KV, and insists that positions come without gap or overlap."""

    written: dict[int, list[int]] = field(default_factory=dict)
    last: dict[int, int] = field(default_factory=dict)
    batches: list[Batch] = field(default_factory=list)
    not_finite_after: Sequence[int] | None = None

    def execute(self, batch: Batch) -> Tokens:
        self.batches.append(batch)
        for slot in batch.released_slots:
            self.written.pop(slot, None)  # nothing is written yet when it is cancelled before its first row
        assert len({row.slot for row in batch.rows}) == len(batch.rows)
        return Tokens([self._sample(row) for row in batch.rows if self._write(row)])

    def _write(self, row: Row) -> bool:
        if row.start == 0:
            assert row.slot not in self.written, "the slot still holds another sequence"
            self.written[row.slot] = []
        assert len(self.written[row.slot]) == row.start
        ids = [self.last[row.slot]] if row.token_ids is None else list(row.token_ids)
        assert len(ids) == row.num_tokens
        self.written[row.slot] += ids
        assert row.end <= row.num_reserved_tokens
        return row.samples

    def _sample(self, row: Row) -> int:
        ids = self.written[row.slot]
        self.last[row.slot] = NOT_FINITE if ids == self.not_finite_after else next_token(ids)
        return self.last[row.slot]


@dataclass
class Outcome:
    tokens: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None


def make_engine(*, depth: int = 1, num_blocks: int = 64, max_sequences: int = 4, max_batch_tokens: int = 16) -> Engine:
    pool = BlockPool(num_blocks=num_blocks, block_size=BLOCK_SIZE)
    scheduler = Scheduler(pool=pool, max_sequences=max_sequences, max_batch_tokens=max_batch_tokens)
    return Engine(scheduler, CheckingRunner(), depth=depth)


def request(request_id: int, prompt: Sequence[int], max_new_tokens: int) -> EngineRequest:
    return EngineRequest(
        request_id=request_id,
        prompt_ids=tuple(prompt),
        max_new_tokens=max_new_tokens,
        stop_token_ids=frozenset({END}),
    )


def record(outcomes: dict[int, Outcome], result: StepResult) -> None:
    for event in result.events:
        outcome = outcomes.setdefault(event.request_id, Outcome())
        assert outcome.finish_reason is None, "news of a request that has ended"
        if event.token_id is not None:
            outcome.tokens.append(event.token_id)
        outcome.finish_reason = event.finish_reason


def run(engine: Engine, *, limit: int = 2000) -> dict[int, Outcome]:
    outcomes: dict[int, Outcome] = {}
    for _ in range(limit):
        if not engine.has_work:
            return outcomes
        record(outcomes, engine.step())
        engine.scheduler.check_integrity()
    raise AssertionError("the engine does not come to an end")


def expected(prompt: Sequence[int], max_new_tokens: int) -> Outcome:
    ids = list(prompt)
    while len(ids) < len(prompt) + max_new_tokens:
        ids.append(next_token(ids))
        if ids[-1] == END:
            return Outcome(ids[len(prompt) :], FinishReason.STOP_TOKEN)
    return Outcome(ids[len(prompt) :], FinishReason.LENGTH)


requests = st.lists(
    st.tuples(st.lists(st.integers(0, 49), min_size=1, max_size=40), st.integers(1, 20), st.integers(0, 3)), max_size=12
)


@settings(max_examples=150, deadline=None)
@given(requests=requests, depth=st.integers(1, 3))
def test_every_request_gets_its_own_tokens_whenever_it_arrives(
    requests: list[tuple[list[int], int, int]], depth: int
) -> None:
    engine, outcomes = make_engine(depth=depth, num_blocks=24), dict[int, Outcome]()
    for request_id, (prompt, max_new_tokens, steps_before) in enumerate(requests):
        for _ in range(steps_before):
            record(outcomes, engine.step())
            engine.scheduler.check_integrity()
        engine.submit(request(request_id, prompt, max_new_tokens))
    for request_id, outcome in run(engine).items():
        before = outcomes.setdefault(request_id, Outcome())
        outcomes[request_id] = Outcome(before.tokens + outcome.tokens, outcome.finish_reason)
    assert outcomes == {id_: expected(prompt, count) for id_, (prompt, count, _) in enumerate(requests)}
    assert engine.scheduler.pool.num_used == 0


@settings(max_examples=60, deadline=None)
@given(data=st.data(), requests=requests, depth=st.integers(1, 2))
def test_cancelling_at_any_moment_frees_everything_and_disturbs_nobody(
    data: st.DataObject, requests: list[tuple[list[int], int, int]], depth: int
) -> None:
    engine, outcomes, cancelled = make_engine(depth=depth, num_blocks=24), dict[int, Outcome](), set()
    for request_id, (prompt, max_new_tokens, _) in enumerate(requests):
        engine.submit(request(request_id, prompt, max_new_tokens))
    while engine.has_work:
        record(outcomes, engine.step())
        if requests and data.draw(st.booleans()):
            request_id = data.draw(st.integers(0, len(requests) - 1))
            cancelled.add(request_id)
            engine.cancel(request_id)
        engine.scheduler.check_integrity()
    assert engine.scheduler.pool.num_used == 0
    for request_id in set(range(len(requests))) - cancelled:
        assert outcomes[request_id] == expected(*requests[request_id][:2])


def test_running_streams_advance_in_every_step_while_a_long_prompt_prefills() -> None:
    engine = make_engine(max_batch_tokens=8)
    for request_id in range(3):
        engine.submit(request(request_id, [request_id + 20], 30))
    engine.step()
    engine.submit(request(9, range(100), 5))
    while engine.scheduler.running.keys() >= {0, 1, 2} and 9 not in {e.request_id for e in engine.step().events}:
        batch = engine.runner.batches[-1]  # type: ignore[attr-defined]
        assert [row.num_tokens for row in batch.rows[:3]] == [1, 1, 1]
        assert batch.num_tokens == 8, "the prompt fills the step"


def test_a_step_never_exceeds_its_token_budget() -> None:
    engine = make_engine(max_batch_tokens=10)
    for request_id in range(8):
        engine.submit(request(request_id, range(request_id, request_id + 13), 6))
    run(engine)
    assert max(batch.num_tokens for batch in engine.runner.batches) == 10  # type: ignore[attr-defined]


def test_several_prompts_share_a_step() -> None:
    engine = make_engine()
    for request_id in range(4):
        engine.submit(request(request_id, [1, 2, 3], 2))
    result = engine.step()
    assert result.started == [0, 1, 2, 3]
    assert (result.stats.batch_rows, result.stats.batch_tokens) == (4, 12)


def test_admission_waits_for_blocks_and_keeps_the_order() -> None:
    engine = make_engine(num_blocks=8)
    engine.submit(request(0, range(20), 8))
    engine.submit(request(1, range(20), 8))
    engine.submit(request(2, [30], 1))
    result = engine.step()
    assert result.started == [0]
    assert (result.stats.running, result.stats.waiting, result.stats.blocks_used) == (1, 2, 7)
    assert list(run(engine)) == [0, 1, 2]


def test_at_depth_two_the_next_step_is_launched_before_the_last_is_read() -> None:
    engine = make_engine(depth=2)
    engine.submit(request(0, [3], 5))
    assert engine.step().events == []
    engine.step()
    launched = engine.runner.batches  # type: ignore[attr-defined]
    assert [row.token_ids for batch in launched for row in batch.rows] == [(3,), None]


def test_tokens_past_a_stop_are_discarded_at_depth_two() -> None:
    prompt = next(p for p in ([n] for n in range(50)) if len(expected(p, 9).tokens) in (3, 4))
    engine = make_engine(depth=2)
    engine.submit(request(0, prompt, 9))
    assert run(engine)[0] == expected(prompt, 9)


@pytest.mark.parametrize("depth", [1, 2])
def test_a_row_that_is_not_finite_ends_alone(depth: int) -> None:
    engine = make_engine(depth=depth)
    engine.runner.not_finite_after = [5, 6]  # type: ignore[attr-defined]
    engine.submit(request(0, [5, 6], 9))
    engine.submit(request(1, [1, 2], 9))
    assert run(engine) == {0: Outcome([], FinishReason.NOT_FINITE), 1: expected([1, 2], 9)}


def test_cancelling_the_unknown_is_no_error() -> None:
    engine = make_engine()
    engine.cancel(123)
    assert not engine.has_work


def test_a_budget_below_the_number_of_sequences_is_refused() -> None:
    with pytest.raises(ValueError, match=r"max_batch_tokens \(3\) must be at least max_sequences \(4\)"):
        make_engine(max_batch_tokens=3)


@pytest.mark.parametrize(("num_blocks", "block_size"), [(0, 4), (4, 0)])
def test_an_empty_pool_is_refused(num_blocks: int, block_size: int) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        BlockPool(num_blocks=num_blocks, block_size=block_size)
