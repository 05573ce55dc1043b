"""However a call ends early, its request ends in the engine."""

import asyncio

import grpc.aio
import pytest
from rhapsode.v1 import generation_pb2 as pb
from rhapsode.v1.generation_pb2_grpc import GenerationServiceStub
from rhapsode_client import AsyncClient
from rhapsode_client.errors import DeadlineExceeded
from rhapsode_server.metrics import Metrics
from rhapsode_server.rpc.server import Server
from support.fake_models import PATIENCE, FakeEngine, Submitted


async def is_closed(request: Submitted) -> None:
    async with asyncio.timeout(PATIENCE):
        await request.closed.wait()


async def is_counted(server: Server, metrics: Metrics, outcome: str) -> None:
    async with asyncio.timeout(PATIENCE):
        await server.calls_finished()
    labels = {"model": "poems", "version": "3", "outcome": outcome, "finish_reason": ""}
    assert metrics.registry.get_sample_value("rhapsode_requests_total", labels) == 1


@pytest.mark.parametrize("progress", ["queued", "started", "decoding"])
async def test_a_cancelled_stream(
    server: Server, client: AsyncClient, engine: FakeEngine, metrics: Metrics, progress: str
) -> None:
    stream = client.stream("Sing")
    request = await engine.arrival()
    if progress == "started":
        request.stream.mark_started(0.0)
    if progress == "decoding":
        request.says("O")
        assert (await anext(stream)).text == "O"
    stream.cancel()
    await is_closed(request)
    await is_counted(server, metrics, "cancelled")


async def test_a_cancelled_unary_call(
    server: Server, stub: GenerationServiceStub, engine: FakeEngine, metrics: Metrics
) -> None:
    call = stub.Generate(pb.GenerateRequest(prompt="Sing"))
    request = await engine.arrival()
    request.says("O")
    call.cancel()
    await is_closed(request)
    await is_counted(server, metrics, "cancelled")


async def test_a_client_that_goes_away(server: Server, engine: FakeEngine, metrics: Metrics) -> None:
    async with grpc.aio.insecure_channel(server.address) as channel:
        GenerationServiceStub(channel).GenerateStream(pb.GenerateRequest(prompt="Sing"))
        request = await engine.arrival()
    await is_closed(request)
    await is_counted(server, metrics, "cancelled")


async def test_a_reader_that_stopped_reading(stub: GenerationServiceStub, engine: FakeEngine) -> None:
    call = stub.GenerateStream(pb.GenerateRequest(prompt="Sing"))
    request = await engine.arrival()
    # More than the transport takes: the handler waits in a write.
    for _ in range(6):
        request.says("x" * 50_000)
        await asyncio.sleep(0)
    call.cancel()
    await is_closed(request)


async def test_a_deadline_is_told_from_a_cancellation(
    server: Server, client: AsyncClient, engine: FakeEngine, metrics: Metrics
) -> None:
    call = asyncio.create_task(client.generate("Sing", timeout=0.5))
    request = await engine.arrival()
    with pytest.raises(DeadlineExceeded):
        await call
    await is_closed(request)
    await is_counted(server, metrics, "deadline")
