"""The gRPC servers, for callers, operators and probes: services, health, reflection, interceptor, ports."""

import asyncio
import logging
import socket
from collections.abc import Sequence
from typing import Protocol

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from rhapsode.v1 import admin_pb2, admin_pb2_grpc, generation_pb2, generation_pb2_grpc, models_pb2, models_pb2_grpc

from rhapsode_server.config import ServerConfig
from rhapsode_server.errors import CannotStart
from rhapsode_server.identity import server_name
from rhapsode_server.metrics import Metrics
from rhapsode_server.models.served import ModelAdmin, Models
from rhapsode_server.rpc.access import Access
from rhapsode_server.rpc.admin import AdminService
from rhapsode_server.rpc.counted import METHODS, OUTCOME_LABELS
from rhapsode_server.rpc.credentials import server_credentials, watched_certificates
from rhapsode_server.rpc.exposed import exposure_warnings
from rhapsode_server.rpc.generation import GenerationService
from rhapsode_server.rpc.guard import Guard
from rhapsode_server.rpc.health import HealthService
from rhapsode_server.rpc.interceptor import CallInterceptor
from rhapsode_server.rpc.models import ModelService
from rhapsode_server.rpc.open_calls import OpenCalls
from rhapsode_server.rpc.openai_endpoint import openai_listener
from rhapsode_server.rpc.reception import Reception
from rhapsode_server.rpc.rotation import Rotation
from rhapsode_server.rpc.trace import NO_TRACING, Tracing
from rhapsode_server.rpc.transport import server_options

logger = logging.getLogger("rhapsode.rpc")

SERVICES = tuple(
    service.full_name
    for file in (generation_pb2.DESCRIPTOR, models_pb2.DESCRIPTOR)
    for service in file.services_by_name.values()
)
ADMIN_SERVICE = admin_pb2.DESCRIPTOR.services_by_name["AdminService"].full_name
_HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name


# Time for the last answers of calls that have just been ended to leave.
_STOP_GRACE = 0.5


class CannotListen(CannotStart):
    """What it takes is not to be had: an address, certificates, tokens. The text says which, and what to do."""


class AdministeredModels(Models, ModelAdmin, Protocol):
    """Models for callers and for operators."""


class Server:
    """Generation and models at `address`, the AdminService at `admin_address`, health alone at `health_address`; at
    `openai_address` generation and models over HTTP, in OpenAI's style.

    The latter three are None where they are off. Until `start` they hold what was configured, afterwards the actual
    ports. Create it within the event loop. Raises CannotStart where certificates or tokens cannot be used.
    """

    def __init__(
        self,
        config: ServerConfig,
        models: AdministeredModels,
        metrics: Metrics,
        health: HealthService,
        tracing: Tracing = NO_TRACING,
    ) -> None:
        access, self._credentials = _access(config), _credentials(config)
        self._warnings = tuple(exposure_warnings(config))
        open_calls, options = OpenCalls(), server_options(config)
        self.rotation = Rotation(health, open_calls)
        self.address = config.address
        self.admin_address = config.admin_address
        self.health_address = None if config.health_port is None else join_address(config.host, config.health_port)
        # The calls of operators are counted apart: one who waits for a version to load does not hold a shutdown up.
        receptions = [
            Reception(metrics, calls, access, tracing=tracing, logs_prompts=config.log_prompts)
            for calls in (open_calls, OpenCalls())
        ]
        metrics.expect_calls(METHODS, OUTCOME_LABELS)
        self._server, self._admin_server = (
            grpc.aio.server(interceptors=[Guard(access), CallInterceptor(each)], options=options) for each in receptions
        )
        self._health_server = grpc.aio.server(options=options)
        self._openai = openai_listener(config, models, metrics, health, access, receptions[0])
        generation = GenerationService(models, metrics, config.default_max_new_tokens)
        generation_pb2_grpc.add_GenerationServiceServicer_to_server(generation, self._server)
        models_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(models), self._server)
        admin = AdminService(models, self.rotation, server_name(config))
        admin_pb2_grpc.add_AdminServiceServicer_to_server(admin, self._admin_server)
        for server in (self._server, self._admin_server, self._health_server):
            health_pb2_grpc.add_HealthServicer_to_server(health, server)
        if config.reflection:
            reflection.enable_server_reflection((*SERVICES, _HEALTH, reflection.SERVICE_NAME), self._server)
            reflection.enable_server_reflection((ADMIN_SERVICE, _HEALTH, reflection.SERVICE_NAME), self._admin_server)

    @property
    def openai_address(self) -> str | None:
        return self._openai.address if self._openai else None

    async def start(self) -> None:
        """Raises CannotStart."""
        credentials, admin_credentials = self._credentials
        self.address = _bind(self._server, self.address, "--address", credentials)
        if self.admin_address is not None:
            self.admin_address = _bind(self._admin_server, self.admin_address, "--admin-address", admin_credentials)
            await self._admin_server.start()
        if self.health_address is not None:
            self.health_address = _bind(self._health_server, self.health_address, "--health-port")
            await self._health_server.start()
        if self._openai is not None:
            await self._openai.start()
        await self._server.start()
        for warning in self._warnings:
            logger.warning("%s", warning)

    async def stop(self) -> None:
        """End what is still open."""
        servers = (self._server, self._admin_server, self._health_server)
        stopping = [server.stop(_STOP_GRACE) for server in servers]
        await asyncio.gather(*stopping, *([self._openai.stop()] if self._openai else ()))


def join_address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _access(config: ServerConfig) -> Access:
    try:
        return Access.of(config)
    except ValueError as error:
        raise CannotListen(str(error)) from None


def _credentials(config: ServerConfig) -> Sequence[grpc.ServerCredentials | None]:
    """Of the callers' and of the operators' port: gRPC asks each for its certificates on its own."""
    try:
        certificates = watched_certificates(config)
    except ValueError as error:
        raise CannotListen(str(error)) from None
    asks = config.tls_client_ca is not None
    return [None if certificates is None else server_credentials(certificates, asks_clients=asks) for _ in range(2)]


def _bind(server: grpc.aio.Server, address: str, flag: str, credentials: grpc.ServerCredentials | None = None) -> str:
    """The address with its actual port."""
    if address.startswith("unix:") and _somebody_listens(address.removeprefix("unix:")):
        raise CannotListen(f"{flag}: cannot listen on {address}: another server does; choose another")
    try:
        port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    except RuntimeError:
        raise CannotListen(
            f"{flag}: cannot listen on {address}: it is in use, or not an address of this machine; choose another"
        ) from None
    return address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}"


def _somebody_listens(path: str) -> bool:
    """gRPC would take a Unix socket over from a server that lives."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(path) == 0
