"""Many prompts: as many calls at once as asked, results in order, nothing read or left running that need not be."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rhapsode.v1 import generation_pb2 as pb
from rhapsode_client import AsyncClient, Client, InvalidRequest, ServerError
from rhapsode_client.async_many import in_order
from rhapsode_client.asynchronous import AsyncOutcome


@given(waits=st.lists(st.integers(1, 5), max_size=30), concurrency=st.integers(1, 6))
def test_results_are_in_order_and_so_many_calls_run_at_a_time(waits, concurrency):
    assert asyncio.run(_numbered(waits, concurrency)) == min(len(waits), concurrency)


async def _numbered(waits: list[int], concurrency: int) -> int:
    """How many calls there were at most at a time; each takes so many turns of the event loop."""
    running = most = 0

    async def call(number: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(waits[number]):
            await asyncio.sleep(0)
        running -= 1
        return number

    numbers = in_order(lambda number: AsyncOutcome(call(number)), range(len(waits)), concurrency, False)
    assert [number async for number in numbers] == list(range(len(waits)))
    assert running == 0
    return most


async def test_a_slow_call_holds_up_others_only_after_a_while():
    begun: list[int] = []
    slow, held_up = asyncio.Event(), asyncio.Event()

    async def call(number: int) -> int:
        begun.append(number)
        if len(begun) == 8:
            held_up.set()
        if number == 0:
            await slow.wait()
        return number

    numbers = in_order(lambda number: AsyncOutcome(call(number)), range(100), 2, False)
    first = asyncio.create_task(anext(numbers))
    await held_up.wait()
    slow.set()
    assert await first == 0
    assert len(begun) == 8
    assert [number async for number in numbers] == list(range(1, 100))


async def test_each_prompt_is_completed_with_the_options(client, server):
    prompts = [f"The {number}" for number in range(20)]
    texts = [each.text async for each in client.generate_many(prompts, concurrency=3, seed=5)]
    assert texts == ["Sea, sea!"] * 20
    asked = sorted(int(request.prompt.removeprefix("The ")) for request in server.requests)
    assert asked == list(range(20))
    assert {request.sampling.seed for request in server.requests} == {5}


def lazily(count: int, read: list[int]) -> Iterator[str]:
    for number in range(count):
        read.append(number)
        yield f"The {number}"


async def test_prompts_are_read_as_they_are_needed(client):
    read: list[int] = []
    completions = client.generate_many(lazily(10**9, read), concurrency=2)
    assert read == []
    assert (await anext(completions)).text == "Sea, sea!"
    assert len(read) <= 9


async def test_a_failure_ends_it(client, server, failure):
    server.refusals = [failure(code=grpc.StatusCode.INTERNAL)]
    completions = client.generate_many(["The"] * 9, concurrency=1)
    with pytest.raises(ServerError):
        await anext(completions)
    assert len(server.requests) <= 2, "the next had begun when the first failed"


async def test_or_stands_in_its_place(client, server, failure):
    server.refusals = [failure(code=grpc.StatusCode.INTERNAL)]
    prompts = ["The", b"bytes", "The"]
    got = [each async for each in client.generate_many(prompts, concurrency=1, return_errors=True)]
    assert [type(each).__name__ for each in got] == ["ServerError", "InvalidRequest", "Completion"]
    assert len(server.requests) == 2


async def test_a_prompt_that_cannot_be_sent_fails_in_its_turn(client):
    completions = client.generate_many(["The", [-1]])
    assert (await anext(completions)).text == "Sea, sea!"
    with pytest.raises(InvalidRequest, match="prompt_token_ids"):
        await anext(completions)


def held(server: Any) -> None:
    """Calls wait until they are cancelled."""
    server.scripts["Generate"] = [threading.Event(), pb.GenerateResponse()]


async def test_closing_it_ends_the_calls(server):
    held(server)
    async with AsyncClient(server.address) as client:
        completions = client.generate_many(["The"] * 2, concurrency=2)
        reading = asyncio.create_task(anext(completions))
        await asyncio.to_thread(server.arrived.wait, 10)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert await asyncio.to_thread(server.cancelled.wait, 10)


def test_closing_the_blocking_one_ends_the_calls(server):
    server.scripts["Generate"] = [pb.GenerateResponse(text="first")]

    def prompts() -> Iterator[str]:
        yield "The"
        _arrives(server)
        held(server)
        yield "The"

    with Client(server.address) as client:
        completions = client.generate_many(prompts(), concurrency=2)
        assert next(completions).text == "first"
        _arrives(server)
        completions.close()
        assert server.cancelled.wait(10)


def _arrives(server: Any) -> None:
    assert server.arrived.wait(10)
    server.arrived.clear()


@pytest.mark.parametrize("kind", [Client, AsyncClient])
async def test_no_calls_at_a_time_are_refused_at_once(kind):
    with pytest.raises(ValueError, match="concurrency must be at least 1, not 0"):
        kind("127.0.0.1:1").generate_many(["The"], concurrency=0)
