"""The server from start to end: listen, follow the models, drain, stop."""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Protocol

from rhapsode_server.config import ServerConfig
from rhapsode_server.metrics import Metrics, MetricsServer
from rhapsode_server.models.served import ModelStatus
from rhapsode_server.rpc.health import HealthService
from rhapsode_server.rpc.heartbeat import MayBeInTrouble, beat
from rhapsode_server.rpc.rotation import Rotation
from rhapsode_server.rpc.server import (
    ADMIN_SERVICE,
    SERVICES,
    AdministeredModels,
    CannotListen,
    Server,
    join_address,
)
from rhapsode_server.rpc.trace import open_tracing
from rhapsode_server.rpc.transport import allow_many_files

logger = logging.getLogger("rhapsode.rpc")


class RunningModels(AdministeredModels, MayBeInTrouble, Protocol):
    """Models that follow the model directory between `start` and `stop`."""

    async def start(self) -> None:
        """Begin; versions load in the background."""

    async def stop(self) -> None:
        """End everything; open streams fail."""


class MakeModels(Protocol):
    def __call__(
        self, *, config: ServerConfig, metrics: Metrics, on_change: Callable[[list[ModelStatus]], None]
    ) -> RunningModels: ...


class Shutdown:
    """Set by SIGTERM and SIGINT: the first asks to drain, the second to be quick about it."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.urgent = asyncio.Event()

    def ask(self) -> None:
        (self.urgent if self.asked.is_set() else self.asked).set()

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        signals = (signal.SIGTERM, signal.SIGINT)
        for each in signals:
            loop.add_signal_handler(each, self.ask)
        try:
            yield
        finally:
            for each in signals:
                loop.remove_signal_handler(each)

    async def patience(self, awaited: Awaitable[object], seconds: float | None = None) -> bool:
        """Wait for `awaited`, at most so many seconds and not when it is urgent. Whether it came."""
        task, urgent = asyncio.ensure_future(awaited), asyncio.ensure_future(self.urgent.wait())
        try:
            done, _ = await asyncio.wait((task, urgent), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            return task in done
        finally:
            task.cancel()
            urgent.cancel()


async def serve(config: ServerConfig, make_models: MakeModels) -> None:
    """Serve until SIGTERM or SIGINT. Raises CannotStart."""
    allow_many_files()
    shutdown, metrics = Shutdown(), Metrics(vllm_names=config.vllm_metric_names)
    health = HealthService(SERVICES, alive=(ADMIN_SERVICE,) if config.admin_address else ())
    models = make_models(config=config, metrics=metrics, on_change=health.update)
    with shutdown.on_signals(), open_tracing(config) as tracing, _metrics_server(config, metrics) as metrics_server:
        server = Server(config, models, metrics, health, tracing)
        async with _running(server, models), _beating(health, models):
            _announce(config, server, metrics_server)
            await shutdown.asked.wait()
            await _drain(config, server.rotation, shutdown)
    logger.info("stopped")


@asynccontextmanager
async def _running(server: Server, models: RunningModels) -> AsyncIterator[None]:
    try:
        await server.start()
        await models.start()
        yield
    finally:
        # In this order: streams that are still open fail with a reason before their connections close.
        await models.stop()
        await server.stop()


@asynccontextmanager
async def _beating(health: HealthService, models: RunningModels) -> AsyncIterator[None]:
    heartbeat = asyncio.get_running_loop().create_task(beat(health, models))
    try:
        yield
    finally:
        heartbeat.cancel()


async def _drain(config: ServerConfig, rotation: Rotation, shutdown: Shutdown) -> None:
    rotation.begin_shutdown()
    await shutdown.patience(asyncio.sleep(config.shutdown_delay))
    rotation.refuse_new_calls()
    logger.info("draining", extra={"fields": {"open_calls": rotation.num_open_calls}})
    if not await shutdown.patience(rotation.calls_finished(), config.drain_timeout):
        logger.warning("calls are cut off", extra={"fields": {"open_calls": rotation.num_open_calls}})


@contextmanager
def _metrics_server(config: ServerConfig, metrics: Metrics) -> Iterator[MetricsServer | None]:
    if config.metrics_port is None:
        yield None
        return
    try:
        server = MetricsServer(metrics, config.host, config.metrics_port)
    except OSError as error:
        address = join_address(config.host, config.metrics_port)
        raise CannotListen(f"--metrics-port: cannot listen on {address}: {error.strerror}; choose another") from None
    try:
        yield server
    finally:
        server.close()


def _announce(config: ServerConfig, server: Server, metrics_server: MetricsServer | None) -> None:
    places: Sequence[str] = (
        f"gRPC on {server.address}",
        *([f"metrics on {metrics_server.url}"] if metrics_server else ()),
        *([f"admin on {server.admin_address}"] if server.admin_address else ()),
        *([f"health on {server.health_address}"] if server.health_address else ()),
        *([f"OpenAI on {_scheme(config)}://{server.openai_address}/v1"] if server.openai_address else ()),
    )
    logger.info("serving %s: %s", config.models, ", ".join(places))


def _scheme(config: ServerConfig) -> str:
    return "http" if config.tls_cert is None else "https"
