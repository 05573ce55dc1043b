"""grpc.health.v1: which names say SERVING when, to those who ask and to those who watch."""

import asyncio
import logging
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from rhapsode.v1.generation_pb2_grpc import GenerationServiceStub
from rhapsode_client import AsyncClient
from rhapsode_server.models.served import Trouble, VersionState
from rhapsode_server.rpc.health import HealthService
from rhapsode_server.rpc.server import Server
from support.fake_models import PATIENCE, status_of

SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING
UNKNOWN = HealthCheckResponse.SERVICE_UNKNOWN
GENERATION, MODELS = "rhapsode.v1.GenerationService", "rhapsode.v1.ModelService"
READY = ("", "readiness", GENERATION, MODELS)
ALIVE = ("startup", "liveness")

POEMS = status_of("poems", VersionState.SERVING)
STORIES = status_of("stories", VersionState.WARMING)


@pytest.fixture
def stub(channel: grpc.aio.Channel) -> HealthStub:
    return HealthStub(channel)


async def check(stub: HealthStub, *names: str) -> set[int]:
    return {(await stub.Check(HealthCheckRequest(service=name))).status for name in names}


async def changes(stub: HealthStub, name: str) -> AsyncIterator[int]:
    async for response in stub.Watch(HealthCheckRequest(service=name)):
        yield response.status


async def following(watch: AsyncIterator[int]) -> int:
    async with asyncio.timeout(PATIENCE):
        return await anext(watch)


async def test_alive_but_not_ready_until_a_model_serves(stub: HealthStub, health: HealthService) -> None:
    assert await check(stub, *ALIVE) == {SERVING}
    assert await check(stub, *READY) == {NOT_SERVING}
    health.update([STORIES])
    assert await check(stub, *READY, "model/stories") == {NOT_SERVING}
    health.update([POEMS, STORIES])
    assert await check(stub, *READY, *ALIVE, "model/poems") == {SERVING}
    assert await check(stub, "model/stories") == {NOT_SERVING}


async def test_an_unknown_name_is_not_found(stub: HealthStub) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await check(stub, "model/prose")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_draining_leaves_only_the_process_alive(stub: HealthStub, health: HealthService) -> None:
    health.update([POEMS])
    health.drain("it is drained")
    assert await check(stub, *ALIVE) == {SERVING}
    assert await check(stub, *READY, "model/poems") == {NOT_SERVING}
    health.update([POEMS, STORIES])
    assert await check(stub, *READY, "model/poems") == {NOT_SERVING}
    health.resume()
    assert await check(stub, *READY, "model/poems") == {SERVING}
    assert await check(stub, "model/stories") == {NOT_SERVING}


async def test_a_device_that_hangs_turns_liveness_while_nothing_serves(stub: HealthStub, health: HealthService) -> None:
    health.note(Trouble(hung_devices=("cuda:0",)))
    assert await check(stub, "liveness") == {NOT_SERVING}
    assert await check(stub, "startup") == {SERVING}
    assert health.not_alive_because == "an engine process hung on cuda:0, and none could take its place"
    health.update([POEMS])
    assert await check(stub, "liveness") == {SERVING}, "a restart would cost the callers of poems their answers"
    health.update([STORIES])
    assert await check(stub, "liveness") == {NOT_SERVING}
    health.note(Trouble())
    assert await check(stub, "liveness") == {SERVING}


async def test_an_unreadable_directory_is_said_and_no_reason_for_a_restart(
    stub: HealthStub, health: HealthService
) -> None:
    health.note(Trouble(directory="models does not answer"))
    assert health.not_ready_because == "models does not answer"
    assert await check(stub, *ALIVE) == {SERVING}
    health.update([POEMS])
    assert health.not_ready_because == "", "what serves goes on"


async def test_what_does_not_depend_on_the_models_is_alive() -> None:
    health = HealthService(["rhapsode.v1.GenerationService"], alive=["rhapsode.v1.AdminService"])
    request = HealthCheckRequest(service="rhapsode.v1.AdminService")
    assert (await health.Check(request, None)).status == SERVING  # type: ignore[arg-type]


async def test_watch_tells_of_each_change_once(stub: HealthStub, health: HealthService) -> None:
    ready, model = changes(stub, ""), changes(stub, "model/poems")
    assert await following(ready) == NOT_SERVING
    assert await following(model) == UNKNOWN
    health.update([STORIES])
    health.update([POEMS])
    assert await following(ready) == SERVING
    assert await following(model) == SERVING
    health.update([POEMS, STORIES])
    health.drain("it is drained")
    assert await following(ready) == NOT_SERVING
    assert await following(model) == NOT_SERVING


async def test_watch_tells_of_liveness_too(stub: HealthStub, health: HealthService) -> None:
    liveness = changes(stub, "liveness")
    assert await following(liveness) == SERVING
    health.note(Trouble(hung_devices=("cpu",)))
    assert await following(liveness) == NOT_SERVING
    health.note(Trouble())
    assert await following(liveness) == SERVING


async def test_a_watcher_that_leaves_does_not_silence_the_others(stub: HealthStub, health: HealthService) -> None:
    leaving = stub.Watch(HealthCheckRequest())
    staying = changes(stub, "")
    assert (await leaving.read()).status == await following(staying) == NOT_SERVING
    leaving.cancel()
    assert await check(stub, "") == {NOT_SERVING}
    health.update([POEMS])
    assert await following(staying) == SERVING


async def test_the_health_port_has_health_and_nothing_else(server: Server, health: HealthService) -> None:
    assert server.health_address is not None
    assert server.health_address != server.address
    async with grpc.aio.insecure_channel(server.health_address) as channel:
        assert await check(HealthStub(channel), "liveness") == {SERVING}
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await GenerationServiceStub(channel).Generate(b"", timeout=PATIENCE)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_the_client_sees_it(client: AsyncClient, health: HealthService) -> None:
    assert await client.health() == "NOT_SERVING"
    health.update([POEMS])
    assert await client.health() == "SERVING"


def test_the_log_says_what_it_waits_for(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "rhapsode.rpc")
    health = HealthService([])
    health.update([STORIES])
    health.update([status_of("stories", VersionState.QUARANTINED, reason="load_failed: no weights")])
    health.update([POEMS])
    health.update([POEMS])
    health.drain("it is drained")
    health.resume()
    health.update([])
    health.note(Trouble(directory="models cannot be read", hung_devices=("cuda:1",)))
    health.note(Trouble())
    assert [record.message for record in caplog.records] == [
        "health: NOT_SERVING: waiting for the first version to be published",
        "health: NOT_SERVING: stories 3 is warming",
        "health: NOT_SERVING: stories 3 is quarantined (load_failed: no weights)",
        "health: SERVING",
        "health: NOT_SERVING: it is drained",
        "health: SERVING",
        "health: NOT_SERVING: waiting for the first version to be published",
        "health: NOT_SERVING: models cannot be read",
        "liveness: NOT_SERVING: an engine process hung on cuda:1, and none could take its place",
        "health: NOT_SERVING: waiting for the first version to be published",
        "liveness: SERVING",
    ]
