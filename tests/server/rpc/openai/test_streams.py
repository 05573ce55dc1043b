"""Streams of server-sent events: what they hold, and how they end before their end."""

import asyncio
import json
from contextlib import aclosing
from typing import Any

import pytest
from openai import APIError, AsyncOpenAI
from rhapsode_server.engine.request import FinishReason
from rhapsode_server.errors import WorkerLost
from rhapsode_server.metrics import Metrics
from rhapsode_server.rpc.server import Server
from support.fake_models import PATIENCE, FakeEngine, FakeModels, Submitted
from support.http1 import connected, posted

ASKED = {"model": "poems", "prompt": "Sing", "stream": True}


def calls(metrics: Metrics, outcome: str) -> float | None:
    return metrics.registry.get_sample_value("rhapsode_calls_total", {"method": "completions", "outcome": outcome})


async def test_text_comes_as_it_is_generated(openai: AsyncOpenAI, engine: FakeEngine) -> None:
    stream = asyncio.create_task(openai.completions.create(model="poems", prompt="Sing", stream=True))
    request = await engine.arrival()
    request.says("the ")
    async with await stream as chunks:
        assert (await anext(chunks)).choices[0].text == "the "
        request.says("sea", FinishReason.LENGTH)
        rest = [chunk.choices[0] async for chunk in chunks]
    assert "".join(choice.text for choice in rest) == "sea"
    assert rest[-1].finish_reason == "length"
    assert rest[-1].model_extra == {"seed": request.sampling.seed}


async def test_the_bytes_of_a_stream(server: Server, engine: FakeEngine) -> None:
    engine.will_say("é")
    body = {**ASKED, "stream_options": {"include_usage": True}}
    async with asyncio.timeout(PATIENCE), connected(str(server.openai_address)) as connection:
        answer = await connection.ask(posted("/v1/completions", body, "X-Request-Id: r-7", "Connection: close"))
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-request-id"] == "r-7"
    events = [line.removeprefix(b"data: ") for line in answer.body.split(b"\r\n") if line.startswith(b"data: ")]
    *chunks, usage = [json.loads(event) for event in events[:-1]]
    assert events[-1].strip() == b"[DONE]"
    assert all(chunk["id"] == "cmpl-r-7" and chunk["usage"] is None for chunk in chunks)
    assert usage["choices"] == []
    assert usage["usage"]["total_tokens"] == 6
    assert "é".encode() in answer.body


async def test_completions_of_one_stream_are_told_apart(openai: AsyncOpenAI, engine: FakeEngine) -> None:
    engine.script = lambda request: request.says(f"{request.sampling.seed}", FinishReason.LENGTH)
    texts = dict.fromkeys(range(4), "")
    stream = await openai.completions.create(
        model="poems", prompt=["a", "b"], n=2, seed=20, stream=True, stream_options={"include_usage": True}
    )
    async for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] += choice.text
        usage = chunk.usage
    assert texts == {0: "20", 1: "21", 2: "20", 3: "21"}
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (2, 8)


async def test_a_stream_stays_with_its_version_while_another_takes_over(
    openai: AsyncOpenAI, engine: FakeEngine, models: FakeModels
) -> None:
    asked: dict[str, Any] = {"model": "poems", "prompt": "Sing", "stream": True}
    stream = asyncio.create_task(openai.completions.create(**asked))
    request = await engine.arrival()
    request.says("the ")
    async with await stream as chunks:
        before = await anext(chunks)
        models.change(version=4)
        engine.will_say("stars")
        after = [chunk async for chunk in await openai.completions.create(**asked)]
        request.says("sea", FinishReason.LENGTH)
        rest = [chunk async for chunk in chunks]
    assert {chunk.model for chunk in after} == {"poems@4"}
    assert {chunk.model for chunk in (before, *rest)} == {"poems@3"}
    assert "".join(chunk.choices[0].text for chunk in (before, *rest)) == "the sea"


@pytest.mark.parametrize("num_completions", [1, 3])
@pytest.mark.parametrize("streams", [True, False])
async def test_who_hangs_up_frees_what_the_call_held(
    openai: AsyncOpenAI, engine: FakeEngine, server: Server, metrics: Metrics, streams: bool, num_completions: int
) -> None:
    call = asyncio.create_task(
        openai.completions.create(model="poems", prompt="Sing", n=num_completions, stream=streams)
    )
    requests = [await engine.arrival() for _ in range(num_completions)]
    if streams:
        requests[0].says("the")
        async with await call as chunks, aclosing(chunks._iterator):
            await anext(chunks)
    else:
        call.cancel()
    async with asyncio.timeout(PATIENCE):
        for request in requests:
            await request.closed.wait()
        await server.rotation.calls_finished()
    assert calls(metrics, "cancelled") == 1
    assert engine.num_holds == 0


async def test_a_reader_that_stops_reading_and_leaves(engine: FakeEngine, server: Server, metrics: Metrics) -> None:
    async with connected(str(server.openai_address), limit=2**10) as connection:
        await connection.send(posted("/v1/completions", ASKED))
        request = await engine.arrival()
        for _ in range(20):
            request.says("the sea and the stars " * 1000)
            await asyncio.sleep(0)
        assert not request.closed.is_set()
    async with asyncio.timeout(PATIENCE):
        await request.closed.wait()
        await server.rotation.calls_finished()
    assert calls(metrics, "cancelled") == 1


@pytest.mark.parametrize("num_completions", [1, 2])
async def test_a_stream_that_fails_says_so_and_is_not_done(
    openai: AsyncOpenAI, engine: FakeEngine, models: FakeModels, metrics: Metrics, num_completions: int
) -> None:
    def fail(request: Submitted) -> None:
        request.says("the")
        asyncio.get_running_loop().call_soon(request.stream.fail, WorkerLost("the engine process ended"))

    engine.script = fail
    stream = await openai.completions.create(model="poems", prompt="Sing", n=num_completions, stream=True)
    with pytest.raises(APIError, match="the engine process ended") as caught:
        async for _ in stream:
            pass
    assert caught.value.code == "worker_lost"
    assert calls(metrics, "unavailable") == 1
    assert "unavailable" in models.ends
    assert "error" not in models.ends


async def test_a_failure_before_the_first_text_has_a_status_of_its_own(openai: AsyncOpenAI, engine: FakeEngine) -> None:
    engine.script = lambda request: request.stream.end(FinishReason.BAD_CONSTRAINT, "a keyword is not honoured")
    with pytest.raises(APIError, match="a keyword is not honoured") as caught:
        await openai.completions.create(
            model="poems", prompt="Sing", stream=True, extra_body={"response_format": {"type": "json_object"}}
        )
    assert (caught.value.code, caught.value.param) == ("invalid_field", "response_format")


@pytest.mark.parametrize("streams", [True, False])
async def test_the_callers_deadline(openai: AsyncOpenAI, engine: FakeEngine, metrics: Metrics, streams: bool) -> None:
    call = asyncio.create_task(
        openai.completions.create(
            model="poems", prompt="Sing", stream=streams, extra_headers={"X-Request-Timeout": "0.2"}
        )
    )
    request = await engine.arrival()
    assert request.deadline is not None
    with pytest.raises(APIError, match="the deadline passed") as caught:
        await call
    assert getattr(caught.value, "status_code", None) == 504
    assert calls(metrics, "deadline") == 1
    await request.closed.wait()
