"""Scores, and prompts that are shared, of the whole engine against the plain forward of the model."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from rhapsode_server.engine.attention import ATTENTION
from rhapsode_server.engine.engine import Engine
from rhapsode_server.engine.request import EngineRequest, FinishReason, SamplingParameters, TokenScore
from support.checking_runner import Outcome, record
from support.reference import random_prompts
from support.tiny_models import VOCABULARY_SIZE, tiny_model
from transformers import PreTrainedModel

from .conftest import make_engine

TOLERANCE = 2e-5
ARCHITECTURES = pytest.mark.parametrize("architecture", ["gpt2", "mistral"])
DEPTHS = pytest.mark.parametrize("depth", [1, 2])


def run(engine: Engine, requests: list[EngineRequest]) -> dict[int, Outcome]:
    outcomes: dict[int, Outcome] = {}
    for request in requests:
        engine.submit(request)
    while engine.has_work:
        record(outcomes, engine.step())
        engine.scheduler.check_integrity()
    assert engine.scheduler.pool.num_used == 0
    return outcomes


def assert_exact(model: PreTrainedModel, token_ids: Sequence[int], scores: Sequence[TokenScore], first: int) -> None:
    """They are the scores of the tokens from index `first` on, to the last."""
    with torch.inference_mode():
        logprobs_SV = model(torch.tensor([token_ids])).logits[0].log_softmax(-1)
    assert [score.token_id for score in scores] == list(token_ids[first:])
    for score, logprobs_V in zip(scores, logprobs_SV[first - 1 :], strict=False):
        its_own = logprobs_V[score.token_id]
        assert score.logprob == pytest.approx(float(its_own), abs=TOLERANCE)
        num_above, num_not_below = (logprobs_V > its_own + TOLERANCE).sum(), (logprobs_V >= its_own - TOLERANCE).sum()
        assert int(num_above) < score.rank <= int(num_not_below)
        best = logprobs_V.topk(len(score.candidates)).values.tolist()
        assert [logprob for _, logprob in score.candidates] == pytest.approx(best, abs=TOLERANCE)
        for token_id, logprob in score.candidates:
            assert logprob == pytest.approx(float(logprobs_V[token_id]), abs=TOLERANCE)


@DEPTHS
@ARCHITECTURES
def test_scores_equal_the_plain_forward(load: Any, architecture: str, depth: int) -> None:
    model, runner = tiny_model(architecture), load(architecture)
    runner.loaded.model.set_attn_implementation(ATTENTION)
    prompts = [*random_prompts(12, 60, VOCABULARY_SIZE), random_prompts(1, 1, VOCABULARY_SIZE)[0] * 300]
    requests = [
        EngineRequest(
            request_id=id_,
            prompt_ids=tuple(prompt),
            max_new_tokens=id_ % 4,
            top_logprobs=None if id_ % 3 == 1 else id_ % 5,
            prompt_top_logprobs=id_ % 3 if id_ % 4 == 0 or id_ % 2 else None,
            first_scored=1 + 3 * (id_ % 3),
            sampling=SamplingParameters(temperature=float(id_ % 2), seed=id_),
        )
        for id_, prompt in enumerate(prompts)
    ]
    outcomes = run(make_engine(runner, depth=depth, max_batch_tokens=70), requests)
    num_scores = 0
    for request in requests:
        outcome, num_prompt_tokens = outcomes[request.request_id], len(request.prompt_ids)
        assert len(outcome.tokens) == request.max_new_tokens
        token_ids = [*request.prompt_ids, *outcome.tokens]
        if request.prompt_top_logprobs is not None:
            assert_exact(model, request.prompt_ids, outcome.prompt_scores, request.first_scored)
        if request.top_logprobs is not None and outcome.tokens:
            assert_exact(model, token_ids, outcome.scores, num_prompt_tokens)
        num_scores += len(outcome.scores) + len(outcome.prompt_scores)
    assert num_scores > 400


@DEPTHS
@ARCHITECTURES
def test_members_of_a_group_are_what_they_are_alone(load: Any, architecture: str, depth: int) -> None:
    runner = load(architecture, max_sequences=5)
    runner.loaded.model.set_attn_implementation(ATTENTION)
    prompts = random_prompts(4, 120, VOCABULARY_SIZE, seed=5)
    requests = [
        EngineRequest(
            request_id=id_,
            prompt_ids=tuple(prompts[id_ % 4]),
            max_new_tokens=1 + id_ % 13,
            sampling=SamplingParameters(temperature=1.0, seed=id_),
            prompt_top_logprobs=0 if id_ % 5 == 0 else None,
            group=id_ % 4,
        )
        for id_ in range(20)
    ]
    together = run(make_engine(runner, depth=depth, max_batch_tokens=50), requests)
    alone = {r.request_id: run(make_engine(runner), [r])[r.request_id] for r in requests}
    assert {id_: o.tokens for id_, o in together.items()} == {id_: o.tokens for id_, o in alone.items()}
    for id_ in range(0, 20, 5):
        scores = [score.logprob for score in together[id_].prompt_scores]
        assert scores == pytest.approx([score.logprob for score in alone[id_].prompt_scores], abs=TOLERANCE)
    assert sum(outcome.num_cached_tokens > 0 for outcome in together.values()) >= 8


def test_a_request_whose_logits_are_not_finite_ends_alone_whatever_it_asks_for(load: Any) -> None:
    """The embedding of token 9 is NaN, so that whatever has seen it is."""
    model = tiny_model("llama")
    runner = load(tiny_model("llama"))
    runner.loaded.model.set_attn_implementation(ATTENTION)
    runner.loaded.model.model.embed_tokens.weight.data[9] = torch.nan
    fields = {"max_new_tokens": 3, "top_logprobs": 2}
    requests = [
        EngineRequest(request_id=0, prompt_ids=(4, 9, 5), **fields),
        EngineRequest(request_id=1, prompt_ids=(4, 9, 5), prompt_top_logprobs=2, **fields),
        EngineRequest(request_id=2, prompt_ids=(4, 8, 5), prompt_top_logprobs=2, **fields),
    ]
    outcomes = run(make_engine(runner), requests)
    assert [outcomes[n].finish_reason for n in range(2)] == 2 * [FinishReason.NOT_FINITE]
    assert outcomes[2].finish_reason is FinishReason.LENGTH
    assert_exact(model, (4, 8, 5), outcomes[2].prompt_scores, 1)
    assert_exact(model, (4, 8, 5, *outcomes[2].tokens), outcomes[2].scores, 3)
