"""With the KV of others a request gets what it would get alone: greedy, on real models."""

from typing import Any

import pytest
from rhapsode_server.engine.attention import ATTENTION
from rhapsode_server.engine.engine import Engine
from rhapsode_server.engine.request import EngineRequest, SamplingParameters
from support.reference import margin_where_they_part, random_prompts
from support.tiny_models import VOCABULARY_SIZE, tiny_model

from .conftest import make_engine


def run(engine: Engine, requests: list[EngineRequest], *, steps_between: int) -> tuple[dict[int, list[int]], int]:
    """Tokens by request, and how many tokens of prompts were taken over. One request comes after so many steps."""
    tokens: dict[int, list[int]] = {request.request_id: [] for request in requests}
    waiting, num_cached, num_steps = list(requests), 0, 0
    while waiting or engine.has_work:
        if waiting and num_steps % steps_between == 0:
            engine.submit(waiting.pop(0))
        result, num_steps = engine.step(), num_steps + 1
        num_cached += result.stats.cached_tokens
        for event in result.events:
            if event.token_id is not None:
                tokens[event.request_id].append(event.token_id)
        engine.scheduler.check_integrity()
    assert engine.scheduler.pool.num_used == 0
    return tokens, num_cached


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "mistral"])
def test_reuse_changes_no_token(load: Any, architecture: str, depth: int) -> None:
    model = tiny_model(architecture)
    runner = load(model, max_sequences=8)
    runner.loaded.model.set_attn_implementation(ATTENTION)
    preambles = random_prompts(3, 50, VOCABULARY_SIZE, seed=1)
    preambles = [[*preamble, *range(3, 50)] for preamble in preambles]
    asked = [
        EngineRequest(
            request_id=id_,
            prompt_ids=(*preambles[id_ % 3], *rest),
            max_new_tokens=2 + id_ % 4,
            sampling=SamplingParameters(temperature=id_ % 2, seed=id_),
        )
        for id_, rest in enumerate(random_prompts(12, 20, VOCABULARY_SIZE, seed=2))
    ]
    alone, none = run(make_engine(runner, depth=depth), asked, steps_between=6)
    assert none == 0
    for steps_between in (1, 6):
        engine = make_engine(runner, depth=depth, prefix_cache=True, num_blocks=60, step_overhead=10)
        tokens, num_cached = run(engine, asked, steps_between=steps_between)
        assert num_cached >= 9 * 48, "all but the first of each preamble"
        for one in asked:
            expected, actual = alone[one.request_id], tokens[one.request_id]
            error = margin_where_they_part(model, one.prompt_ids, expected, actual)
            assert actual == expected or (one.sampling.temperature == 0 and error < 1e-3)


@pytest.mark.parametrize("depth", [1, 2])
def test_a_dialogue_goes_on_where_it_was(load: Any, depth: int) -> None:
    model = tiny_model("gpt2")
    runner = load(model, max_sequences=8)
    runner.loaded.model.set_attn_implementation(ATTENTION)
    plain, turns, dialogue = make_engine(runner, depth=depth), list[EngineRequest](), tuple(range(3, 40))
    for turn in range(4):
        turns.append(EngineRequest(request_id=turn, prompt_ids=dialogue, max_new_tokens=30))
        tokens, _ = run(plain, turns[-1:], steps_between=1)
        dialogue = (*dialogue, *tokens[turn], turn, turn)
    engine = make_engine(runner, depth=depth, prefix_cache=True)
    for asked, after in zip(turns, [*(turn.prompt_ids for turn in turns[1:]), dialogue], strict=True):
        tokens, num_cached = run(engine, [asked], steps_between=1)
        assert (*asked.prompt_ids, *tokens[asked.request_id]) == after[:-2]
        # Of the last answer all but its last token, which was never computed, in full blocks.
        assert num_cached == (0 if asked is turns[0] else (len(asked.prompt_ids) - 3) // 16 * 16)
