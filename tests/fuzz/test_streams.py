"""Streams that are opened and dropped at any moment leave nothing behind."""

import asyncio
from collections import Counter
from random import Random

import grpc
from rhapsode.v1 import generation_pb2 as pb
from rhapsode.v1.generation_pb2_grpc import GenerationServiceStub
from support.fuzzing import IS_LONG

from .conftest import Target

NUM_STREAMS = 10_000 if IS_LONG else 200
NUM_CALLERS = 64
STREAMS_A_CONNECTION = 25


async def drop(stub: GenerationServiceStub, rng: Random) -> str:
    """Open a stream, read for a random while, hang up."""
    request = pb.GenerateRequest(
        model=rng.choice(["gpt2", "llama"]),
        prompt="the sea " * rng.choice([1, 1, 20]),
        stopping={"max_new_tokens": rng.choice([2, 20, 80]), "ignore_eos": True},
        output={"token_ids": True},
    )
    call = stub.GenerateStream(request)
    try:
        async with asyncio.timeout(rng.expovariate(rng.choice([1000, 100, 10]))):
            async for _ in call:
                pass
    except TimeoutError:
        return "dropped"
    except grpc.aio.AioRpcError as error:
        return error.code().name
    finally:
        call.cancel()
    return "finished"


async def test_dropped_streams_leave_nothing_behind(target: Target) -> None:
    outcomes, numbers = Counter[str](), iter(range(NUM_STREAMS))

    async def caller() -> None:
        while block := [number for _, number in zip(range(STREAMS_A_CONNECTION), numbers, strict=False)]:
            options = [("grpc.use_local_subchannel_pool", 1)]
            # Leaving closes the connection, under a stream that may still run.
            async with grpc.aio.insecure_channel(target.address, options=options) as channel:
                stub = GenerationServiceStub(channel)
                outcomes.update([await drop(stub, Random(number)) for number in block])

    async with asyncio.TaskGroup() as group:
        for _ in range(NUM_CALLERS):
            group.create_task(caller())
    print(dict(outcomes))
    assert set(outcomes) <= {"dropped", "finished", "RESOURCE_EXHAUSTED"}
    assert outcomes["dropped"] > NUM_STREAMS / 4
    assert outcomes.total() == NUM_STREAMS


async def test_connections_that_vanish_take_their_streams_along(target: Target) -> None:
    request = pb.GenerateRequest(prompt="the sea", stopping={"max_new_tokens": 100, "ignore_eos": True})
    for _ in range(NUM_STREAMS // 20):
        async with grpc.aio.insecure_channel(target.address) as channel:
            calls = [GenerationServiceStub(channel).GenerateStream(request) for _ in range(4)]
            assert (await calls[0].read()).HasField("started")
