"""One seed, one completion: alone, beside others, and with its prompt computed in pieces.

Forwards of different sizes round differently, so tokens may differ where the two best sums of logit and noise are as
near as that: at most one in 10,000, by a margin that is printed.
"""

import os
from typing import Any

import pytest
import torch
from rhapsode_server.engine.attention import ATTENTION
from rhapsode_server.engine.engine import Engine
from rhapsode_server.engine.noise import gumbel, row_keys
from rhapsode_server.engine.request import EngineRequest, SamplingParameters
from support.reference import random_prompts
from support.tiny_models import VOCABULARY_SIZE, tiny_model
from transformers import PreTrainedModel

from .conftest import make_engine

FUZZ = os.environ.get("RHAPSODE_FUZZ") == "1"
NUM_REQUESTS, NEW_TOKENS = 32, 900 if FUZZ else 320
# One at a time is slow: a part of them, and all in the long profile.
NUM_ALONE = NUM_REQUESTS if FUZZ else 8
ARCHITECTURES = ["gpt2", "llama", "qwen3"] if FUZZ else ["gpt2"]
LARGEST_MARGIN, LARGEST_SHARE = 1e-3, 1e-4


def lively(architecture: str) -> PreTrainedModel:
    """With a larger output layer of its own, so that distributions are as uneven as a trained model's."""
    model = tiny_model(architecture)
    head = model.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.detach() * 4)
    model.config.tie_word_embeddings = False
    return model


def requests() -> list[EngineRequest]:
    prompts = random_prompts(NUM_REQUESTS, 60, VOCABULARY_SIZE)
    return [
        EngineRequest(
            request_id=id_,
            prompt_ids=tuple(prompt),
            max_new_tokens=NEW_TOKENS,
            sampling=SamplingParameters(temperature=1.0, seed=2**63 + 977 * id_),
        )
        for id_, prompt in enumerate(prompts)
    ]


def run(engine: Engine, requests: list[EngineRequest]) -> dict[int, list[int]]:
    tokens: dict[int, list[int]] = {request.request_id: [] for request in requests}
    for request in requests:
        engine.submit(request)
    while engine.has_work:
        for event in engine.step().events:
            if event.token_id is not None:
                tokens[event.request_id].append(event.token_id)
    return tokens


def margin(model: PreTrainedModel, request: EngineRequest, before: list[int], a: int, b: int) -> float:
    """How far apart the sums of two tokens are after these."""
    ids = [*request.prompt_ids, *before]
    with torch.inference_mode():
        logits_V = model(torch.tensor([ids])).logits[0, -1].double()
    keys = torch.tensor([row_keys(request.sampling.seed, len(ids))], dtype=torch.int32)
    noise_a, noise_b = gumbel(torch.tensor([a, b], dtype=torch.int32), keys)[0].tolist()
    return abs(float(logits_V[a] + noise_a - logits_V[b] - noise_b))


def count_differences(
    model: PreTrainedModel, requests: list[EngineRequest], a: dict[int, list[int]], b: dict[int, list[int]]
) -> int:
    """The number of completions that part, each of which must do so by less than LARGEST_MARGIN."""
    count = 0
    for request in requests:
        pairs = list(zip(a[request.request_id], b[request.request_id], strict=True))
        at = next((place for place, (x, y) in enumerate(pairs) if x != y), None)
        if at is not None:
            gap = margin(model, request, a[request.request_id][:at], *pairs[at])
            print(f"request {request.request_id} parts at token {at} of {len(pairs)} by {gap:.2e}")
            assert gap < LARGEST_MARGIN
            count += 1
    return count


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_same_tokens_alone_in_a_batch_and_chunked(load: Any, architecture: str) -> None:
    model = lively(architecture)
    runner = load(model, max_sequences=NUM_REQUESTS)
    runner.loaded.model.set_attn_implementation(ATTENTION)
    all_requests = requests()
    alone: dict[int, list[int]] = {}
    for request in all_requests[:NUM_ALONE]:
        alone |= run(make_engine(runner), [request])
    batched = run(make_engine(runner, max_batch_tokens=4096), all_requests)
    chunked = run(make_engine(runner, max_batch_tokens=40, depth=2), all_requests)
    assert all(len(set(tokens)) > 30 for tokens in batched.values())
    parted = count_differences(model, all_requests[:NUM_ALONE], batched, alone)
    parted += count_differences(model, all_requests, batched, chunked)
    assert parted <= LARGEST_SHARE * (NUM_ALONE + NUM_REQUESTS) * NEW_TOKENS
