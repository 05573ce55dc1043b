"""The gRPC servers, for callers, operators and probes: services, health, reflection, interceptor, ports."""

import asyncio
import socket
from collections.abc import Sequence
from typing import Protocol

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from rhapsode.v1 import admin_pb2, admin_pb2_grpc, generation_pb2, generation_pb2_grpc, models_pb2, models_pb2_grpc

from rhapsode_server.config import ServerConfig
from rhapsode_server.identity import server_name
from rhapsode_server.metrics import Metrics
from rhapsode_server.models.limits import REQUEST_LIMITS
from rhapsode_server.models.served import ModelAdmin, Models
from rhapsode_server.rpc.admin import AdminService
from rhapsode_server.rpc.generation import GenerationService
from rhapsode_server.rpc.health import HealthService
from rhapsode_server.rpc.interceptor import CallInterceptor
from rhapsode_server.rpc.models import ModelService
from rhapsode_server.rpc.open_calls import OpenCalls
from rhapsode_server.rpc.rotation import Rotation

SERVICES = tuple(
    service.full_name
    for file in (generation_pb2.DESCRIPTOR, models_pb2.DESCRIPTOR)
    for service in file.services_by_name.values()
)
ADMIN_SERVICE = admin_pb2.DESCRIPTOR.services_by_name["AdminService"].full_name
_HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name

_OPTIONS: Sequence[tuple[str, int]] = (
    # A prompt that is far too long must reach the check that says so.
    ("grpc.max_receive_message_length", REQUEST_LIMITS.max_message_bytes),
    # Without it a second server on the same port would silently take half of the calls.
    ("grpc.so_reuseport", 0),
    # Clients may ping every 10 s (5 s leaves room for jitter), also between calls.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    # A client whose machine is gone is noticed, and its streams end.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)


# Time for the last answers of calls that have just been ended to leave.
_STOP_GRACE = 0.5


class CannotListen(Exception):  # noqa: N818  (named as the others are)
    """An address is not to be had; the text says which and what to do."""


class AdministeredModels(Models, ModelAdmin, Protocol):
    """Models for callers and for operators."""


class Server:
    """Generation and models at `address`, the AdminService at `admin_address`, health alone at `health_address`.

    The latter two are None where they are off. Until `start` they hold what was configured, afterwards the actual
    ports. Create it within the event loop.
    """

    def __init__(
        self, config: ServerConfig, models: AdministeredModels, metrics: Metrics, health: HealthService
    ) -> None:
        open_calls = OpenCalls()
        self.rotation = Rotation(health, open_calls)
        self.address = config.address
        self.admin_address = config.admin_address
        self.health_address = None if config.health_port is None else join_address(config.host, config.health_port)
        self._server = grpc.aio.server(interceptors=[CallInterceptor(metrics, open_calls)], options=_OPTIONS)
        # Its calls are counted apart: an operator who waits for a version to load does not hold a shutdown up.
        self._admin_server = grpc.aio.server(interceptors=[CallInterceptor(metrics, OpenCalls())], options=_OPTIONS)
        self._health_server = grpc.aio.server(options=_OPTIONS)
        generation = GenerationService(models, metrics, config.default_max_new_tokens)
        generation_pb2_grpc.add_GenerationServiceServicer_to_server(generation, self._server)
        models_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(models), self._server)
        admin = AdminService(models, self.rotation, server_name(config))
        admin_pb2_grpc.add_AdminServiceServicer_to_server(admin, self._admin_server)
        for server in (self._server, self._admin_server, self._health_server):
            health_pb2_grpc.add_HealthServicer_to_server(health, server)
        reflection.enable_server_reflection((*SERVICES, _HEALTH, reflection.SERVICE_NAME), self._server)
        reflection.enable_server_reflection((ADMIN_SERVICE, _HEALTH, reflection.SERVICE_NAME), self._admin_server)

    async def start(self) -> None:
        """Raises CannotListen."""
        self.address = _bind(self._server, self.address, "--address")
        if self.admin_address is not None:
            self.admin_address = _bind(self._admin_server, self.admin_address, "--admin-address")
            await self._admin_server.start()
        if self.health_address is not None:
            self.health_address = _bind(self._health_server, self.health_address, "--health-port")
            await self._health_server.start()
        await self._server.start()

    async def stop(self) -> None:
        """End what is still open."""
        servers = (self._server, self._admin_server, self._health_server)
        await asyncio.gather(*(server.stop(_STOP_GRACE) for server in servers))


def join_address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _bind(server: grpc.aio.Server, address: str, flag: str) -> str:
    """The address with its actual port."""
    if address.startswith("unix:") and _somebody_listens(address.removeprefix("unix:")):
        raise CannotListen(f"{flag}: cannot listen on {address}: another server does; choose another")
    try:
        port = server.add_insecure_port(address)
    except RuntimeError:
        raise CannotListen(
            f"{flag}: cannot listen on {address}: it is in use, or not an address of this machine; choose another"
        ) from None
    return address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}"


def _somebody_listens(path: str) -> bool:
    """gRPC would take a Unix socket over from a server that lives."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(path) == 0
