"""The runner for CUDA against the plain one, on a CPU: its buffers, padding, feedback and graphs, whose Python never
runs again. The operators are there in their torch form; other tests hold the kernels against it."""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from rhapsode_server.engine.cuda import decoder
from rhapsode_server.engine.engine import Engine
from rhapsode_server.engine.request import EngineRequest, FinishReason, SamplingParameters, TokenScore
from rhapsode_server.engine.runner import ModelRunner
from support.recorded_graphs import Recording
from support.reference import generate_greedily, margin_where_they_part, random_prompts
from support.tiny_models import VOCABULARY_SIZE, tiny_model

from .conftest import Load, make_engine

END = frozenset({0})

# What a graph draws itself, and what it leaves to the sampler.
SAMPLING = [
    SamplingParameters(),
    SamplingParameters(temperature=1.0, seed=1),
    SamplingParameters(temperature=0.3, seed=(1 << 64) - 5),
    SamplingParameters(temperature=1.0, top_k=5, seed=3),
    SamplingParameters(temperature=0.8, top_p=0.7, seed=4),
    SamplingParameters(temperature=1.0, repetition_penalty=1.3, seed=5),
    SamplingParameters(temperature=1.0, logit_bias=((7, 5.0),), seed=6),
    SamplingParameters(allowed_token_ids=(3, 5, 9)),
]


@dataclass
class Outcome:
    tokens: list[int] = field(default_factory=list)
    reason: FinishReason | None = None
    scores: list[TokenScore] = field(default_factory=list)
    prompt_scores: list[TokenScore] = field(default_factory=list)
    num_cached_tokens: int = 0


def run(
    engine: Engine, requests: Iterable[EngineRequest], *, arrivals_per_step: int = 2, cancels: Any = lambda step: ()
) -> dict[int, Outcome]:
    waiting, number = list(requests), 0
    outcomes = {request.request_id: Outcome() for request in waiting}
    while waiting or engine.has_work:
        for request in waiting[:arrivals_per_step]:
            engine.submit(request)
        del waiting[:arrivals_per_step]
        for request_id in cancels(number):
            engine.cancel(request_id)
        result = engine.step()
        for started in result.started:
            outcomes[started.request_id].num_cached_tokens = started.num_cached_tokens
        for news in result.prompt_scores:
            outcomes[news.request_id].prompt_scores += news.scores
        for event in result.events:
            outcome = outcomes[event.request_id]
            outcome.tokens += [] if event.token_id is None else [event.token_id]
            outcome.scores += [event.score] if event.score else []
            outcome.reason = event.finish_reason
        engine.scheduler.check_integrity()
        number += 1
    return outcomes


def mixed_requests(count: int, *, scores: bool = True) -> list[EngineRequest]:
    prompts = random_prompts(count, 50, VOCABULARY_SIZE, seed=7)
    return [
        EngineRequest(
            request_id=id_,
            prompt_ids=tuple(prompt),
            max_new_tokens=1 + id_ % 13,
            min_new_tokens=id_ % 3,
            stop_token_ids=frozenset({0, 3}),
            sampling=SAMPLING[id_ % len(SAMPLING)],
            top_logprobs=2 if scores and id_ % 4 == 0 else None,
            prompt_top_logprobs=1 if scores and id_ % 5 == 0 else None,
        )
        for id_, prompt in enumerate(prompts)
    ]


def plain(runner: Any) -> ModelRunner:
    """The oracle: the same model over extents, row by row."""
    eager = runner.eager
    return ModelRunner(loaded=eager.loaded, vocabulary_size=eager.vocabulary_size, max_sequences=eager.max_sequences)


def assert_alike(actual: dict[int, Outcome], expected: dict[int, Outcome]) -> None:
    assert actual.keys() == expected.keys()
    for request_id, outcome in expected.items():
        got = actual[request_id]
        assert (got.tokens, got.reason) == (outcome.tokens, outcome.reason), request_id
        for one, other in zip(got.scores + got.prompt_scores, outcome.scores + outcome.prompt_scores, strict=True):
            assert (one.token_id, one.rank) == (other.token_id, other.rank)
            assert one.logprob == pytest.approx(other.logprob, abs=1e-4)


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "mistral", "gemma2", "gpt_oss"])
def test_greedy_equals_generate(load: Load, architecture: str, depth: int) -> None:
    model, recording = tiny_model(architecture), Recording()
    runner = load(model, capture=recording)
    prompts = [*random_prompts(13, 60, VOCABULARY_SIZE), random_prompts(1, 1, VOCABULARY_SIZE)[0] * 300]
    requests = [
        EngineRequest(request_id=id_, prompt_ids=tuple(prompt), max_new_tokens=3 + id_, stop_token_ids=END)
        for id_, prompt in enumerate(prompts)
    ]
    outcomes = run(make_engine(runner, depth=depth), requests)
    for request in requests:
        expected = generate_greedily(model, request.prompt_ids, request.max_new_tokens)
        actual = outcomes[request.request_id].tokens
        error = margin_where_they_part(model, request.prompt_ids, expected, actual)
        assert actual == expected or error < 1e-3, f"they part where the logits differ by {error}"
    assert runner.decoder.num_rows_by_graph == runner.decoder.num_rows > 0
    assert recording.num_replays > 0


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("max_sequences", [3, 32])
def test_it_gives_what_the_plain_runner_gives(load: Load, depth: int, max_sequences: int) -> None:
    runner, requests = load("llama", max_sequences=max_sequences), mixed_requests(40)
    expected = run(make_engine(plain(runner), depth=1, max_sequences=max_sequences), requests)
    actual = run(make_engine(runner, depth=depth, max_sequences=max_sequences, max_batch_tokens=40), requests)
    assert_alike(actual, expected)
    assert runner.decoder.num_rows_by_graph == runner.decoder.num_rows


def test_prompts_that_begin_alike_are_copied_on_the_device(load: Load) -> None:
    runner, preamble = load("llama"), random_prompts(1, 1, VOCABULARY_SIZE)[0] * 70
    requests = [
        EngineRequest(request_id=id_, prompt_ids=(*preamble, *prompt), max_new_tokens=12, sampling=SAMPLING[id_ % 3])
        for id_, prompt in enumerate(random_prompts(12, 30, VOCABULARY_SIZE, seed=5))
    ]
    actual = run(make_engine(runner, prefix_cache=True), requests, arrivals_per_step=1)
    assert_alike(actual, run(make_engine(plain(runner), depth=1), requests, arrivals_per_step=1))
    assert sum(outcome.num_cached_tokens for outcome in actual.values()) == 64 * 11


def test_samples_of_one_prompt_share_it(load: Load) -> None:
    runner, prompt = load("gpt2"), tuple(random_prompts(1, 40, VOCABULARY_SIZE, seed=9)[0] * 3)
    requests = [
        EngineRequest(
            request_id=id_,
            prompt_ids=prompt,
            max_new_tokens=9 + id_,
            sampling=SamplingParameters(temperature=1.0, seed=id_),
            group=1,
        )
        for id_ in range(6)
    ]
    assert_alike(run(make_engine(runner), requests), run(make_engine(plain(runner), depth=1), requests))


def test_requests_that_leave_early_disturb_nobody(load: Load) -> None:
    runner, requests = load("llama", max_sequences=4), mixed_requests(30, scores=False)
    expected = run(make_engine(plain(runner), depth=1, max_sequences=4), requests)
    choices = random.Random(3)
    cancelled = set(choices.sample(range(30), 12))
    plan = {choices.randrange(12): id_ for id_ in cancelled}
    actual = run(
        make_engine(runner, max_sequences=4, prefix_cache=True),
        requests,
        cancels=lambda step: [plan[step]] if step in plan else [],
    )
    left = set(plan.values())
    for request_id, outcome in expected.items():
        if request_id in left:
            assert outcome.tokens[: len(actual[request_id].tokens)] == actual[request_id].tokens
        else:
            assert actual[request_id].tokens == outcome.tokens


def test_a_row_that_is_not_finite_fails_alone_and_leaves_nothing_behind(load: Load) -> None:
    clean = tiny_model("llama")
    runner = load(clean)
    with torch.no_grad():
        runner.eager.loaded.model.model.embed_tokens.weight[7] = torch.nan
    bad = [EngineRequest(request_id=id_, prompt_ids=(7,) * 40, max_new_tokens=20) for id_ in range(3)]
    engine = make_engine(runner)
    outcomes = run(engine, [*bad, EngineRequest(request_id=9, prompt_ids=(5, 6), max_new_tokens=20)])
    assert [outcomes[id_].reason for id_ in range(3)] == [FinishReason.NOT_FINITE] * 3
    assert 7 not in outcomes[9].tokens
    assert outcomes[9].tokens == generate_greedily(clean, [5, 6], 20)
    again = run(engine, [EngineRequest(request_id=10, prompt_ids=tuple(range(10, 40)), max_new_tokens=20)])
    assert again[10].tokens == generate_greedily(clean, list(range(10, 40)), 20)


def test_a_row_that_turns_bad_while_it_decodes_fails_alone(load: Load) -> None:
    runner = load("llama")
    engine = make_engine(runner)
    for id_ in range(2):
        engine.submit(EngineRequest(request_id=id_, prompt_ids=(5 + id_, 6), max_new_tokens=20))
    for _ in range(4):
        engine.step()
    cache = runner.decoder.cache
    block = int(cache.tables_LB[runner.decoder._expected.slots[0], 0])
    cache.layers[0].values[block] = torch.nan
    outcomes = [event for _ in range(20) for event in engine.step().events]
    reasons = {event.request_id: event.finish_reason for event in outcomes if event.finish_reason}
    assert reasons == {0: FinishReason.NOT_FINITE, 1: FinishReason.LENGTH}


def test_a_model_that_cannot_be_captured_is_run_without_graphs(load: Load, caplog: pytest.LogCaptureFixture) -> None:
    def refuse(work: Callable[[], None]) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")

    runner, requests = load("llama", capture=refuse), mixed_requests(20)
    assert "no CUDA graph can be made of this model" in caplog.text
    assert_alike(run(make_engine(runner), requests), run(make_engine(plain(runner), depth=1), requests))
    assert runner.decoder.num_rows > runner.decoder.num_rows_by_graph == 0


def test_no_memory_for_graphs_is_told(load: Load) -> None:
    def exhaust(work: Callable[[], None]) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        load("llama", capture=exhaust)


def test_a_step_of_the_same_rows_uploads_nothing(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, uploads = make_engine(load("llama")), list[Any]()
    for id_ in range(5):
        sampling = SamplingParameters(temperature=id_ / 4, seed=id_)
        engine.submit(
            EngineRequest(request_id=id_, prompt_ids=(5 + id_, 6), max_new_tokens=30 + id_, sampling=sampling)
        )
    for _ in range(4):
        engine.step()
    monkeypatch.setattr(decoder, "to_device", lambda *args: uploads.append(args))
    for _ in range(20):
        assert engine.step().stats.batch_rows == 5
    assert not uploads


def test_a_slot_with_another_request_at_the_expected_place_is_noticed(load: Load) -> None:
    """The first ends, and the prompt of the next one in its slot is as long as the first would be now."""
    runner = load("llama", max_sequences=1)
    first = EngineRequest(request_id=0, prompt_ids=(5, 6), max_new_tokens=3)
    others = [
        EngineRequest(
            request_id=length,
            prompt_ids=tuple(range(9, 9 + length)),
            max_new_tokens=5,
            sampling=SamplingParameters(temperature=2.0, seed=length),
        )
        for length in range(2, 8)
    ]
    for other in others:
        expected = run(make_engine(plain(runner), depth=1, max_sequences=1), [first, other])
        assert_alike(run(make_engine(runner, max_sequences=1), [first, other]), expected)
