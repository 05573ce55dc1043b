"""What requests have in common is computed once, and each gets what it would get alone."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rhapsode_server.engine import prefixes
from rhapsode_server.engine.engine import Engine
from rhapsode_server.engine.request import FinishReason
from support.checking_runner import BLOCK_SIZE, Outcome, expected, request, run, runner_of, step
from support.checking_runner import make_engine as make_plain_engine

DEPTHS = pytest.mark.parametrize("depth", [1, 2])
PREAMBLE = list(range(20, 32))


def make_engine(**settings: Any) -> Engine:
    return make_plain_engine(**{"prefix_cache": True, "num_blocks": 99} | settings)


def num_cached(engine: Engine, *prompts: Sequence[int], first_id: int = 0, **fields: Any) -> list[int | None]:
    """Of requests that come together, each of which gets what it would get alone."""
    asked = [request(first_id + n, prompt, 3, **fields) for n, prompt in enumerate(prompts)]
    for one in asked:
        engine.submit(one)
    outcomes = run(engine)
    for one in asked:
        assert outcomes[one.request_id].begins_like == expected(one).begins_like
    return [outcomes[one.request_id].num_cached_tokens for one in asked]


@DEPTHS
def test_full_blocks_of_one_that_runs_are_taken_over(depth: int) -> None:
    engine, outcomes = make_engine(depth=depth), dict[int, Outcome]()
    engine.submit(request(0, [*PREAMBLE, 1, 2], 30, stop_token_ids=frozenset()))
    for _ in range(3):
        step(engine, outcomes)
    engine.submit(request(1, [*PREAMBLE, 1, 3, 4], 4))
    result = step(engine, outcomes)
    assert outcomes[1].num_cached_tokens == 12
    assert result.stats.cached_tokens == 12
    assert result.stats.batch_tokens == 1 + 3
    run(engine, outcomes)
    assert outcomes[1].tokens == expected(request(1, [*PREAMBLE, 1, 3, 4], 4)).tokens


@DEPTHS
def test_so_are_those_of_one_that_has_ended_and_of_its_completion(depth: int) -> None:
    engine = make_engine(depth=depth)
    asked = request(0, PREAMBLE, 9, stop_token_ids=frozenset())
    engine.submit(asked)
    said = run(engine)[0].tokens
    stats = engine.step().stats
    assert (stats.blocks_used, stats.blocks_retained) == (0, 6)
    assert num_cached(engine, [*PREAMBLE, *said, 1, 2], [*PREAMBLE, *said[:5], 49], first_id=1) == [20, 16]


def test_what_comes_together_is_computed_once() -> None:
    engine = make_engine(max_batch_tokens=8)
    assert num_cached(engine, *([*PREAMBLE, n, n] for n in range(4))) == [0, 12, 12, 12]
    prefilled = [row.num_tokens for batch in runner_of(engine).batches for row in batch.rows if row.start < 14]
    assert sum(prefilled) == 14 + 3 * 2


def test_who_waits_holds_up_nobody_else() -> None:
    engine = make_engine(max_batch_tokens=30)
    for n, prompt in enumerate([[*PREAMBLE, 1], [*PREAMBLE, 2], [3, 4]]):
        engine.submit(request(n, prompt, 3))
    assert [started.request_id for started in engine.step().started] == [0, 2]
    assert [started.request_id for started in engine.step().started] == [1]


@DEPTHS
@pytest.mark.parametrize("steps_before", range(1, 5))
def test_who_waits_for_one_that_is_cancelled_takes_what_there_is(depth: int, steps_before: int) -> None:
    engine, outcomes = make_engine(depth=depth, max_batch_tokens=6), dict[int, Outcome]()
    prompt = list(range(30))
    engine.submit(request(0, prompt, 3))
    engine.submit(request(1, prompt, 3))
    for _ in range(steps_before):
        step(engine, outcomes)
    assert 1 not in outcomes
    engine.cancel(0)
    run(engine, outcomes)
    assert outcomes[1].tokens == expected(request(1, prompt, 3)).tokens
    assert outcomes[1].num_cached_tokens == 6 * steps_before // BLOCK_SIZE * BLOCK_SIZE


def test_at_least_one_token_is_computed() -> None:
    engine = make_engine()
    assert num_cached(engine, PREAMBLE, PREAMBLE, PREAMBLE[:9], PREAMBLE[:8]) == [0, 11, 8, 7]


@pytest.mark.parametrize(("first_scored", "cached"), [(1, 0), (2, 1), (9, 8), (12, 11), (13, 11)])
def test_nothing_is_taken_over_of_what_is_to_be_scored(first_scored: int, cached: int) -> None:
    engine = make_engine()
    num_cached(engine, PREAMBLE)
    asked = {"prompt_top_logprobs": 1, "first_scored": first_scored}
    assert num_cached(engine, [*PREAMBLE[:11], 40], first_id=1, **asked) == [min(cached, 8)]
    assert num_cached(engine, PREAMBLE, first_id=2, **asked) == [cached]


def test_the_least_recently_used_makes_room() -> None:
    engine = make_engine(num_blocks=16)  # of 4 tokens: each of these takes 4 of them
    prompts = [[*range(10 * n, 10 * n + 10)] for n in range(4)]
    for n, prompt in enumerate(prompts):
        num_cached(engine, prompt, first_id=n)
    assert engine.scheduler.pool.num_retained == 16
    assert num_cached(engine, prompts[0], first_id=4) == [8], "the second made room, not the one that is of use"
    assert num_cached(engine, prompts[1], first_id=5) == [0], "in the place of the first, of which the fifth has all"
    assert num_cached(engine, prompts[0], first_id=6) == [8], "the third made room"
    assert num_cached(engine, prompts[3], first_id=7) == [8]
    assert num_cached(engine, prompts[2], first_id=8) == [0]


def test_of_a_dialogue_one_copy_is_retained() -> None:
    engine, dialogue = make_engine(num_blocks=200), list(range(8))
    for turn in range(6):
        asked = request(turn, dialogue, 8, stop_token_ids=frozenset())
        engine.submit(asked)
        dialogue = [*asked.prompt_ids, *run(engine)[turn].tokens, turn, turn]
    engine.step()
    assert engine.scheduler.pool.num_retained == engine.scheduler.pool.blocks_for(len(dialogue) - 2)


def test_what_is_retained_delays_nobody() -> None:
    """The runner checks that nobody waits for blocks; slots are as many again as may run."""
    engine = make_engine(num_blocks=20)
    for n in range(30):
        num_cached(engine, [n, *range(n, n + 9)], first_id=n)
    for n in range(4):
        engine.submit(request(40 + n, [n] * 16, 4))
    assert engine.step().stats.running == 4


def test_what_is_not_finite_is_taken_over_from_nobody() -> None:
    engine = make_engine()
    num_cached(engine, PREAMBLE)
    runner_of(engine).not_finite_after = [*PREAMBLE, 1, 2]
    engine.submit(request(1, [*PREAMBLE, 1, 2], 3))
    outcome = run(engine)[1]
    assert (outcome.num_cached_tokens, outcome.finish_reason) == (12, FinishReason.NOT_FINITE)
    assert num_cached(engine, [*PREAMBLE, 3], first_id=2) == [0]
    assert num_cached(engine, [*PREAMBLE, 4], first_id=3) == [12]


def test_equal_keys_are_not_equal_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefixes, "hash", lambda _: 1, raising=False)
    engine = make_engine()
    assert num_cached(engine, PREAMBLE, range(12), [*PREAMBLE, 1], range(9)) == [0, 0, 12, 0]


def test_without_the_cache_nothing_is_shared_nor_retained() -> None:
    engine = make_engine(prefix_cache=False)
    assert num_cached(engine, PREAMBLE, PREAMBLE) == [0, 0]
    assert num_cached(engine, PREAMBLE, first_id=2) == [0]
    assert engine.scheduler.pool.num_retained == 0


def test_without_the_cache_groups_share_among_themselves() -> None:
    engine = make_engine(prefix_cache=False)
    assert num_cached(engine, PREAMBLE, PREAMBLE, group=1) == [0, 11]
    assert num_cached(engine, PREAMBLE, first_id=2, group=2) == [0]
    assert num_cached(engine, PREAMBLE, first_id=3) == [0]


@settings(max_examples=100, deadline=None)
@given(
    turns=st.lists(
        st.tuples(st.sampled_from([[], PREAMBLE, PREAMBLE[:9], [8] * 30]), st.lists(st.integers(8, 10), min_size=1)),
        max_size=8,
    )
)
def test_as_much_is_taken_over_as_any_earlier_one_has_in_common(turns: list[tuple[list[int], list[int]]]) -> None:
    engine, computed = make_engine(num_blocks=2000), list[list[int]]()
    for n, (preamble, rest) in enumerate(turns):
        asked = request(n, preamble + rest, 3)
        engine.submit(asked)
        outcome = run(engine)[n]
        most = max((full_blocks_in_common(asked.prompt_ids, ids) for ids in computed), default=0)
        assert outcome.num_cached_tokens == min(most, asked.num_shareable_tokens)
        assert outcome.tokens == expected(asked).tokens
        computed.append([*asked.prompt_ids, *outcome.tokens[:-1]])


def full_blocks_in_common(these: Sequence[int], those: Sequence[int]) -> int:
    num_alike = next((n for n, (a, b) in enumerate(zip(these, those, strict=False)) if a != b), 10**9)
    return min(num_alike, len(these), len(those)) // BLOCK_SIZE * BLOCK_SIZE
