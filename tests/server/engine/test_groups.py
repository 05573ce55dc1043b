"""Requests of one prompt: it is computed once, and each completion is what it would be alone."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rhapsode_server.engine.request import EngineRequest, FinishReason, SamplingParameters
from support.checking_runner import Outcome, expected, make_engine, request, run, runner_of, step

DEPTHS = pytest.mark.parametrize("depth", [1, 2])
PROMPT = list(range(20, 50))


def member(request_id: int, max_new_tokens: int = 6, **fields: Any) -> EngineRequest:
    sampling = SamplingParameters(seed=request_id)
    return request(request_id, PROMPT, max_new_tokens, **{"group": 1, "sampling": sampling} | fields)


@DEPTHS
def test_the_prompt_is_computed_once(depth: int) -> None:
    engine, asked = make_engine(depth=depth, num_blocks=99), [member(n) for n in range(4)]
    for one in asked:
        engine.submit(one)
    outcomes = run(engine)
    assert [outcomes[n].tokens for n in range(4)] == [expected(one).tokens for one in asked]
    assert len({tuple(outcomes[n].tokens) for n in range(4)}) == 4, "the seeds differ"
    assert [outcomes[n].num_cached_tokens for n in range(4)] == [0, 29, 29, 29]
    prefilled = [row.num_tokens for batch in runner_of(engine).batches for row in batch.rows if row.start < 30]
    assert sum(prefilled) == 30 + 3


@DEPTHS
@pytest.mark.parametrize("max_new_tokens", [1, 2])
def test_the_prompt_outlives_a_first_member_that_ends_at_once(depth: int, max_new_tokens: int) -> None:
    engine = make_engine(depth=depth, num_blocks=99)
    for n in range(4):
        engine.submit(member(n, max_new_tokens))
    outcomes = run(engine)
    assert [outcomes[n].num_cached_tokens for n in range(4)] == [0, 29, 29, 29]


@DEPTHS
def test_more_members_than_places_take_over_from_those_that_run(depth: int) -> None:
    engine = make_engine(depth=depth, num_blocks=99)
    asked = [member(n, 6, stop_token_ids=frozenset()) for n in range(13)]
    for one in asked:
        engine.submit(one)
    outcomes = run(engine)
    assert [outcomes[n].tokens for n in range(13)] == [expected(one).tokens for one in asked]
    assert [outcomes[n].num_cached_tokens for n in range(13)] == [0] + 12 * [29]


@DEPTHS
@pytest.mark.parametrize("steps_before", range(6))
def test_cancelling_the_first_member_does_not_hurt_the_others(depth: int, steps_before: int) -> None:
    engine, outcomes = make_engine(depth=depth, num_blocks=99), dict[int, Outcome]()
    for n in range(3):
        engine.submit(member(n))
    for _ in range(steps_before):
        step(engine, outcomes)
    engine.cancel(0)
    run(engine, outcomes)
    assert [outcomes[n].tokens for n in (1, 2)] == [expected(member(n)).tokens for n in (1, 2)]


def test_a_first_member_whose_logits_are_not_finite_gives_its_prompt_to_nobody() -> None:
    engine = make_engine(num_blocks=99)
    runner_of(engine).not_finite_after = PROMPT
    for n in range(3):
        engine.submit(member(n))
    outcomes = run(engine)
    assert {outcome.finish_reason for outcome in outcomes.values()} == {FinishReason.NOT_FINITE}
    assert {outcome.num_cached_tokens for outcome in outcomes.values()} == {0}


@DEPTHS
@pytest.mark.parametrize("first_scored", [1, 12, 29, 30])
def test_each_member_has_the_scores_of_its_prompt(depth: int, first_scored: int) -> None:
    engine = make_engine(depth=depth, num_blocks=99)
    asked = [member(n, prompt_top_logprobs=n, first_scored=first_scored) for n in range(3)]
    asked.append(member(3))
    for one in asked:
        engine.submit(one)
    outcomes = run(engine)
    for one in asked:
        assert outcomes[one.request_id].begins_like == expected(one).begins_like
    assert [outcomes[n].num_cached_tokens for n in range(4)] == [0, *2 * [min(29, first_scored - 1)], 29]


def test_a_prompt_of_one_token_is_nothing_to_share() -> None:
    engine = make_engine()
    for n in range(3):
        engine.submit(request(n, [9], 3, group=1))
    assert {outcome.num_cached_tokens for outcome in run(engine).values()} == {0}


@settings(max_examples=100, deadline=None)
@given(
    depth=st.integers(1, 2),
    max_batch_tokens=st.integers(4, 40),
    members=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 8), st.integers(0, 3)), max_size=16),
)
def test_groups_side_by_side(depth: int, max_batch_tokens: int, members: list[tuple[int, int, int]]) -> None:
    prompts = {0: [1, 2, 3], 1: list(range(17)), 2: [8] * 30}
    engine, outcomes = make_engine(depth=depth, max_batch_tokens=max_batch_tokens), dict[int, Outcome]()
    asked = [
        request(n, prompts[group], count, group=group, sampling=SamplingParameters(seed=n))
        for n, (group, count, _) in enumerate(members)
    ]
    for one, (_, _, steps_before) in zip(asked, members, strict=True):
        for _ in range(steps_before):
            step(engine, outcomes)
        engine.submit(one)
    run(engine, outcomes)
    assert [outcomes[one.request_id].tokens for one in asked] == [expected(one).tokens for one in asked]
