"""Who is refused for now is told when to come back, as gRPC's own retries understand it."""

import re
from pathlib import Path

import grpc.aio
import pytest
from rhapsode.v1 import generation_pb2 as pb
from rhapsode.v1.generation_pb2_grpc import GenerationServiceStub
from rhapsode_client import AsyncClient, Overloaded
from rhapsode_server import errors
from rhapsode_server.engine.request import FinishReason
from rhapsode_server.rpc.server import Server
from support.fake_models import FakeEngine, FakeModels, Submitted

PUSHBACK = "grpc-retry-pushback-ms"


async def pushback(stub: GenerationServiceStub, seconds: float | None = None) -> str | None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Generate(pb.GenerateRequest(prompt="Sing"), timeout=seconds)
    return dict(caught.value.trailing_metadata() or ()).get(PUSHBACK)


async def test_those_refused_together_come_back_one_by_one(stub: GenerationServiceStub, models: FakeModels) -> None:
    models.failure = errors.Loading("poems is loading", retry_after=10.0)
    waits = {int(await pushback(stub)) for _ in range(8)}
    assert 10_000 <= min(waits) < max(waits) <= 12_000


async def test_who_cannot_wait_so_long_is_not_to_come_back(stub: GenerationServiceStub, models: FakeModels) -> None:
    models.failure = errors.Overloaded("it is full", retry_after=10.0)
    assert await pushback(stub, seconds=9.0) == "-1"
    assert int(await pushback(stub, seconds=60.0)) >= 10_000


async def test_what_will_never_succeed_says_nothing(stub: GenerationServiceStub, models: FakeModels) -> None:
    models.failure = errors.ModelNotFound("no such model")
    assert await pushback(stub) is None


@pytest.mark.parametrize("method", ["generate", "stream"])
async def test_the_client_comes_back_until_it_is_taken(server: Server, engine: FakeEngine, method: str) -> None:
    def refuse_three_times(request: Submitted) -> None:
        if len(engine.requests) <= 3:
            raise errors.Overloaded("it is full", retry_after=0.01)
        request.says("the wrath", FinishReason.LENGTH)

    engine.script = refuse_three_times
    async with AsyncClient(server.address, retries=4) as client:
        asked = client.generate("Sing") if method == "generate" else client.stream("Sing").result()
        assert (await asked).text == "the wrath"
    assert len(engine.requests) == 4


async def test_any_client_of_grpc_comes_back_if_told_so(server: Server, engine: FakeEngine) -> None:
    page = (Path(__file__).parents[3] / "docs/calling.md").read_text("utf-8")
    [config] = re.findall(r"```json\n(.*?)```", page, flags=re.DOTALL)
    answers = iter([errors.Loading("poems is loading", retry_after=0.01), None])

    def answer(request: Submitted) -> None:
        if failure := next(answers):
            raise failure
        request.says("the wrath", FinishReason.LENGTH)

    engine.script = answer
    async with grpc.aio.insecure_channel(server.address, [("grpc.service_config", config)]) as channel:
        stub = GenerationServiceStub(channel)
        assert (await stub.Generate(pb.GenerateRequest(prompt="Sing"))).text == "the wrath"


async def test_a_client_whose_time_is_short_learns_it_at_once(server: Server, models: FakeModels) -> None:
    models.failure = errors.Overloaded("it is full", retry_after=60.0)
    async with AsyncClient(server.address, retries=4, timeout=50.0) as client:
        with pytest.raises(Overloaded, match="it is full") as caught:
            await client.generate("Sing")
    assert caught.value.retry_after == 60.0
