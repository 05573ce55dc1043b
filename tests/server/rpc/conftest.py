"""A real gRPC server on a free port, in front of fake models."""

from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest
from rhapsode.v1.generation_pb2_grpc import GenerationServiceStub
from rhapsode_client import AsyncClient
from rhapsode_server.config import ServerConfig
from rhapsode_server.metrics import Metrics
from rhapsode_server.rpc.health import HealthService
from rhapsode_server.rpc.server import SERVICES, Server
from support.fake_models import FakeEngine, FakeModels


@pytest.fixture
def config() -> ServerConfig:
    return ServerConfig(
        models=Path("models"),
        address="127.0.0.1:0",
        admin_address="127.0.0.1:0",
        health_port=0,
        default_max_new_tokens=20,
    )


@pytest.fixture
def models() -> FakeModels:
    return FakeModels()


@pytest.fixture
def engine(models: FakeModels) -> FakeEngine:
    return models.engine


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def health() -> HealthService:
    return HealthService(SERVICES)


@pytest.fixture
async def server(
    config: ServerConfig, models: FakeModels, metrics: Metrics, health: HealthService
) -> AsyncIterator[Server]:
    server = Server(config, models, metrics, health)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def channel(server: Server) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(server.address) as channel:
        yield channel


@pytest.fixture
def stub(channel: grpc.aio.Channel) -> GenerationServiceStub:
    return GenerationServiceStub(channel)


@pytest.fixture
async def client(server: Server) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.address) as client:
        yield client
