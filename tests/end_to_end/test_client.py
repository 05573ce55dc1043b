"""The clients' calls, against a server: log-probabilities, scores, batches and many prompts."""

import math
from contextlib import aclosing

import pytest
from rhapsode_client import AsyncClient, BatchItem, Client, Completion, InvalidRequest

PROMPT = [5, 6, 7]


async def test_a_score_is_the_log_probabilities_of_the_same_tokens(client: AsyncClient) -> None:
    completion = await client.generate(PROMPT, max_new_tokens=6, token_ids=True, logprobs=True, prompt_logprobs=True)
    score = await client.score([*PROMPT, *completion.token_ids], top_logprobs=2)
    told = [each.logprob for each in (*completion.prompt_logprobs, *completion.logprobs)]
    assert [each.logprob for each in score.tokens][1:] == pytest.approx(told[1:], abs=1e-4)
    assert (score.tokens[0].logprob, score.tokens[0].rank) == (None, 0)
    scored = [each.logprob for each in score.tokens if each.logprob is not None]
    assert score.sum_logprob == pytest.approx(sum(scored), abs=1e-4)
    assert score.perplexity == pytest.approx(math.exp(-sum(scored) / len(scored)), rel=1e-4)
    assert all(len(each.candidates) == 2 for each in score.tokens[1:])


async def test_a_stream_tells_the_same_as_the_whole(client: AsyncClient) -> None:
    asked = {"max_new_tokens": 6, "seed": 3, "temperature": 1.0, "logprobs": True, "top_logprobs": 2}
    whole = await client.generate(PROMPT, **asked)
    async with client.stream(PROMPT, **asked) as stream:
        deltas = [delta async for delta in stream]
        completion = await stream.result()
    assert completion.logprobs == tuple(each for delta in deltas for each in delta.logprobs)
    assert [each.token_id for each in completion.logprobs] == [each.token_id for each in whole.logprobs]


async def test_a_batch_is_its_calls(client: AsyncClient) -> None:
    options = {"max_new_tokens": 5, "temperature": 1.0, "seed": 11}
    items = [BatchItem(PROMPT, options, num_completions=2), BatchItem(PROMPT, {"top_p": 7.0})]
    async with client.generate_batch(items) as batch:
        results = {(each.item, each.completion): each.result async for each in batch}
    for index in range(2):
        alone = await client.generate(PROMPT, **{**options, "seed": 11 + index})
        assert str(results[0, index]) == alone.text
    assert isinstance(results[1, 0], InvalidRequest)
    assert results[1, 0].violations[0].field == "sampling.top_p"


async def test_many_prompts(client: AsyncClient, serving) -> None:
    prompts = [[number] for number in range(1, 13)]
    asked = {"max_new_tokens": 4, "seed": 2, "temperature": 1.0, "timeout": 60}
    async with aclosing(client.generate_many(prompts, concurrency=5, **asked)) as completions:
        texts = [each.text async for each in completions]
    with Client(serving.address) as blocking:
        several = list(blocking.generate_many(prompts, concurrency=5, return_errors=True, **asked))
        alone = [blocking.generate(prompt, **asked).text for prompt in prompts[:3]]
    assert all(isinstance(each, Completion) for each in several)
    assert [str(each) for each in several] == texts
    assert texts[:3] == alone


async def test_a_form(client: AsyncClient) -> None:
    completion = await client.generate(PROMPT, choices=["yes", "no"], temperature=1.0, seed=1)
    assert completion.text in ("yes", "no")
