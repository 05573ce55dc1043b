"""TLS: who is let in by its certificate, and certificates that change while the server runs."""

import asyncio
import logging
import os
import re
import shutil
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from rhapsode_client import AsyncClient, errors
from rhapsode_client.admin import AdminClient
from rhapsode_server.config import ServerConfig
from rhapsode_server.engine.request import FinishReason
from rhapsode_server.metrics import Metrics
from rhapsode_server.rpc.health import HealthService
from rhapsode_server.rpc.server import CannotListen, Server
from rhapsode_server.tokens import digest_of
from support.certificates import HAS_OPENSSL, WITHOUT_OPENSSL, Authority, Pair
from support.fake_models import FakeEngine, FakeModels

pytestmark = pytest.mark.skipif(not HAS_OPENSSL, reason=WITHOUT_OPENSSL)

LOCAL = "DNS:localhost,IP:127.0.0.1"


@dataclass(frozen=True)
class Issued:
    """Everybody's certificates. `stranger` is an authority that the server does not trust."""

    authority: Authority
    stranger: Authority
    first: Pair
    second: Pair
    search: Pair
    by_common_name: Pair
    named_otherwise: Pair
    impostor: Pair
    expired: Pair


@pytest.fixture(scope="module")
def issued(tmp_path_factory: pytest.TempPathFactory) -> Issued:
    ours = Authority(tmp_path_factory.mktemp("authority"))
    stranger = Authority(tmp_path_factory.mktemp("stranger"))
    return Issued(
        authority=ours,
        stranger=stranger,
        first=ours.issue("first", names=LOCAL),
        second=ours.issue("second", names=LOCAL),
        search=ours.issue("search", subject="/CN=other", names="DNS:unknown,URI:spiffe://fleet/search"),
        by_common_name=ours.issue("common", subject="/CN=spiffe:\\/\\/fleet\\/search"),
        named_otherwise=ours.issue("otherwise", subject="/CN=spiffe:\\/\\/fleet\\/search", names="DNS:guest"),
        impostor=stranger.issue("impostor", names="URI:spiffe://fleet/search"),
        expired=ours.issue_expired("expired", names="URI:spiffe://fleet/search"),
    )


@dataclass(frozen=True)
class Files:
    """Those that the server reads."""

    folder: Path

    @property
    def pair(self) -> Pair:
        return Pair(cert=self.folder / "tls.crt", key=self.folder / "tls.key")

    @property
    def client_ca(self) -> Path:
        return self.folder / "clients.pem"

    def install(self, pair: Pair) -> None:
        _replace(pair.cert, self.pair.cert)
        _replace(pair.key, self.pair.key)


def _replace(source: Path, target: Path) -> None:
    shutil.copy(source, target.with_suffix(".new"))
    os.replace(target.with_suffix(".new"), target)


@pytest.fixture
def files(tmp_path: Path, issued: Issued) -> Files:
    files = Files(tmp_path)
    files.install(issued.first)
    shutil.copy(issued.authority.cert, files.client_ca)
    return files


@pytest.fixture
def config(config: ServerConfig, files: Files) -> ServerConfig:
    return replace(config, tls_cert=files.pair.cert, tls_key=files.pair.key)


@pytest.fixture
def asking(config: ServerConfig, files: Files) -> ServerConfig:
    """Of a server that asks callers for certificates."""
    return replace(config, tls_client_ca=files.client_ca)


@asynccontextmanager
async def started(config: ServerConfig, models: FakeModels, metrics: Metrics) -> AsyncIterator[Server]:
    server = Server(config, models, metrics, HealthService(()))
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def as_caller(authority: Authority, pair: Pair | None = None) -> dict[str, Any]:
    own = {"tls_cert": pair.cert, "tls_key": pair.key} if pair else {}
    return {"tls_ca": authority.cert, "timeout": 10.0, **own}


async def is_let_in(server: Server, caller: dict[str, Any]) -> bool:
    """Whether a call on a new connection is answered. The alternative is that there is no connection."""
    async with AsyncClient(server.address, **caller) as client:
        try:
            return bool(await client.models())
        except errors.Unavailable as error:
            if error.retry_after is not None:
                raise  # a server has answered
            return False


async def test_everything_goes_encrypted(server: Server, engine: FakeEngine, issued: Issued) -> None:
    engine.will_say("sea")
    async with AsyncClient(server.address, **as_caller(issued.authority)) as client:
        assert (await client.generate("Sing")).text == "sea"
        assert await client.health("startup") == "SERVING"
        async with client.stream("Sing") as stream:
            assert (await stream.result()).text == "sea"


async def test_nothing_goes_in_the_clear(server: Server) -> None:
    assert server.admin_address
    for address in (server.address, server.admin_address):
        async with AsyncClient(address, timeout=10) as client:
            with pytest.raises(errors.Unavailable):
                await client.health("startup")


async def test_the_health_port_is_for_probes_that_know_no_certificates(server: Server) -> None:
    assert server.health_address
    async with AsyncClient(server.health_address) as client:
        assert await client.health("startup") == "SERVING"
        with pytest.raises(errors.ServerError, match=r"Method not found"):
            await client.models()


async def test_a_caller_does_not_take_another_server_for_this_one(server: Server, issued: Issued) -> None:
    assert not await is_let_in(server, as_caller(issued.stranger))
    assert not await is_let_in(server, {**as_caller(issued.authority), "tls_server_name": "poems.example"})
    assert await is_let_in(server, {**as_caller(issued.authority), "tls_server_name": "localhost"})


async def test_a_unix_socket_is_encrypted_too(
    config: ServerConfig, models: FakeModels, metrics: Metrics, issued: Issued, tmp_path: Path
) -> None:
    async with started(replace(config, address=f"unix:{tmp_path}/socket"), models, metrics) as server:
        assert await is_let_in(server, {**as_caller(issued.authority), "tls_server_name": "localhost"})
        assert not await is_let_in(server, {"timeout": 10.0})


async def test_who_has_no_certificate_of_the_authority_has_no_connection(
    asking: ServerConfig, models: FakeModels, metrics: Metrics, issued: Issued, files: Files
) -> None:
    async with started(asking, models, metrics) as server:
        assert await is_let_in(server, as_caller(issued.authority, issued.search))
        assert not await is_let_in(server, as_caller(issued.authority))
        assert not await is_let_in(server, as_caller(issued.authority, issued.impostor))
        assert not await is_let_in(server, as_caller(issued.authority, issued.expired))
        assert server.admin_address
        with (
            AdminClient(server.admin_address, **as_caller(issued.authority)) as admin,
            pytest.raises(errors.Unavailable),
        ):
            admin.status()


@pytest.mark.parametrize(
    ("caller", "names", "allowed"),
    [
        ("search", ["spiffe://fleet/search"], True),
        ("search", ["a", "unknown"], True),
        ("search", ["other"], False),
        ("search", ["spiffe://fleet/*", "spiffe://fleet", "SPIFFE://FLEET/SEARCH"], False),
        ("by_common_name", ["spiffe://fleet/search"], True),
        ("named_otherwise", ["spiffe://fleet/search"], False),
        ("named_otherwise", ["guest"], True),
    ],
)
async def test_only_allowed_names_may_call_anything(
    asking: ServerConfig,
    models: FakeModels,
    metrics: Metrics,
    issued: Issued,
    caller: str,
    names: list[str],
    allowed: bool,
) -> None:
    async with (
        started(replace(asking, tls_client_names=tuple(names)), models, metrics) as server,
        AsyncClient(server.address, **as_caller(issued.authority, getattr(issued, caller))) as client,
    ):
        for call in (client.models, lambda: client.health("startup"), lambda: client.generate("", max_new_tokens=0)):
            if allowed:
                assert await call()
            else:
                with pytest.raises(errors.PermissionDenied, match="no name in this certificate"):
                    await call()


async def test_the_log_has_the_certificates_name(
    asking: ServerConfig, models: FakeModels, metrics: Metrics, issued: Issued, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for names in ((), ("spiffe://fleet/search",), ("guest",)):
        async with (
            started(replace(asking, tls_client_names=names), models, metrics) as server,
            AsyncClient(server.address, **as_caller(issued.authority, issued.search)) as client,
        ):
            with suppress(errors.PermissionDenied):
                await client.models()
    callers = [record.fields["caller"] for record in caplog.records if record.getMessage() == "request"]  # type: ignore[attr-defined]
    assert callers == ["unknown", "spiffe://fleet/search", "unknown"]


async def test_a_certificate_is_no_token(
    asking: ServerConfig, models: FakeModels, metrics: Metrics, issued: Issued, tmp_path: Path
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"team sha256:{digest_of('rhp_secret').hex()}\n")
    caller = as_caller(issued.authority, issued.search)
    async with started(replace(asking, tokens_file=tokens), models, metrics) as server:
        async with AsyncClient(server.address, **caller) as client:
            with pytest.raises(errors.Unauthenticated):
                await client.models()
        assert await is_let_in(server, {**caller, "token": "rhp_secret"})
        assert not await is_let_in(server, {**as_caller(issued.authority), "token": "rhp_secret"})


async def served_certificate(server: Server, issued: Issued) -> Pair:
    """The pair that new connections are shown: each is trusted alone."""
    shown = [pair for pair in (issued.first, issued.second) if await _trusts(server, pair)]
    assert len(shown) == 1
    return shown[0]


async def _trusts(server: Server, pair: Pair) -> bool:
    host, _, port = server.address.rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return bool(shown == ssl.PEM_cert_to_DER_cert(pair.cert.read_text()))


async def test_a_new_certificate_is_for_new_connections_and_open_streams_go_on(
    server: Server, engine: FakeEngine, issued: Issued, files: Files
) -> None:
    async with AsyncClient(server.address, **as_caller(issued.authority)) as client, client.stream("Sing") as stream:
        request = await engine.arrival()
        assert await served_certificate(server, issued) is issued.first
        files.install(issued.second)
        assert await served_certificate(server, issued) is issued.second
        assert await is_let_in(server, as_caller(issued.authority))
        assert server.admin_address
        request.says("sea", FinishReason.LENGTH)
        assert (await stream.result()).text == "sea"


@pytest.fixture
def broken(issued: Issued, tmp_path: Path) -> dict[str, Pair]:
    rubbish = tmp_path / "rubbish"
    rubbish.write_text("rubbish")
    locked = issued.authority.issue("locked", names=LOCAL, passphrase="secret")
    return {
        "a certificate without its key": Pair(cert=issued.second.cert, key=issued.first.key),
        "rubbish for a certificate": Pair(cert=rubbish, key=issued.second.key),
        "rubbish for a key": Pair(cert=issued.second.cert, key=rubbish),
        "a key that needs a passphrase": locked,
        "a key that gRPC does not take": issued.authority.issue("ed25519", names=LOCAL, key=("ed25519",)),
    }


BROKEN = [
    ("a certificate without its key", r"are no pair of PEM files: \w+"),
    ("rubbish for a certificate", r"are no pair of PEM files: \w+"),
    ("rubbish for a key", r"are no pair of PEM files: \w+"),
    ("a key that gRPC does not take", "a kind of key that gRPC does not take; take RSA, P-256 or P-384"),
    ("a key that needs a passphrase", "needs a passphrase; give a key without one"),
]


@pytest.mark.parametrize(("what", "message"), BROKEN)
async def test_a_broken_pair_leaves_the_old_one(
    server: Server,
    issued: Issued,
    files: Files,
    broken: dict[str, Pair],
    caplog: pytest.LogCaptureFixture,
    what: str,
    message: str,
) -> None:
    files.install(broken[what])
    for _ in range(2):
        assert await served_certificate(server, issued) is issued.first
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(told) == 1
    assert told[0].startswith("--tls-cert has changed and cannot be used, what it was before still holds: ")
    assert re.search(message, told[0])
    files.install(issued.second)
    assert await served_certificate(server, issued) is issued.second


@pytest.mark.parametrize(("what", "message"), BROKEN)
def test_a_broken_pair_at_the_start_is_no_server(
    config: ServerConfig, files: Files, broken: dict[str, Pair], what: str, message: str
) -> None:
    files.install(broken[what])
    with pytest.raises(CannotListen, match=message):
        Server(config, FakeModels(), Metrics(), None)  # type: ignore[arg-type]


@pytest.mark.parametrize("key", [("rsa:2048",), ("ec", "-pkeyopt", "ec_paramgen_curve:P-384")])
async def test_other_kinds_of_keys(
    config: ServerConfig, models: FakeModels, metrics: Metrics, issued: Issued, files: Files, key: tuple[str, ...]
) -> None:
    files.install(issued.authority.issue("other-key", names=LOCAL, key=key))
    async with started(config, models, metrics) as server:
        assert await is_let_in(server, as_caller(issued.authority))


@pytest.mark.parametrize("flag", ["tls_cert", "tls_key", "tls_client_ca"])
def test_a_missing_file_at_the_start_is_named(asking: ServerConfig, flag: str) -> None:
    path = getattr(asking, flag)
    path.unlink()
    with pytest.raises(CannotListen, match=f"--{flag.replace('_', '-')}: cannot read {path}: No such file"):
        Server(asking, FakeModels(), Metrics(), None)  # type: ignore[arg-type]
    path.write_text("rubbish")
    with pytest.raises(CannotListen, match=r"are no pair|holds no certificates in PEM form"):
        Server(asking, FakeModels(), Metrics(), None)  # type: ignore[arg-type]


async def test_an_authority_may_be_replaced_while_the_server_runs(
    asking: ServerConfig, models: FakeModels, metrics: Metrics, issued: Issued, files: Files
) -> None:
    async with started(asking, models, metrics) as server:
        _replace(issued.stranger.cert, files.client_ca)
        assert not await is_let_in(server, as_caller(issued.authority, issued.search))
        assert await is_let_in(server, as_caller(issued.authority, issued.impostor))
        files.client_ca.write_text("rubbish")
        assert not await is_let_in(server, as_caller(issued.authority, issued.search))
        assert await is_let_in(server, as_caller(issued.authority, issued.impostor))
        both = issued.authority.cert.read_text() + issued.stranger.cert.read_text()
        files.client_ca.write_text(both)
        assert await is_let_in(server, as_caller(issued.authority, issued.search))
        assert await is_let_in(server, as_caller(issued.authority, issued.impostor))
