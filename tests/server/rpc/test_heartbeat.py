"""The event loop beats: what is wrong reaches the health, and a loop that hangs is noticed by those outside."""

import asyncio
import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from rhapsode_server.config import ServerConfig
from rhapsode_server.metrics import Metrics
from rhapsode_server.models.served import Trouble
from rhapsode_server.rpc import heartbeat
from rhapsode_server.rpc.health import HealthService
from rhapsode_server.rpc.heartbeat import beat
from rhapsode_server.rpc.server import SERVICES, Server
from support.fake_models import PATIENCE, FakeModels

PROBE = HealthCheckRequest(service="liveness")


class NotedHealth(HealthService):
    """Tells of each beat."""

    def __init__(self, services: Sequence[str]) -> None:
        super().__init__(services)
        self._noted: asyncio.Queue[Trouble] = asyncio.Queue()

    def note(self, trouble: Trouble) -> None:
        super().note(trouble)
        self._noted.put_nowait(trouble)

    async def until_noted(self, trouble: Trouble) -> None:
        async with asyncio.timeout(PATIENCE):
            while await self._noted.get() != trouble:
                pass


@contextmanager
def beating(health: HealthService, models: FakeModels) -> "Iterator[asyncio.Task[None]]":
    task: asyncio.Task[None] = asyncio.ensure_future(beat(health, models, 0.01))
    try:
        yield task
    finally:
        task.cancel()


async def test_trouble_reaches_the_health_and_goes_again() -> None:
    health, models = NotedHealth(SERVICES), FakeModels()
    with beating(health, models):
        models.trouble = Trouble(hung_devices=("cpu",))
        await health.until_noted(models.trouble)
        assert health.not_alive_because
        models.trouble = Trouble()
        await health.until_noted(models.trouble)
        assert not health.not_alive_because


async def test_a_loop_that_stood_still_is_said(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.WARNING, "rhapsode.rpc")
    monkeypatch.setattr(heartbeat, "LATE", 0.05)
    health = NotedHealth(SERVICES)
    with beating(health, FakeModels()):
        await health.until_noted(Trouble())
        threading.Event().wait(0.1)  # nobody sets it: the loop stands still
        await health.until_noted(Trouble())
    assert caplog.messages[0].startswith("the event loop stood still for 0.")


def test_a_loop_that_hangs_answers_no_probe_and_one_that_goes_on_does(config: ServerConfig) -> None:
    """As a probe from outside sees it: nothing comes, and its own time-out is the answer."""
    with running_in_a_thread(config) as (server, loop):
        assert server.health_address
        released, hangs = threading.Event(), threading.Event()
        with grpc.insecure_channel(server.health_address) as channel:
            probe = HealthStub(channel)
            assert probe.Check(PROBE, timeout=PATIENCE).status == HealthCheckResponse.SERVING
            loop.call_soon_threadsafe(lambda: (hangs.set(), released.wait(PATIENCE)))
            assert hangs.wait(PATIENCE)
            with pytest.raises(grpc.RpcError) as caught:
                probe.Check(PROBE, timeout=0.3)
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            released.set()
            assert probe.Check(PROBE, timeout=PATIENCE).status == HealthCheckResponse.SERVING


@contextmanager
def running_in_a_thread(config: ServerConfig) -> Iterator[tuple[Server, asyncio.AbstractEventLoop]]:
    """A server whose loop is not the test's."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def started() -> Server:
        server = Server(config, FakeModels(), Metrics(), HealthService(SERVICES))
        await server.start()
        return server

    try:
        server = asyncio.run_coroutine_threadsafe(started(), loop).result(PATIENCE)
        yield server, loop
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(PATIENCE)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
