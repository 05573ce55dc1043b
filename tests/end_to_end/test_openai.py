"""Over HTTP as over gRPC: a real server answers OpenAI's own client, also while the champion moves."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI
from rhapsode_client import AsyncClient
from support.publishing import publish_tiny
from support.servers import ServerProcess, running_server

NUM_CALLS = 32
PROMPTS = ("the sea", "no star is", "and she sang of", "the long evenings")


@dataclass(frozen=True)
class Served:
    process: ServerProcess
    root: Path

    @property
    def url(self) -> str:
        found = re.search(r"OpenAI on (http://\S+/v1)", self.process.output)
        assert found
        return found[1]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("served")
    publish_tiny(root, "poems", seed=1)
    flags = ("--openai-address", "127.0.0.1:0", "--threads", "1", "--log-format", "text")
    with running_server(root, *flags) as process:
        process.wait_serving()
        yield Served(process, root)
        process.terminate()
        assert process.wait() == 0, process.output
        assert "Traceback" not in process.output


@pytest.fixture
async def openai(served: Served) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=served.url, api_key="none", max_retries=0, timeout=60) as client:
        yield client


async def test_both_ways_give_the_same_text(served: Served, openai: AsyncOpenAI) -> None:
    async with AsyncClient(served.process.address, timeout=60) as client:
        expected = await client.generate("the sea", max_new_tokens=24, temperature=0.9, seed=7)
    whole = await openai.completions.create(model="poems", prompt="the sea", max_tokens=24, temperature=0.9, seed=7)
    stream = await openai.completions.create(
        model="poems@1", prompt="the sea", max_tokens=24, temperature=0.9, seed=7, stream=True
    )
    streamed = "".join([chunk.choices[0].text async for chunk in stream])
    assert whole.choices[0].text == streamed == expected.text


async def test_32_streams_at_once_get_what_each_would_get_alone(openai: AsyncOpenAI) -> None:
    async def text(number: int, *, streams: bool) -> str:
        prompt = PROMPTS[number % len(PROMPTS)]
        asked = {"model": "poems", "prompt": prompt, "max_tokens": 32, "temperature": 0.7, "seed": number % 8}
        if not streams:
            return (await openai.completions.create(**asked)).choices[0].text
        return "".join([chunk.choices[0].text async for chunk in await openai.completions.create(**asked, stream=True)])

    alone = [await text(number, streams=False) for number in range(8)]
    together = await asyncio.gather(*(text(number, streams=True) for number in range(NUM_CALLS)))
    assert together == [alone[number % 8] for number in range(NUM_CALLS)]


async def test_log_probabilities_of_a_text(openai: AsyncOpenAI) -> None:
    """As evaluation harnesses measure perplexity: the prompt with its echo, and nothing generated."""
    answer = await openai.completions.create(model="poems", prompt=PROMPTS[0], max_tokens=0, echo=True, logprobs=1)
    found = answer.choices[0].logprobs
    assert found is not None
    assert found.tokens is not None
    assert found.token_logprobs is not None
    assert answer.choices[0].text == "".join(found.tokens) == PROMPTS[0]
    assert found.token_logprobs[0] is None
    assert all(each < 0 for each in found.token_logprobs[1:])


async def test_a_stream_that_is_left_frees_the_engine(served: Served, openai: AsyncOpenAI) -> None:
    stream = await openai.completions.create(model="poems", prompt="the sea", max_tokens=1000, stream=True)
    async with stream as chunks:
        await anext(chunks)
    deadline = time.monotonic() + 20
    while served.process.metric("rhapsode_calls_total", method="completions", outcome="cancelled") == 0:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_a_swap_under_streams_drops_and_mixes_none(served: Served, openai: AsyncOpenAI) -> None:
    """The last of this file: afterwards another version is the champion."""
    asked: dict[str, Any] = {
        "prompt": "the sea",
        "max_tokens": 120,
        "temperature": 0,
        "extra_body": {"ignore_eos": True},
    }
    answers: set[tuple[str, str]] = set()
    swapped = asyncio.Event()

    async def call_until_swapped() -> None:
        while not swapped.is_set():
            stream = await openai.completions.create(model="poems", **asked, stream=True)
            chunks = [chunk async for chunk in stream]
            assert len({chunk.model for chunk in chunks}) == 1
            assert chunks[-1].choices[0].finish_reason == "length"
            answers.add((chunks[0].model, "".join(chunk.choices[0].text for chunk in chunks)))
            if chunks[0].model == "poems@2":
                swapped.set()

    await asyncio.to_thread(publish_tiny, served.root, "poems", seed=2)
    # Until then it only loads, at the lowest priority: streams would keep it from that.
    await asyncio.to_thread(served.process.wait_log, "poems version 2: warming")
    async with asyncio.timeout(60), asyncio.TaskGroup() as callers:
        for _ in range(8):
            callers.create_task(call_until_swapped())
    whole = {f"poems@{number}": await openai.completions.create(model=f"poems@{number}", **asked) for number in (1, 2)}
    texts = {model: answer.choices[0].text for model, answer in whole.items()}
    assert texts["poems@1"] != texts["poems@2"]
    assert answers <= set(texts.items())
    assert swapped.is_set()
