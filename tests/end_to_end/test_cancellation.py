"""However a call ends, the engine lets go of it."""

import asyncio
import signal
import subprocess
import sys
import time
from pathlib import Path

import grpc
import pytest
from rhapsode.v1.generation_pb2 import GenerateRequest, SamplingParameters, StoppingCriteria, TokenIds
from rhapsode.v1.generation_pb2_grpc import GenerationServiceStub

from .conftest import Serving


def request(*, prompt_length: int = 3, max_new_tokens: int = 1000) -> GenerateRequest:
    return GenerateRequest(
        prompt_token_ids=TokenIds(ids=[5] * min(prompt_length, 1023)),
        sampling=SamplingParameters(temperature=1.0, seed=1),
        stopping=StoppingCriteria(max_new_tokens=max_new_tokens, ignore_eos=True),
    )


async def engine_lets_go(serving: Serving) -> None:
    """The metrics are all that tells from outside; they follow within a step."""
    deadline = time.monotonic() + 20
    while await asyncio.to_thread(serving.blocks_used) or serving.process.metric("rhapsode_requests_waiting"):
        assert time.monotonic() < deadline, "blocks stay in use"
        await asyncio.sleep(0.01)


async def test_cancel_in_decode(serving: Serving, stub: GenerationServiceStub) -> None:
    call = stub.GenerateStream(request())
    events = [await call.read() for _ in range(5)]
    assert [event.WhichOneof("event") for event in events] == ["started", *["delta"] * 4]
    call.cancel()
    await engine_lets_go(serving)


async def test_cancel_in_prefill(serving: Serving, stub: GenerationServiceStub) -> None:
    call = stub.GenerateStream(request(prompt_length=1023))
    assert (await call.read()).HasField("started")
    call.cancel()
    await engine_lets_go(serving)


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
    await engine_lets_go(serving)


async def test_cancel_at_the_last_token(serving: Serving, stub: GenerationServiceStub) -> None:
    for _ in range(10):
        call = stub.GenerateStream(request(max_new_tokens=3))
        async for event in call:
            if event.HasField("delta") and event.delta.text:
                call.cancel()
                break
    await engine_lets_go(serving)


async def test_a_deadline_in_decode(serving: Serving, stub: GenerationServiceStub) -> None:
    call = stub.GenerateStream(request(), timeout=0.2)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        async for _ in call:
            pass
    assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await engine_lets_go(serving)


async def test_the_client_is_killed_in_the_middle(serving: Serving) -> None:
    command = [str(Path(sys.executable).with_name("rhapsode")), "generate", "the sea", "--stream"]
    command += ["--address", serving.address, "--max-new-tokens", "1000", "--temperature", "1", "--seed", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:  # noqa: ASYNC220 - it is read in a thread
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.read, 5)
        process.send_signal(signal.SIGKILL)
    await engine_lets_go(serving)
