"""An engine serves only after it has answered a request."""

import pytest
from rhapsode_server.engine.engine import Engine
from rhapsode_server.engine.first_answer import answer_once
from rhapsode_server.engine.refusal import ModelRefused
from support.checking_runner import NUM_TOKENS, make_engine, run, runner_of


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("prefix_cache", [True, False])
def test_it_generates_one_token_and_leaves_nothing_behind(depth: int, prefix_cache: bool) -> None:
    engine = make_engine(depth=depth, prefix_cache=prefix_cache)
    answer_once(engine, NUM_TOKENS)
    [batch] = [each for each in runner_of(engine).batches if each.rows]
    assert [row.num_tokens for row in batch.rows] == [1]
    assert not engine.has_work
    assert (engine.scheduler.pool.num_used, engine.scheduler.pool.num_retained) == (0, 0)
    run(engine)


def refused(engine: Engine, vocabulary_size: int = NUM_TOKENS) -> str:
    with pytest.raises(ModelRefused) as caught:
        answer_once(engine, vocabulary_size)
    return str(caught.value)


def test_logits_that_are_not_finite_are_no_answer() -> None:
    engine = make_engine()
    runner_of(engine).not_finite_after = [0]
    assert refused(engine).startswith("non_finite_logits: ")


def test_a_token_that_the_vocabulary_does_not_have_is_no_answer() -> None:
    assert "no_answer: asked for one token, it gave [TokenEvent(" in refused(make_engine(), vocabulary_size=0)


def test_silence_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine()
    monkeypatch.setattr(Engine, "submit", lambda engine, request: None)
    assert refused(engine) == "no_answer: asked for one token, it gave []"
