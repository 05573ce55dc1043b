"""What is served, and whether anything is."""

import asyncio

import pytest
from openai import AsyncOpenAI, NotFoundError
from rhapsode_server.models.served import ModelStatus, VersionState, VersionStatus
from rhapsode_server.rpc.health import HealthService
from rhapsode_server.rpc.server import Server
from support.fake_models import LIMITS, PATIENCE, FakeModels, status_of
from support.http1 import connected, request


@pytest.fixture
def _fleet(models: FakeModels) -> None:
    states = [VersionState.READY, VersionState.SERVING, VersionState.LOADING, VersionState.QUARANTINED]
    versions = tuple(
        VersionStatus(version=number, state=state, limits=LIMITS if number < 3 else None)
        for number, state in enumerate(states, 1)
    )
    models.known = [ModelStatus(name="poems", versions=versions), status_of("stories", VersionState.LOADING)]


@pytest.mark.usefixtures("_fleet")
async def test_models_that_answer_are_listed_by_the_names_that_a_call_may_use(openai: AsyncOpenAI) -> None:
    found = [model async for model in openai.models.list()]
    assert [model.id for model in found] == ["poems", "poems@1", "poems@2"]
    assert {model.object for model in found} == {"model"}
    assert [model.model_extra for model in found] == [{"max_model_len": LIMITS.context_length}] * 3


@pytest.mark.usefixtures("_fleet")
async def test_one_of_them(openai: AsyncOpenAI) -> None:
    assert (await openai.models.retrieve("poems@1")).id == "poems@1"
    for name in ("poems@3", "stories", "../poems"):
        with pytest.raises(NotFoundError) as caught:
            await openai.models.retrieve(name)
        assert caught.value.code == "not_found"


async def health_of(server: Server) -> tuple[int, bytes]:
    async with asyncio.timeout(PATIENCE), connected(str(server.openai_address)) as connection:
        answer = await connection.ask(request("GET", "/health"))
        return answer.status, answer.body


async def test_health_is_that_of_grpc(server: Server, health: HealthService) -> None:
    assert await health_of(server) == (503, b'{"status": "not ready"}')
    health.update([status_of("poems", VersionState.SERVING)])
    assert await health_of(server) == (200, b'{"status": "ok"}')
    server.rotation.drain()
    assert await health_of(server) == (503, b'{"status": "not ready"}')
