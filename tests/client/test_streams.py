"""Streams, through both clients. Helpers of the scripted server come through its fixture's module."""

import asyncio
import threading

import grpc
import pytest
from rhapsode.v1 import generation_pb2 as pb
from rhapsode_client import AsyncClient, Cancelled, Client, DeadlineExceeded, ServerError, Unavailable


def paused(server, after: int) -> threading.Event:
    """Makes the server wait after so many events of its stream; the event lets it go on."""
    gate = threading.Event()
    script = server.scripts["GenerateStream"]
    server.scripts["GenerateStream"] = [*script[:after], gate, *script[after:]]
    return gate


async def test_deltas_come_in_order_and_make_up_the_completion_of_generate(client):
    async with client.stream("The") as stream:
        deltas = [delta async for delta in stream]
        completion = await stream.result()
    assert [delta.text for delta in deltas] == ["Sea", ", ", "sea!"]
    assert [delta.token_ids for delta in deltas] == [(0,), (1,), (2,)]
    assert "".join(map(str, deltas)) == str(completion) == "Sea, sea!"
    assert completion == await client.generate("The")


async def test_text_arrives_while_the_server_still_works(client, server):
    gate = paused(server, after=2)
    async with client.stream("The") as stream:
        assert stream.started is None
        assert (await anext(stream)).text == "Sea"
        assert stream.started.model == "poems"
        assert stream.started.seed == 2**64 - 1
        assert stream.started.usage.prompt_tokens == 4
        gate.set()
        assert (await stream.result()).text == "Sea, sea!"


async def test_result_reads_what_is_left(client):
    async with client.stream("The") as stream:
        await anext(stream)
        assert (await stream.result()).text == "Sea, sea!"
        assert [delta async for delta in stream] == []
        assert (await stream.result()).text == "Sea, sea!"


async def test_cancel_ends_the_call_at_the_server(client, server):
    paused(server, after=2)
    async with client.stream("The") as stream:
        await anext(stream)
        stream.cancel()
        assert await asyncio.to_thread(server.cancelled.wait, 10)
        with pytest.raises(Cancelled):
            await anext(stream)
        with pytest.raises(Cancelled):
            await stream.result()


async def test_cancel_before_the_first_event(client, server):
    paused(server, after=0)
    stream = client.stream("The")
    stream.cancel()
    with pytest.raises(Cancelled):
        await stream.result()


async def test_leaving_early_cancels(client, server):
    paused(server, after=3)
    async with client.stream("The") as stream:
        async for delta in stream:
            if delta.text == ", ":
                break
    assert await asyncio.to_thread(server.cancelled.wait, 10)


async def test_an_exception_inside_the_block_cancels(client, server):
    paused(server, after=2)

    async def fail() -> None:
        async with client.stream("The") as stream:
            await anext(stream)
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        await fail()
    assert await asyncio.to_thread(server.cancelled.wait, 10)


async def test_cancelling_a_stream_that_has_ended_changes_nothing(client, server):
    async with client.stream("The") as stream:
        completion = await stream.result()
        stream.cancel()
    assert await stream.result() == completion
    assert not server.cancelled.is_set()


async def test_a_deadline_in_the_middle_keeps_the_text_before_it(client, server):
    paused(server, after=2)
    async with client.stream("The", timeout=1.0) as stream:
        assert (await anext(stream)).text == "Sea"
        with pytest.raises(DeadlineExceeded):
            await anext(stream)
    assert await asyncio.to_thread(server.cancelled.wait, 10)


async def test_what_was_sent_before_a_failure_arrives_before_it(client, server, failure):
    lost = failure(code=grpc.StatusCode.UNAVAILABLE, message="the worker was lost")
    server.scripts["GenerateStream"] = [*server.scripts["GenerateStream"][:-1], lost]
    async with client.stream("The") as stream:
        assert [(await anext(stream)).text for _ in range(3)] == ["Sea", ", ", "sea!"]
        for _ in range(2):
            with pytest.raises(Unavailable, match="the worker was lost"):
                await stream.result()


async def test_a_stream_without_its_last_event_is_no_completion(client, server):
    server.scripts["GenerateStream"] = server.scripts["GenerateStream"][:-1]
    async with client.stream("The") as stream:
        with pytest.raises(ServerError, match="before the completion was finished"):
            await stream.result()


async def test_text_before_started_is_refused(client, server):
    server.scripts["GenerateStream"] = server.scripts["GenerateStream"][1:]
    async with client.stream("The") as stream:
        with pytest.raises(ServerError, match="before it said who answers"):
            await anext(stream)


async def test_events_that_this_client_does_not_know_are_passed_over(client, server):
    script = server.scripts["GenerateStream"]
    server.scripts["GenerateStream"] = [script[0], pb.GenerateStreamResponse(), *script[1:]]
    async with client.stream("The") as stream:
        assert (await stream.result()).text == "Sea, sea!"


async def test_many_streams_share_a_client(client):
    async def text() -> str:
        async with client.stream("The") as stream:
            return "".join([delta.text async for delta in stream])

    assert await asyncio.gather(*(text() for _ in range(8))) == ["Sea, sea!"] * 8


async def test_cancelling_the_task_cancels_the_call_and_stays_asyncios_own(server):
    paused(server, after=2)
    reading = asyncio.Event()

    async def read() -> None:
        async with client.stream("The") as stream:
            async for _ in stream:
                reading.set()

    async with AsyncClient(server.address) as client:
        task = asyncio.create_task(read())
        await reading.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(server.cancelled.wait, 10)


async def test_a_reader_learns_that_another_task_cancelled_the_stream(server):
    paused(server, after=2)
    async with AsyncClient(server.address) as client, client.stream("The") as stream:
        await anext(stream)
        reader = asyncio.create_task(anext(stream))
        await asyncio.sleep(0)
        stream.cancel()
        with pytest.raises(Cancelled):
            await reader


def test_a_reader_learns_that_another_thread_cancelled_the_stream(server):
    paused(server, after=2)
    with Client(server.address) as client, client.stream("The") as stream:
        next(stream)
        canceller = threading.Thread(target=stream.cancel)
        canceller.start()
        with pytest.raises(Cancelled):
            next(stream)
        canceller.join(10)
