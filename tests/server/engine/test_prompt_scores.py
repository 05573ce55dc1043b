"""Scores of prompts and of drawn tokens: which are asked for, in which chunks, and to whom they go."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rhapsode_server.engine.batch import Batch, BatchResult
from rhapsode_server.engine.request import FinishReason, TokenScore
from rhapsode_server.engine.scheduler import MAX_SCORED_TOKENS
from support.checking_runner import (
    CheckingRunner,
    Outcome,
    Result,
    expected,
    expected_prompt_scores,
    make_engine,
    request,
    run,
    runner_of,
)

DEPTHS = pytest.mark.parametrize("depth", [1, 2])


@settings(max_examples=100, deadline=None)
@given(
    depth=st.integers(1, 2),
    max_batch_tokens=st.integers(4, 300),
    asked=st.lists(
        st.fixed_dictionaries(
            {
                "prompt": st.integers(1, 200).map(range),
                "max_new_tokens": st.integers(0, 4),
                "prompt_top_logprobs": st.integers(0, 2),
                "top_logprobs": st.none() | st.integers(0, 2),
                "first_scored": st.integers(1, 210),
            }
        ),
        max_size=6,
    ),
)
def test_each_prompt_token_from_the_first_on_is_scored_once(
    depth: int, max_batch_tokens: int, asked: list[dict[str, object]]
) -> None:
    """The runner checks that no step scores more than it may."""
    engine = make_engine(depth=depth, num_blocks=400, max_batch_tokens=max_batch_tokens)
    requests = [request(n, **fields) for n, fields in enumerate(asked)]
    for one in requests:
        engine.submit(one)
    outcomes = run(engine)
    for one in requests:
        assert outcomes[one.request_id].begins_like == expected(one).begins_like


@DEPTHS
@pytest.mark.parametrize("length", [1, 2, 50])
def test_a_request_to_score_alone_draws_nothing_and_ends(depth: int, length: int) -> None:
    engine, asked = make_engine(depth=depth), request(0, range(length), 0, prompt_top_logprobs=1)
    engine.submit(asked)
    assert run(engine)[0] == Outcome(
        [], FinishReason.LENGTH, prompt_scores=expected_prompt_scores(asked), num_cached_tokens=0
    )
    assert not any(row.draw for batch in runner_of(engine).batches for row in batch.rows)


def test_context_that_is_not_scored_fills_steps_as_any_prompt_does() -> None:
    engine = make_engine(num_blocks=400, max_batch_tokens=700)
    engine.submit(request(0, range(1000), 0, prompt_top_logprobs=0, first_scored=500))
    run(engine)
    sizes = [batch.num_tokens for batch in runner_of(engine).batches if batch.rows]
    assert sizes == [499 + MAX_SCORED_TOKENS] + 2 * [MAX_SCORED_TOKENS] + [1000 - 499 - 3 * MAX_SCORED_TOKENS]


def test_running_streams_advance_beside_prompts_that_are_scored() -> None:
    engine = make_engine(num_blocks=999, max_batch_tokens=600)
    engine.submit(request(0, [3], 40, stop_token_ids=frozenset()))
    for n in range(1, 4):
        engine.submit(request(n, range(300), 0, prompt_top_logprobs=0))
    run(engine)
    rows = [[row.slot for row in batch.rows] for batch in runner_of(engine).batches[:40]]
    assert all(0 in slots for slots in rows)


class BrokenRunner(CheckingRunner):
    """Its scores of the prompt 5, 6, 7 are not finite."""

    def execute(self, batch: Batch) -> Result:
        result = super().execute(batch).result
        scores = [replace(s, logprob=float("nan")) if s.token_id == 7 else s for s in result.prompt_scores]
        return Result(BatchResult(token_ids=result.token_ids, scores=result.scores, prompt_scores=scores))


@DEPTHS
def test_a_prompt_whose_scores_are_not_finite_ends_alone(depth: int) -> None:
    engine = make_engine(depth=depth)
    engine.runner = BrokenRunner(engine.scheduler)
    engine.submit(request(0, [5, 6, 7], 4, prompt_top_logprobs=0))
    other = request(1, [1, 2, 3], 4, prompt_top_logprobs=0, top_logprobs=2)
    engine.submit(other)
    outcomes = run(engine)
    assert outcomes[0] == Outcome(finish_reason=FinishReason.NOT_FINITE, num_cached_tokens=0)
    assert outcomes[1].begins_like == expected(other).begins_like


def test_scores_go_with_their_tokens() -> None:
    engine = make_engine()
    engine.submit(request(0, [1, 2], 3, top_logprobs=1, stop_token_ids=frozenset()))
    engine.submit(request(1, [1, 2], 3, stop_token_ids=frozenset()))
    events = [event for _ in range(3) for event in engine.step().events]
    assert [event.score is not None for event in events] == [True, False] * 3
    for event in events[::2]:
        assert isinstance(event.score, TokenScore)
        assert event.score.token_id == event.token_id
