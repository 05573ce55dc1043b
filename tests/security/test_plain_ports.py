"""Health and metrics are for everybody who reaches them: therefore nobody can make them grow."""

import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub
from rhapsode_server.config import ServerConfig
from rhapsode_server.metrics import Metrics, MetricsServer, exporter
from rhapsode_server.rpc import health as health_module
from rhapsode_server.rpc.health import HealthService
from rhapsode_server.rpc.server import SERVICES, Server
from support.fake_models import PATIENCE, FakeModels


async def test_so_many_may_watch_and_who_leaves_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_module, "MAX_WATCHES", 2)
    config = ServerConfig(models=Path("models"), address="127.0.0.1:0", admin_address=None)
    server = Server(config, FakeModels(), Metrics(), HealthService(SERVICES))
    await server.start()
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = HealthStub(channel)
        watches = [stub.Watch(HealthCheckRequest(), timeout=PATIENCE) for _ in range(2)]
        for watch in watches:
            await watch.read()
        refused = stub.Watch(HealthCheckRequest(), timeout=PATIENCE)
        assert await refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await stub.Check(HealthCheckRequest(service="liveness"), timeout=PATIENCE)
        watches[0].cancel()
        assert await first_answer(stub)
    await server.stop()


async def first_answer(stub: HealthStub) -> Any:
    """Of a watch, once there is room for one: that the other has left takes the server a moment."""
    while True:
        watch = stub.Watch(HealthCheckRequest(), timeout=PATIENCE)
        if (answer := await watch.read()) is not grpc.aio.EOF:
            return answer
        assert await watch.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@contextmanager
def metrics_server() -> Iterator[MetricsServer]:
    server = MetricsServer(Metrics(), "127.0.0.1", 0)
    try:
        yield server
    finally:
        server.close()


def test_silent_connections_to_the_metrics_end_and_keep_few_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter, "MAX_CONNECTIONS", 4)
    monkeypatch.setattr(exporter._Handler, "timeout", 0.3)
    before = threading.active_count()
    with metrics_server() as server, ExitStack() as connections:
        open_ = [
            connections.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE))
            for _ in range(50)
        ]
        assert [each.recv(1) for each in open_[4:]] == [b""] * 46, "closed at once"
        assert threading.active_count() <= before + 1 + 4
        assert [each.recv(1) for each in open_[:4]] == [b""] * 4, "closed after a while"
        with urllib.request.urlopen(server.url, timeout=PATIENCE) as response:
            assert b"rhapsode_" in response.read()


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01" + b"\xff" * 500,
        b"GET " + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 1000 + b"\r\n",
        b"POST /metrics HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n",
    ],
    ids=range(4),
)
def test_what_is_no_scrape_harms_nobody(data: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    with metrics_server() as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as connection:
            connection.sendall(data)
        with urllib.request.urlopen(server.url, timeout=PATIENCE) as response:
            assert b"rhapsode_" in response.read()
    assert capfd.readouterr().err == ""
