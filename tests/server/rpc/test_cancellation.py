"""However a call ends early, its request ends in the engine."""

import asyncio
import logging
from typing import Any, cast

import grpc
import grpc.aio
import pytest
from rhapsode.v1 import generation_pb2 as pb
from rhapsode.v1.generation_pb2_grpc import GenerationServiceStub
from rhapsode_client import AsyncClient
from rhapsode_client.errors import DeadlineExceeded
from rhapsode_server.metrics import Metrics
from rhapsode_server.rpc import interceptor
from rhapsode_server.rpc.interceptor import CallInterceptor
from rhapsode_server.rpc.server import Server
from support.fake_models import PATIENCE, FakeEngine, Submitted

# More than the transport takes while nobody reads.
LARGE = "x" * 200_000


async def is_closed(request: Submitted) -> None:
    async with asyncio.timeout(PATIENCE):
        await request.closed.wait()


async def is_counted(server: Server, metrics: Metrics, outcome: str) -> None:
    async with asyncio.timeout(PATIENCE):
        await server.rotation.calls_finished()
    labels = {"model": "poems", "version": "3", "outcome": outcome, "finish_reason": ""}
    assert metrics.registry.get_sample_value("rhapsode_requests_total", labels) == 1


async def has_generated(metrics: Metrics, num_tokens: int) -> None:
    """So many tokens are on their way to the caller."""
    labels = {"model": "poems", "version": "3"}
    async with asyncio.timeout(PATIENCE):
        while (metrics.registry.get_sample_value("rhapsode_generated_tokens_total", labels) or 0) < num_tokens:  # noqa: ASYNC110
            await asyncio.sleep(0.001)


def problems(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


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


async def test_a_reader_that_stopped_reading(
    server: Server,
    stub: GenerationServiceStub,
    engine: FakeEngine,
    metrics: Metrics,
    caplog: pytest.LogCaptureFixture,
) -> None:
    call = stub.GenerateStream(pb.GenerateRequest(prompt="Sing"))
    request = await engine.arrival()
    request.says(LARGE)
    await has_generated(metrics, len(LARGE))
    call.cancel()
    await is_closed(request)
    await is_counted(server, metrics, "cancelled")
    assert problems(caplog) == []


async def test_a_reader_of_a_batch_that_stopped_reading(
    server: Server,
    stub: GenerationServiceStub,
    engine: FakeEngine,
    metrics: Metrics,
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine.script = lambda request: request.says(LARGE) if request.sampling.seed else None
    item = pb.GenerateBatchItem(request=pb.GenerateRequest(prompt="Sing"), num_completions=4)
    call = stub.GenerateBatch(pb.GenerateBatchRequest(items=[item], seed=0))
    await has_generated(metrics, 3 * len(LARGE))
    call.cancel()
    async with asyncio.timeout(PATIENCE):
        await server.rotation.calls_finished()
    labels = {"method": "GenerateBatch", "outcome": "cancelled"}
    assert metrics.registry.get_sample_value("rhapsode_calls_total", labels) == 1
    assert problems(caplog) == []
    assert engine.num_holds == 0


class LostContext:
    """That of a call which is over, though nobody has told the handler yet."""

    def __init__(self, context: Any) -> None:
        self._context = context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def write(self, message: object) -> None:
        raise grpc.aio.InternalError("the call is over")

    async def send_initial_metadata(self, metadata: object) -> None:
        raise grpc.aio.InternalError("the call is over")


class LostStream(LostContext):
    """Over a little later."""

    async def send_initial_metadata(self, metadata: object) -> None:
        await self._context.send_initial_metadata(metadata)


@pytest.mark.parametrize("context", [LostContext, LostStream])
@pytest.mark.parametrize("method", ["GenerateStream", "GenerateBatch"])
async def test_a_write_that_fails_means_that_the_caller_has_gone(
    server: Server,
    stub: GenerationServiceStub,
    engine: FakeEngine,
    metrics: Metrics,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    context: type[LostContext],
    method: str,
) -> None:
    run = CallInterceptor._run
    monkeypatch.setattr(CallInterceptor, "_run", lambda *given: run(*given[:-1], context(given[-1])))
    engine.will_say("sea")
    request = pb.GenerateRequest(prompt="Sing")
    batch = pb.GenerateBatchRequest(items=[pb.GenerateBatchItem(request=request)] * 3)
    call = getattr(stub, method)(batch if method == "GenerateBatch" else request)
    with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
        async with asyncio.timeout(PATIENCE):
            _ = [answer async for answer in call]
    async with asyncio.timeout(PATIENCE):
        await server.rotation.calls_finished()
    labels = {"method": method, "outcome": "cancelled"}
    assert metrics.registry.get_sample_value("rhapsode_calls_total", labels) == 1
    assert problems(caplog) == []
    assert engine.num_holds == 0


async def test_a_deadline_is_told_from_a_cancellation(
    server: Server, client: AsyncClient, engine: FakeEngine, metrics: Metrics
) -> None:
    call = asyncio.create_task(client.generate("Sing", timeout=0.5))
    request = await engine.arrival()
    with pytest.raises(DeadlineExceeded):
        await call
    await is_closed(request)
    await is_counted(server, metrics, "deadline")


async def test_a_caller_who_goes_while_it_is_told_of_a_failure_is_no_bug() -> None:
    class Gone:
        async def abort(self, *_: object) -> None:
            raise grpc.aio.InternalError('Failed "execute_batch"')

    with pytest.raises(asyncio.CancelledError):
        await interceptor._abort(cast(Any, Gone()), grpc.StatusCode.DEADLINE_EXCEEDED, "too late")
