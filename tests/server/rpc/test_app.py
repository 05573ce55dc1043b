"""The whole front-end from start to end, with signals as an operator sends them."""

import asyncio
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from rhapsode_client import AsyncClient
from rhapsode_client.errors import Unavailable
from rhapsode_server import errors
from rhapsode_server.config import ServerConfig
from rhapsode_server.engine.request import FinishReason
from rhapsode_server.models.served import ModelStatus, VersionState
from rhapsode_server.rpc.app import serve
from rhapsode_server.rpc.server import CannotListen
from support.fake_models import PATIENCE, FakeModels, status_of

CONFIG = ServerConfig(
    models=Path("models"),
    address="127.0.0.1:0",
    admin_address="127.0.0.1:0",
    metrics_port=0,
    drain_timeout=PATIENCE,
)


class FollowingModels(FakeModels):
    """Serves from `start` on; `stop` fails the open streams, as a worker that ends does."""

    on_change: Callable[[list[ModelStatus]], None]

    async def start(self) -> None:
        self.on_change([status_of("poems", VersionState.SERVING)])

    async def stop(self) -> None:
        await super().stop()
        for request in self.engine.requests:
            if not request.closed.is_set():
                request.stream.fail(errors.WorkerLost("the engine process ended"))


class Log(logging.Handler):
    """What the server says, and a way to wait for it."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.messages: list[str] = []
        self._news = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())
        self._news.set()

    async def until(self, text: str) -> None:
        async with asyncio.timeout(PATIENCE):
            while text not in str(self):
                self._news.clear()
                await self._news.wait()

    def __str__(self) -> str:
        return "\n".join(self.messages)


@pytest.fixture
def log() -> Iterator[Log]:
    logger, log = logging.getLogger("rhapsode.rpc"), Log()
    logger.addHandler(log)
    logger.setLevel(logging.INFO)
    yield log
    logger.setLevel(logging.NOTSET)
    logger.removeHandler(log)


@dataclass(slots=True)
class Running:
    """A server in this process."""

    models: FollowingModels
    log: Log
    ended: "asyncio.Future[None]" = field(init=False)

    @property
    def address(self) -> str:
        return self._announced(r"gRPC on ([^\s,]+)")

    @property
    def metrics_url(self) -> str:
        return self._announced(r"metrics on ([^\s,]+)")

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        os.kill(os.getpid(), number)

    async def end(self) -> None:
        async with asyncio.timeout(PATIENCE):
            await self.ended

    def _announced(self, pattern: str) -> str:
        match = re.search(pattern, str(self.log))
        assert match
        return match[1]


@asynccontextmanager
async def running(log: Log, **changes: Any) -> AsyncIterator[Running]:
    server = Running(FollowingModels(), log)

    def make_models(*, on_change: Callable[[list[ModelStatus]], None], **_: Any) -> FollowingModels:
        server.models.on_change = on_change
        return server.models

    server.ended = asyncio.ensure_future(serve(replace(CONFIG, **changes), make_models))
    await log.until("health: SERVING")
    await log.until("gRPC on")
    yield server
    if not server.ended.done():
        server.signal()
    await server.end()
    assert server.models.stopped


async def test_it_says_where_it_listens_and_stops_on_a_signal(log: Log) -> None:
    async with running(log, health_port=0) as server:
        async with AsyncClient(server.address) as client:
            assert await client.health() == "SERVING"
        body = await asyncio.to_thread(_fetch, server.metrics_url)
        assert "rhapsode_build_info{" in body
        server.signal(signal.SIGINT)
    host = r"127\.0\.0\.1:\d+"
    places = f"gRPC on {host}, metrics on http://{host}/metrics, admin on {host}, health on {host}"
    assert re.search(f"serving models: {places}", str(log))


def _fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=PATIENCE) as response:
        return str(response.read().decode())


async def test_open_streams_finish_while_new_calls_are_refused(log: Log) -> None:
    async with running(log) as server, AsyncClient(server.address) as client:
        engine = server.models.engine
        streams = [client.stream("Sing") for _ in range(16)]
        requests = [await engine.arrival() for _ in streams]
        for request in requests:
            request.says("O ")
        assert [(await anext(stream)).text for stream in streams] == ["O "] * 16
        server.signal()
        await log.until("draining")
        with pytest.raises(Unavailable, match="the server is shutting down") as caught:
            await client.generate("Sing")
        assert caught.value.retry_after == 1.0
        assert await client.health() == "NOT_SERVING"
        assert await client.health("liveness") == "SERVING"
        assert [model.name for model in await client.models()] == ["poems"]
        assert not server.ended.done()
        for request in requests:
            request.says("goddess", FinishReason.LENGTH)
        answers = await asyncio.gather(*(stream.result() for stream in streams))
        assert {answer.text for answer in answers} == {"O goddess"}
        await server.end()


async def test_calls_are_still_accepted_during_the_shutdown_delay(log: Log) -> None:
    async with running(log, shutdown_delay=3600.0) as server, AsyncClient(server.address) as client:
        server.models.engine.will_say("sea")
        server.signal()
        await log.until("health: NOT_SERVING: the server is shutting down")
        assert await client.health() == "NOT_SERVING"
        assert (await client.generate("Sing")).text == "sea"
        server.signal()
        await server.end()


@pytest.mark.parametrize(("drain_timeout", "signals"), [(0.1, 1), (3600.0, 2)])
async def test_streams_that_do_not_end_are_cut_off(log: Log, drain_timeout: float, signals: int) -> None:
    async with running(log, drain_timeout=drain_timeout) as server, AsyncClient(server.address) as client:
        stream = client.stream("Sing")
        (await server.models.engine.arrival()).says("O")
        assert (await anext(stream)).text == "O"
        for _ in range(signals):
            server.signal()
            await log.until("draining")
        with pytest.raises(Unavailable) as caught:
            await stream.result()
        assert caught.value.retry_after == 1.0
        await server.end()
    assert "calls are cut off" in str(log)


async def test_a_watcher_of_the_health_does_not_hold_the_server_up(log: Log) -> None:
    async with running(log, drain_timeout=3600.0) as server, AsyncClient(server.address) as client:
        watch = client._channel.unary_stream("/grpc.health.v1.Health/Watch")(b"")
        await watch.read()
        server.signal()
        await server.end()


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


async def test_a_metrics_port_in_use(taken_port: int) -> None:
    with pytest.raises(CannotListen, match=f"--metrics-port: cannot listen on .*:{taken_port}: Address already in use"):
        await serve(replace(CONFIG, metrics_port=taken_port), lambda **_: FakeModels())


@pytest.mark.parametrize("setting", ["address", "admin_address"])
async def test_an_address_in_use_stops_everything_again(taken_port: int, setting: str) -> None:
    models = FakeModels()
    with pytest.raises(CannotListen, match=f"--{setting.replace('_', '-')}: "):
        await serve(replace(CONFIG, **{setting: f"127.0.0.1:{taken_port}"}), lambda **_: models)
    assert models.stopped


def test_the_command_says_so_and_exits_with_2(taken_port: int, tmp_path: Path) -> None:
    flags = ["--models", str(tmp_path), "--address", f"127.0.0.1:{taken_port}", "--metrics-port", "off"]
    flags += ["--admin-address", "off"]
    done = subprocess.run(
        [sys.executable, "-m", "rhapsode_server", *flags], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert f"rhapsode-serve: --address: cannot listen on 127.0.0.1:{taken_port}: it is in use" in done.stderr
    assert "Traceback" not in done.stderr


async def test_without_metrics_and_admin(log: Log) -> None:
    async with running(log, metrics_port=None, health_port=0, admin_address=None):
        pass
    assert "metrics on" not in str(log)
    assert "admin on" not in str(log)
