"""Binds an address and serves the page until Ctrl-C."""

import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address
from typing import Any, cast

import uvicorn
from fastapi import FastAPI
from nicegui import ui
from starlette.middleware.trustedhost import TrustedHostMiddleware

from rhapsode_client import AsyncClient
from rhapsode_client.connection import Connection
from rhapsode_client.credentials import CredentialOptions
from rhapsode_client.ui.page import build

THIS_MACHINE = ("localhost", "[::1]", "::1")
# A browser that is busy with a long answer is given so long before it starts anew.
RECONNECT_SECONDS = 30.0


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0: any free one. Raises OSError."""
    [(family, kind, protocol, _, address), *_] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen()
    except OSError:
        listening.close()
        raise
    return listening


def url(listening: socket.socket) -> str:
    """What to type into a browser on this machine."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def serve(listening: socket.socket, target: Mapping[str, Any], announce: Callable[[], None]) -> None:
    """Serves the page with a client of `target`, until SIGINT or SIGTERM. `announce` is called when it answers."""
    config = uvicorn.Config(
        _application(target, announce, _hosts(listening.getsockname()[0])),
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=1,
    )
    uvicorn.Server(config).run(sockets=[listening])


def _application(target: Mapping[str, Any], announce: Callable[[], None], hosts: Sequence[str]) -> FastAPI:
    connection = _connection(target)
    clients: list[AsyncClient] = []

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with AsyncClient(**target) as client:
            clients.append(client)
            announce()
            yield

    def page() -> None:
        build(clients[0], connection)

    application = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    application.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts)
    ui.run_with(
        application,
        root=page,
        title="Rhapsode playground",
        dark=None,
        show_welcome_message=False,
        reconnect_timeout=RECONNECT_SECONDS,
    )
    return application


def _hosts(bound: str) -> Sequence[str]:
    """The names that a browser may give the page.

    A web site whose name is made to mean this machine must not get to the server with the person's credentials.
    """
    return (bound, *THIS_MACHINE) if ip_address(bound).is_loopback else ("*",)


def _connection(target: Mapping[str, Any]) -> Connection:
    """How the client of these arguments reaches the server."""
    credentials = cast(CredentialOptions, {name: target.get(name) for name in CredentialOptions.__annotations__})
    return Connection.resolve(target["address"], target["timeout"], None, target.get("config"), credentials)
