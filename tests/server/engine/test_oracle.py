"""The whole engine against `model.generate` alone: same tokens, whatever runs beside, however a prompt is cut."""

from typing import Any

import pytest
import torch
from rhapsode_server.engine.attention import ATTENTION
from rhapsode_server.engine.cpu_attention import cpu_attention
from rhapsode_server.engine.engine import Engine
from rhapsode_server.engine.request import EngineRequest, FinishReason, SamplingParameters
from rhapsode_server.engine.row_attention import RowBatch
from support.reference import generate_greedily, margin_where_they_part, random_prompts
from support.tiny_models import VOCABULARY_SIZE, tiny_model

from .conftest import make_engine

END = frozenset({0})


def run(engine: Engine, requests: list[EngineRequest], *, arrivals_per_step: int) -> dict[int, list[int]]:
    tokens: dict[int, list[int]] = {request.request_id: [] for request in requests}
    waiting = list(requests)
    while waiting or engine.has_work:
        for request in waiting[:arrivals_per_step]:
            engine.submit(request)
        del waiting[:arrivals_per_step]
        for event in engine.step().events:
            assert event.finish_reason is not FinishReason.NOT_FINITE
            if event.token_id is not None:
                tokens[event.request_id].append(event.token_id)
        engine.scheduler.check_integrity()
    assert engine.scheduler.pool.num_used == 0
    return tokens


@pytest.mark.parametrize("architecture", ["longrope", "chunked"])
def test_a_long_neighbour_does_not_change_what_depends_on_length(load: Any, architecture: str) -> None:
    """Both within the context that the loader grants; transformers would look at the longest of the batch."""
    model = tiny_model(architecture)
    runner = load(model)
    runner.loaded.model.set_attn_implementation(ATTENTION)
    prompts = [[5, 6, 7], [9] * 40, [11] * 20]
    requests = [
        EngineRequest(request_id=id_, prompt_ids=tuple(prompt), max_new_tokens=24, stop_token_ids=END)
        for id_, prompt in enumerate(prompts)
    ]
    tokens = run(make_engine(runner), requests, arrivals_per_step=3)
    assert tokens == {id_: generate_greedily(model, prompt, 24) for id_, prompt in enumerate(prompts)}


@pytest.mark.parametrize("attention", [RowBatch, cpu_attention(torch.float32)])
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "mistral", "gemma2", "gpt_oss"])
def test_greedy_equals_generate(load: Any, architecture: str, depth: int, attention: Any) -> None:
    model = tiny_model(architecture)
    runner = load(model, attention=attention)
    runner.loaded.model.set_attn_implementation(ATTENTION)
    prompts = [*random_prompts(23, 60, VOCABULARY_SIZE), random_prompts(1, 1, VOCABULARY_SIZE)[0] * 300]
    requests = [
        EngineRequest(request_id=id_, prompt_ids=tuple(prompt), max_new_tokens=3 + id_, stop_token_ids=END)
        for id_, prompt in enumerate(prompts)
    ]
    tokens = run(make_engine(runner, depth=depth), requests, arrivals_per_step=2)
    for request in requests:
        expected = generate_greedily(model, request.prompt_ids, request.max_new_tokens)
        actual = tokens[request.request_id]
        error = margin_where_they_part(model, request.prompt_ids, expected, actual)
        assert actual == expected or error < 1e-3, f"they part where the logits differ by {error}"


def test_the_same_seed_draws_the_same_tokens_alone_in_a_batch_and_in_chunks(load: Any) -> None:
    runner = load("llama")
    runner.loaded.model.set_attn_implementation(ATTENTION)
    prompts = random_prompts(32, 100, VOCABULARY_SIZE, seed=3)
    requests = [
        EngineRequest(
            request_id=id_,
            prompt_ids=tuple(prompt),
            max_new_tokens=40,
            sampling=SamplingParameters(
                temperature=1.0, top_k=(0, 20)[id_ % 2], top_p=(1.0, 0.9)[id_ // 2 % 2], seed=id_
            ),
        )
        for id_, prompt in enumerate(prompts)
    ]
    together = run(make_engine(runner, max_batch_tokens=4000), requests, arrivals_per_step=32)
    chunked = run(make_engine(runner, max_batch_tokens=70), requests, arrivals_per_step=5)
    alone = {r.request_id: run(make_engine(runner), [r], arrivals_per_step=1)[r.request_id] for r in requests}
    assert together == alone
    assert chunked == alone
    assert len({tuple(tokens) for tokens in alone.values()}) == 32, "the seeds matter"
