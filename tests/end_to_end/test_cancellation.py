"""However a call ends, the engine lets go of it: at once, not when it would have ended by itself."""

import asyncio
import sys
from collections.abc import AsyncIterator

import grpc
import pytest
from rhapsode.v1.generation_pb2 import GenerateRequest, SamplingParameters, StoppingCriteria, TokenIds
from rhapsode.v1.generation_pb2_grpc import GenerationServiceStub

from .conftest import Serving

LONG = 1000


def request(*, prompt_length: int = 3, max_new_tokens: int = LONG) -> GenerateRequest:
    return GenerateRequest(
        prompt_token_ids=TokenIds(ids=[5] * prompt_length),
        sampling=SamplingParameters(temperature=1.0, seed=1),
        stopping=StoppingCriteria(max_new_tokens=max_new_tokens, ignore_eos=True),
    )


def forwards(serving: Serving) -> float:
    return serving.process.metric("rhapsode_model_forwards_total", model="gpt2")


@pytest.fixture
async def early(serving: Serving) -> AsyncIterator[None]:
    """The engine lets go before half of a long completion is computed."""
    before = forwards(serving)
    yield
    await serving.engine_lets_go()
    assert forwards(serving) - before < LONG / 2


@pytest.mark.usefixtures("early")
async def test_cancel_in_decode(stub: GenerationServiceStub) -> None:
    call = stub.GenerateStream(request())
    events = [await call.read() for _ in range(5)]
    assert [event.WhichOneof("event") for event in events] == ["started", *["delta"] * 4]
    call.cancel()


async def test_cancel_in_prefill(serving: Serving, stub: GenerationServiceStub) -> None:
    before = forwards(serving)
    calls = [stub.GenerateStream(request(prompt_length=900, max_new_tokens=120)) for _ in range(20)]
    for call in calls:
        assert (await call.read()).HasField("started")
        call.cancel()
    await serving.engine_lets_go()
    # 128 tokens a step: the prompts alone would take 141 steps, and the completions 120 more.
    assert forwards(serving) - before < 141


@pytest.mark.usefixtures("early")
async def test_cancel_while_queued(serving: Serving, stub: GenerationServiceStub) -> None:
    running = [stub.GenerateStream(request()) for _ in range(64)]
    for call in running:
        await call.read()
        await call.read()
    queued = [stub.GenerateStream(request()) for _ in range(8)]
    for call in queued:
        assert (await call.read()).HasField("started")
    assert serving.process.metric("rhapsode_requests_running") == 64
    for call in (*queued, *running):
        call.cancel()


async def test_cancel_at_the_last_token(serving: Serving, stub: GenerationServiceStub) -> None:
    for _ in range(10):
        call = stub.GenerateStream(request(max_new_tokens=3))
        async for event in call:
            if event.HasField("delta") and event.delta.text:
                call.cancel()
                break
    await serving.engine_lets_go()


@pytest.mark.usefixtures("early")
async def test_a_deadline_in_decode(stub: GenerationServiceStub) -> None:
    call = stub.GenerateStream(request(), timeout=0.1)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        async for _ in call:
            pass
    assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


READ_SLOWLY = """
import sys
from rhapsode_client import Client
with Client(sys.argv[1]) as client, client.stream([5, 5, 5], max_new_tokens=1000, ignore_eos=True) as stream:
    for delta in stream:
        print("a token", flush=True)
        sys.stdin.read()
"""


@pytest.mark.usefixtures("early")
async def test_the_client_is_killed_in_the_middle(serving: Serving) -> None:
    pipe = asyncio.subprocess.PIPE
    command = (sys.executable, "-c", READ_SLOWLY, serving.address)
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    assert process.stdout is not None
    assert await process.stdout.readline()
    process.kill()
    await process.wait()
