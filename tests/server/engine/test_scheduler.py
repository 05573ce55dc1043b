"""The scheduler and the engine loop against a runner that computes nothing but checks everything."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rhapsode_server.engine.block_pool import BlockPool
from rhapsode_server.engine.request import FinishReason, SamplingParameters
from rhapsode_server.engine.scheduler import MAX_STRETCH
from support.checking_runner import Outcome, expected, make_engine, request, run, runner_of, step

requests = st.lists(
    st.tuples(st.lists(st.integers(0, 49), min_size=1, max_size=40), st.integers(1, 20), st.integers(0, 3)), max_size=12
)


@settings(max_examples=100, deadline=None)
@given(requests=requests, depth=st.integers(1, 3))
def test_every_request_gets_its_own_tokens_whenever_it_arrives(
    requests: list[tuple[list[int], int, int]], depth: int
) -> None:
    engine, outcomes = make_engine(depth=depth, num_blocks=24), dict[int, Outcome]()
    for request_id, (prompt, max_new_tokens, steps_before) in enumerate(requests):
        for _ in range(steps_before):
            step(engine, outcomes)
        engine.submit(request(request_id, prompt, max_new_tokens))
    run(engine, outcomes)
    alone = {id_: expected(request(id_, prompt, count)) for id_, (prompt, count, _) in enumerate(requests)}
    assert {id_: (o.tokens, o.finish_reason) for id_, o in outcomes.items()} == {
        id_: (o.tokens, o.finish_reason) for id_, o in alone.items()
    }


def test_running_streams_advance_in_every_step_while_a_long_prompt_prefills() -> None:
    engine = make_engine(max_batch_tokens=8)
    for request_id in range(3):
        engine.submit(request(request_id, [request_id + 20], 30))
    engine.step()
    engine.submit(request(9, range(100), 5))
    while engine.scheduler.running.keys() >= {0, 1, 2} and 9 not in {e.request_id for e in engine.step().events}:
        batch = runner_of(engine).batches[-1]
        assert [row.num_tokens for row in batch.rows[:3]] == [1, 1, 1]
        assert batch.num_tokens == 8, "the prompt fills the step"


@pytest.mark.parametrize("num_streams", [1, 3])
def test_while_streams_run_prompts_stretch_a_step_by_no_more_than_they_may(num_streams: int) -> None:
    engine, overhead = make_engine(max_batch_tokens=200, num_blocks=99, step_overhead=5), 5
    for request_id in range(num_streams):
        engine.submit(request(request_id, [request_id + 20], 40, stop_token_ids=frozenset()))
    engine.step()
    engine.submit(request(9, range(100), 1))
    stats = engine.step().stats
    assert stats.batch_tokens + overhead == MAX_STRETCH * (num_streams + overhead)
    outcomes = dict[int, Outcome]()
    while 9 not in outcomes:
        assert step(engine, outcomes).stats.batch_rows == num_streams + 1, "all of them advance"


def test_without_streams_prompts_have_the_whole_step() -> None:
    engine = make_engine(max_batch_tokens=200, num_blocks=99, step_overhead=5)
    for request_id in range(3):
        engine.submit(request(request_id, range(request_id, request_id + 80), 1))
    assert [engine.step().stats.batch_tokens for _ in range(2)] == [200, 40]


def test_streams_that_sit_a_step_out_are_streams() -> None:
    engine = make_engine(depth=2, max_batch_tokens=200, num_blocks=99, step_overhead=5)
    engine.submit(request(0, [1], 40, sampling=SamplingParameters(presence_penalty=0.5), stop_token_ids=frozenset()))
    engine.step()
    engine.submit(request(1, range(100), 1))
    engine.step()
    assert [(row.slot, row.num_tokens) for row in runner_of(engine).batches[-1].rows] == [(1, (MAX_STRETCH - 1) * 6)]


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
    assert [started.request_id for started in result.started] == [0, 1, 2, 3]
    assert (result.stats.batch_rows, result.stats.batch_tokens) == (4, 12)


def test_admission_waits_for_blocks_and_keeps_the_order() -> None:
    engine = make_engine(num_blocks=8)
    engine.submit(request(0, range(20), 8))
    engine.submit(request(1, range(20), 8))
    engine.submit(request(2, [30], 1))
    result = engine.step()
    assert [started.request_id for started in result.started] == [0]
    assert (result.stats.running, result.stats.waiting, result.stats.blocks_used) == (1, 2, 7)
    assert list(run(engine)) == [0, 1, 2]


def test_at_depth_two_the_next_step_is_launched_before_the_last_is_read() -> None:
    engine = make_engine(depth=2)
    engine.submit(request(0, [3], 5))
    assert engine.step().events == []
    engine.step()
    launched = runner_of(engine).batches
    assert [row.token_ids for batch in launched for row in batch.rows] == [(3,), None]


def test_tokens_past_a_stop_are_discarded_at_depth_two() -> None:
    prompt = next(p for p in ([n] for n in range(50)) if len(expected(request(0, p, 9)).tokens) in (3, 4))
    engine = make_engine(depth=2)
    engine.submit(request(0, prompt, 9))
    assert run(engine)[0].tokens == expected(request(0, prompt, 9)).tokens


@pytest.mark.parametrize("depth", [1, 2])
def test_a_row_that_is_not_finite_ends_alone(depth: int) -> None:
    engine = make_engine(depth=depth)
    runner_of(engine).not_finite_after = [5, 6]
    engine.submit(request(0, [5, 6], 9))
    engine.submit(request(1, [1, 2], 9))
    outcomes = run(engine)
    assert (outcomes[0].tokens, outcomes[0].finish_reason) == ([], FinishReason.NOT_FINITE)
    assert outcomes[1].tokens == expected(request(1, [1, 2], 9)).tokens


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
