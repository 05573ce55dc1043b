"""The server under test, and the way in: TLS, with a certificate that is renewed while callers come and go."""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio
from rhapsode.v1.admin_pb2 import GetStatusRequest, GetStatusResponse, ModelAdminStatus
from rhapsode.v1.admin_pb2_grpc import AdminServiceStub
from support.certificates import Authority, Pair
from support.operators import state_of
from support.servers import ServerProcess, running_server

PATIENCE = 120.0
POLL = 0.05

# Else two channels to an address share a connection, and nobody ever shakes hands again.
_OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)


@dataclass(frozen=True, slots=True)
class Target:
    """A server that shows the certificate of `pair`, which its `authority` may renew."""

    server: ServerProcess
    authority: Authority
    pair: Pair

    @asynccontextmanager
    async def channel(self, address: str = "") -> AsyncIterator[grpc.aio.Channel]:
        """A connection of its own."""
        credentials = grpc.ssl_channel_credentials(self.authority.cert.read_bytes())
        address = address or self.server.address
        async with grpc.aio.secure_channel(address, credentials, options=_OWN_CONNECTION) as channel:
            yield channel

    async def renew(self) -> None:
        """The server shows another certificate to whoever connects from then on."""
        fresh = _issue(self.authority, "fresh")
        os.replace(fresh.key, self.pair.key)
        os.replace(fresh.cert, self.pair.cert)
        host, _, port = self.server.address.rpartition(":")
        shown = await asyncio.to_thread(ssl.get_server_certificate, (host, int(port)), timeout=PATIENCE)
        assert ssl.PEM_cert_to_DER_cert(shown) == ssl.PEM_cert_to_DER_cert(self.pair.cert.read_text())


@dataclass(frozen=True, slots=True)
class Control:
    """What the server says of itself."""

    target: Target
    admin: AdminServiceStub

    @classmethod
    @asynccontextmanager
    async def of(cls, target: Target) -> AsyncIterator["Control"]:
        async with target.channel(target.server.admin_address) as channel:
            yield cls(target, AdminServiceStub(channel))

    async def status(self) -> GetStatusResponse:
        return await self.admin.GetStatus(GetStatusRequest(), timeout=PATIENCE)

    async def until(self, holds: Callable[[GetStatusResponse], object]) -> GetStatusResponse:
        """Nothing tells from outside: it asks again and again."""
        status = await self.status()
        try:
            async with asyncio.timeout(PATIENCE):
                while True:
                    if holds(status):
                        return status
                    await asyncio.sleep(POLL)
                    status = await self.status()
        except TimeoutError:
            raise AssertionError(f"it does not come to this:\n{status}\n{self.target.server.output[-5000:]}") from None

    async def until_serving(self, model: str, version: int) -> int:
        """Until all requests go to it, and its worker is ready. Returns its process id."""
        status = await self.until(lambda status: serving(status, model) == {version} and worker(status, model))
        return worker(status, model)


def of_model(status: GetStatusResponse, name: str) -> ModelAdminStatus:
    return next((each for each in status.models if each.model.name == name), ModelAdminStatus())


def serving(status: GetStatusResponse, name: str) -> set[int]:
    """The versions that serve."""
    versions = of_model(status, name).model.versions
    return {each.version for each in versions if state_of(each.state) == "serving"}


def worker(status: GetStatusResponse, name: str) -> int:
    """The process of the version that serves; 0 while it is not ready."""
    versions = serving(status, name)
    replicas = of_model(status, name).replicas
    return next((each.process_id for each in replicas if each.version in versions and each.ready), 0)


def is_at_rest(status: GetStatusResponse) -> bool:
    """Nobody calls, nothing loads, nothing ends, and the next worker waits."""
    states = {state_of(version.state) for model in status.models for version in model.model.versions}
    return not status.open_calls and status.standby_ready and states == {"serving"}


@contextmanager
def running_target(models: Path, folder: Path, *flags: str) -> Iterator[Target]:
    """A server of `models`; its certificates are in `folder`."""
    authority = Authority(folder)
    pair = _issue(authority, "server")
    tls = ("--tls-cert", str(pair.cert), "--tls-key", str(pair.key))
    with running_server(models, "--log-format", "json", *tls, *flags) as server:
        yield Target(server, authority, pair)


def _issue(authority: Authority, file: str) -> Pair:
    return authority.issue(file, names="DNS:localhost,IP:127.0.0.1")
