"""Which version answers: what the models are asked, and what the version hears of the end."""

import asyncio
from collections.abc import Sequence

import grpc.aio
import pytest
from rhapsode.v1 import generation_pb2 as pb
from rhapsode.v1.generation_pb2_grpc import GenerationServiceStub
from rhapsode_server.engine.request import FinishReason
from rhapsode_server.errors import Overloaded
from support.fake_models import FakeEngine, FakeModels


@pytest.mark.parametrize(
    ("metadata", "request_id", "key"),
    [
        ([("x-traffic-key", "user-7"), ("x-request-id", "r-1")], "r-2", "user-7"),
        ([("x-request-id", "r-1")], "r-2", "r-2"),
        ([("x-request-id", "r-1")], "", "r-1"),
    ],
)
async def test_the_traffic_key_is_the_callers_or_the_request_id(
    stub: GenerationServiceStub, models: FakeModels, metadata: Sequence[tuple[str, str]], request_id: str, key: str
) -> None:
    models.engine.will_say("sea")
    await stub.Generate(pb.GenerateRequest(prompt="Sing", request_id=request_id), metadata=metadata)
    batch = pb.GenerateBatchRequest(items=[pb.GenerateBatchItem(request=pb.GenerateRequest(prompt="Sing"))] * 2)
    batch.request_id = request_id
    assert len([answer async for answer in stub.GenerateBatch(batch, metadata=metadata)]) == 2
    assert models.keys == [key] * 3


async def test_without_any_key_every_call_has_its_own(stub: GenerationServiceStub, models: FakeModels) -> None:
    models.engine.will_say("sea")
    for _ in range(2):
        await stub.Generate(pb.GenerateRequest(prompt="Sing"))
    assert len(set(models.keys)) == 2
    assert all(models.keys)


async def test_the_version_hears_how_each_completion_ended(
    stub: GenerationServiceStub, models: FakeModels, engine: FakeEngine
) -> None:
    engine.will_say("sea")
    await stub.Generate(pb.GenerateRequest(prompt="Sing"))
    batch = pb.GenerateBatchRequest(
        items=[pb.GenerateBatchItem(request=pb.GenerateRequest(prompt="Sing"), num_completions=3)]
    )
    assert len([answer async for answer in stub.GenerateBatch(batch)]) == 3
    assert models.ends == ["ok"] * 4


async def test_it_hears_of_what_went_wrong_by_its_label(
    stub: GenerationServiceStub, models: FakeModels, engine: FakeEngine
) -> None:
    engine.will_generate([], FinishReason.NOT_FINITE)
    with pytest.raises(grpc.aio.AioRpcError):
        await stub.Generate(pb.GenerateRequest(prompt="Sing"))
    batch = pb.GenerateBatchRequest(items=[pb.GenerateBatchItem(request=pb.GenerateRequest(prompt="Sing"))])
    assert [answer.error.code async for answer in stub.GenerateBatch(batch)] == [grpc.StatusCode.INTERNAL.value[0]]
    engine.failure = Overloaded("the queue is full")
    with pytest.raises(grpc.aio.AioRpcError):
        await stub.Generate(pb.GenerateRequest(prompt="Sing"))
    with pytest.raises(grpc.aio.AioRpcError):
        await stub.Generate(pb.GenerateRequest(prompt="Sing", sampling=pb.SamplingParameters(top_p=2)))
    assert models.ends == ["not_finite", "not_finite", "overloaded", "invalid"]


async def test_it_hears_of_callers_who_leave(
    stub: GenerationServiceStub, models: FakeModels, engine: FakeEngine
) -> None:
    heard = asyncio.Event()
    models.change(note_end=lambda outcome: (models.ends.append(outcome), heard.set()))
    call = stub.GenerateStream(pb.GenerateRequest(prompt="Sing"))
    await engine.arrival()
    call.cancel()
    async with asyncio.timeout(10):
        await heard.wait()
    assert models.ends == ["cancelled"]


async def test_nothing_is_heard_of_calls_that_found_no_version(stub: GenerationServiceStub, models: FakeModels) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="no model 'odes'"):
        await stub.Generate(pb.GenerateRequest(model="odes", prompt="Sing"))
    assert models.ends == []
