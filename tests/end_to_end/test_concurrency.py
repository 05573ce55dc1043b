"""Many streams at once: each gets what it would get alone, and they really run together."""

import asyncio
import random
import time
from dataclasses import dataclass, field

import pytest
from rhapsode_client import AsyncClient
from support.reference import generate_greedily, margin_where_they_part, random_prompts
from support.tiny_models import VOCABULARY_SIZE

from .conftest import Serving

NUM_STREAMS = 64


@dataclass
class Record:
    token_ids: list[int] = field(default_factory=list)
    first_token_at: float = 0.0
    ended_at: float = 0.0


async def record_stream(client: AsyncClient, model: str, prompt: list[int], max_new_tokens: int) -> Record:
    record = Record()
    async with client.stream(
        prompt, model=model, max_new_tokens=max_new_tokens, temperature=0, token_ids=True
    ) as stream:
        async for delta in stream:
            record.first_token_at = record.first_token_at or time.monotonic()
            record.token_ids += delta.token_ids
    record.ended_at = time.monotonic()
    return record


@pytest.mark.parametrize("model", ["gpt2", pytest.param("llama", marks=pytest.mark.slow)])
async def test_64_staggered_streams_equal_generate_and_run_together(
    serving: Serving, client: AsyncClient, model: str
) -> None:
    rng = random.Random(5)
    prompts = random_prompts(NUM_STREAMS, 90, VOCABULARY_SIZE, seed=11)
    # The first stream is long, so that it is still there when the 17th comes.
    lengths = [250, *(rng.randint(20, 80) for _ in prompts[1:])]
    forwards_before = serving.process.metric("rhapsode_model_forwards_total", model=model)
    wide_before = steps_wider_than_32(serving, model)
    streams = []
    for prompt, length in zip(prompts, lengths, strict=True):
        streams.append(asyncio.create_task(record_stream(client, model, prompt, length)))
        await asyncio.sleep(rng.uniform(0, 0.003))  # arrivals are staggered
    records = await asyncio.gather(*streams)

    for prompt, length, record in zip(prompts, lengths, records, strict=True):
        expected = generate_greedily(serving.models[model], prompt, length)
        margin = margin_where_they_part(serving.models[model], prompt, expected, record.token_ids)
        assert record.token_ids == expected or margin < 1e-3, f"they part where the logits differ by {margin}"
    assert records[16].first_token_at < records[0].ended_at
    forwards = serving.process.metric("rhapsode_model_forwards_total", model=model) - forwards_before
    longest = max(len(record.token_ids) for record in records)
    # One after the other takes a forward for each token. Together, the longest stream sets the number; each arrival
    # delays it by a step at most.
    assert forwards <= longest + NUM_STREAMS
    assert steps_wider_than_32(serving, model) > wide_before


def steps_wider_than_32(serving: Serving, model: str) -> float:
    metric = serving.process.metric
    return metric("rhapsode_batch_size_count", model=model) - metric(
        "rhapsode_batch_size_bucket", model=model, le="32.0"
    )


async def test_the_same_seed_gives_the_same_text_alone_and_among_32(client: AsyncClient) -> None:
    async def generate(seed: int) -> str:
        completion = await client.generate("the sea", model="llama", seed=seed, temperature=1.0, max_new_tokens=40)
        return completion.text

    alone = [await generate(seed) for seed in range(4)]
    together = await asyncio.gather(*(generate(seed) for seed in range(32)))
    assert together[:4] == alone
    assert len(set(together)) > 28


async def test_a_seed_is_drawn_and_returned(client: AsyncClient) -> None:
    first = await client.generate("the sea", temperature=1.0, max_new_tokens=30)
    again = await client.generate("the sea", temperature=1.0, max_new_tokens=30, seed=first.seed)
    assert again.text == first.text
    other = await client.generate("the sea", temperature=1.0, max_new_tokens=30)
    assert other.seed != first.seed
