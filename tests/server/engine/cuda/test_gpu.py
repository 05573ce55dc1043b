"""On a CUDA device: the same as on the CPU, and what only a device can show. Skipped where there is none."""

from typing import Any

import pytest
import torch
from rhapsode_server.engine.cuda import operators, reference
from rhapsode_server.engine.cuda.graphs import CudaGraphs
from rhapsode_server.engine.cuda.runner import CudaRunner
from rhapsode_server.engine.first_answer import answer_once
from rhapsode_server.engine.request import EngineRequest, SamplingParameters
from support.paged_cases import CASES, Case
from support.reference import generate_greedily, random_prompts
from support.tiny_models import VOCABULARY_SIZE, tiny_model

from .conftest import Load, make_engine
from .test_runner import assert_alike, mixed_requests, plain, run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here"),
]

ARCHITECTURES = ["gpt2", "llama", "mistral", "gemma2"]


def on_cuda(load: Load, model: Any, **settings: Any) -> CudaRunner:
    return load(model, device="cuda", capture=CudaGraphs(torch.device("cuda:0")), **settings)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_attention_is_that_of_a_row_alone(name: str, dtype: torch.dtype) -> None:
    settings = {field: getattr(CASES[name], field) for field in Case.__slots__} | {"dtype": dtype, "device": "cuda"}
    Case(**settings).check(operators.paged_decode, 1e-4 if dtype == torch.float32 else 0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_draw_equals_its_torch_form(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(256, 50257, generator=generator) * 4).to("cuda", dtype)
    seeds = torch.randint(-(1 << 63), (1 << 63) - 1, (256,), generator=generator)
    temperatures = torch.tensor([0.0, 0.3, 1.0, 2.0] * 64, dtype=torch.float64)
    row = (seeds, torch.arange(256), temperatures)
    on_device = operators.draw(logits, *(each.cuda() for each in row)).cpu()
    on_host = reference.draw(logits.cpu(), *row)
    assert (on_device != on_host).sum() <= 1, "but for a near-tie, which the logarithms of two libraries may part"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_equals_generate(load: Load, architecture: str) -> None:
    model = tiny_model(architecture)
    runner = on_cuda(load, model)
    prompts = random_prompts(13, 60, VOCABULARY_SIZE)
    requests = [
        EngineRequest(request_id=id_, prompt_ids=tuple(prompt), max_new_tokens=3 + id_, stop_token_ids=frozenset({0}))
        for id_, prompt in enumerate(prompts)
    ]
    outcomes = run(make_engine(runner), requests)
    for request in requests:
        assert outcomes[request.request_id].tokens == generate_greedily(
            model, request.prompt_ids, request.max_new_tokens
        )
    assert runner.decoder.num_rows_by_graph == runner.decoder.num_rows > 0


def test_the_first_request_of_an_engine_is_answered(load: Load) -> None:
    answer_once(make_engine(on_cuda(load, "llama")), VOCABULARY_SIZE)


@pytest.mark.parametrize("depth", [1, 2])
def test_it_gives_what_the_plain_runner_gives(load: Load, depth: int) -> None:
    runner, requests = on_cuda(load, "llama"), mixed_requests(40)
    expected = run(make_engine(plain(runner), depth=1), requests)
    assert_alike(run(make_engine(runner, depth=depth, prefix_cache=True), requests), expected)
    assert runner.decoder.num_rows_by_graph == runner.decoder.num_rows


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_graph_gives_what_the_same_step_gives_without(load: Load, architecture: str, dtype: torch.dtype) -> None:
    runner = on_cuda(load, architecture, dtype=dtype)
    requests = mixed_requests(12, scores=False)
    by_graph = run(make_engine(runner), requests)
    runner.decoder._graphs.clear()
    without = run(make_engine(runner), requests)
    assert {id_: outcome.tokens for id_, outcome in by_graph.items()} == {
        id_: outcome.tokens for id_, outcome in without.items()
    }


def test_a_steady_step_never_waits_for_the_device(load: Load) -> None:
    runner = on_cuda(load, "llama")
    engine = make_engine(runner)
    for id_ in range(5):
        sampling = SamplingParameters(temperature=id_ / 4, seed=id_)
        engine.submit(
            EngineRequest(request_id=id_, prompt_ids=(5 + id_, 6), max_new_tokens=40 + id_, sampling=sampling)
        )
    for _ in range(4):
        engine.step()
    for _ in range(10):
        batch = engine.scheduler.schedule()
        torch.cuda.set_sync_debug_mode("error")
        try:
            pending = runner.execute(batch)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        engine._in_flight.append((batch, pending))
        engine._complete_oldest()
