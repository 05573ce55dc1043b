"""Connections of the endpoint: where they come in, how many there are, how long they stay."""

import asyncio
import logging
import socket
import ssl
import time
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from aiohttp import web

from rhapsode_server.config import ServerConfig
from rhapsode_server.errors import CannotStart
from rhapsode_server.rpc.openai.endpoint import Endpoint
from rhapsode_server.rpc.transport import max_connections

# Without a request, from the beginning on. Proxies in between close theirs sooner.
IDLE_SECONDS = 75.0
_HANDSHAKE_SECONDS = 10.0
# Time for the last answers of calls that have just been ended to leave.
_STOP_GRACE = 0.5
_MAX_HEADERS = 64

# Bytes that are no HTTP are answered with 400; aiohttp would log each with a traceback that quotes them.
_quiet = logging.getLogger("rhapsode.http")
_quiet.setLevel(logging.CRITICAL)


class Listener:
    """Between `start` and `stop` it accepts connections at `address`, which then has its actual port."""

    def __init__(self, endpoint: Endpoint, config: ServerConfig, tls: ssl.SSLContext | None) -> None:
        assert config.openai_address is not None
        self.address = config.openai_address
        self._endpoint = endpoint
        self._tls = tls
        self._max_age = config.max_connection_age
        # One of gRPC's ports may have as many again.
        self._most = max_connections() // 2
        self._num_handshakes = 0
        self._opened_at: dict[Any, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        idle = IDLE_SECONDS if config.max_connection_idle is None else min(IDLE_SECONDS, config.max_connection_idle)
        self._http = web.Server(
            self._answer,
            handler_cancellation=True,
            access_log=None,
            logger=_quiet,
            keepalive_timeout=idle,
            max_headers=_MAX_HEADERS,
            auto_decompress=False,
        )

    async def start(self) -> None:
        """Raises CannotStart."""
        listening = _bound(self.address)
        self.address = f"{self.address.rpartition(':')[0]}:{listening.getsockname()[1]}"
        self._begin(self._accept(listening))

    async def stop(self) -> None:
        """End what is still open."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._http.pre_shutdown()
        await self._http.shutdown(_STOP_GRACE)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        response = await self._endpoint.answer(request)
        opened_at = self._opened_at.get(request.protocol, 0.0)
        if self._max_age is not None and time.monotonic() - opened_at > self._max_age:
            response.force_close()
        return response

    async def _accept(self, listening: socket.socket) -> None:
        with listening:
            while True:
                try:
                    connection, _ = await asyncio.get_running_loop().sock_accept(listening)
                except OSError:
                    # No file is left, for example: others must end first.
                    await asyncio.sleep(1)
                    continue
                if len(self._http.connections) + self._num_handshakes >= self._most:
                    connection.close()
                else:
                    self._num_handshakes += 1
                    self._begin(self._open(connection))

    async def _open(self, connection: socket.socket) -> None:
        """A handshake counts as a connection: whoever stops in the middle of one has the file too."""
        protocol = self._http()
        self._note(protocol)
        limits: dict[str, Any] = {"ssl": self._tls, "ssl_handshake_timeout": _HANDSHAKE_SECONDS} if self._tls else {}
        try:
            with suppress(OSError):
                await asyncio.get_running_loop().connect_accepted_socket(lambda: protocol, connection, **limits)
        finally:
            self._num_handshakes -= 1

    def _note(self, protocol: Any) -> None:
        """That it is open from now on; those that are not any more are forgotten in one go, now and then."""
        if len(self._opened_at) > 2 * len(self._http.connections) + 64:
            still_open = self._http.connections
            self._opened_at = {each: self._opened_at[each] for each in still_open if each in self._opened_at}
        self._opened_at[protocol] = time.monotonic()

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _bound(address: str) -> socket.socket:
    """Raises CannotStart."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        # A name such as localhost has an address of each family.
        family, *_, where = min(found, key=lambda each: each[0] is not socket.AF_INET)
        listening = socket.create_server(where[:2], family=family, dualstack_ipv6=host == "::")
    except OSError as error:
        raise CannotStart(f"--openai-address: cannot listen on {address}: {error.strerror}; choose another") from None
    listening.setblocking(False)
    return listening
