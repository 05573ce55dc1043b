"""What connections may do: how much they send, how long they say nothing, how many there are."""

import asyncio
import gzip
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from rhapsode_server.config import ServerConfig
from rhapsode_server.metrics import Metrics
from rhapsode_server.models.limits import REQUEST_LIMITS
from rhapsode_server.rpc.health import HealthService
from rhapsode_server.rpc.openai import exchange, listener
from rhapsode_server.rpc.server import Server
from support.certificates import HAS_OPENSSL, WITHOUT_OPENSSL, Authority
from support.fake_models import PATIENCE, FakeEngine, FakeModels
from support.http1 import connected, posted, request

ASKED = {"model": "poems", "prompt": "Sing"}
needs_openssl = pytest.mark.skipif(not HAS_OPENSSL, reason=WITHOUT_OPENSSL)
MOST = REQUEST_LIMITS.max_message_bytes


@asynccontextmanager
async def serving(config: ServerConfig, models: FakeModels) -> AsyncIterator[str]:
    server = Server(config, models, Metrics(), HealthService(()))
    await server.start()
    try:
        async with asyncio.timeout(PATIENCE):
            yield str(server.openai_address)
    finally:
        await server.stop()


def padded(size: int) -> bytes:
    body = json.dumps(ASKED).encode()
    return body + b" " * (size - len(body))


async def test_a_body_beyond_the_limit_is_refused_and_one_at_it_is_not(server: Server, engine: FakeEngine) -> None:
    engine.will_say("sea")
    async with asyncio.timeout(PATIENCE), connected(str(server.openai_address)) as connection:
        assert (await connection.ask(posted("/v1/completions", padded(MOST)))).status == 200
        head = request(
            "POST",
            "/v1/completions",
            "Content-Type: application/json",
            f"Content-Length: {MOST + 1}",
            "Expect: 100-continue",
        )
        answer = await connection.ask(head)
        assert (answer.status, answer.error["param"]) == (413, None)


async def test_a_body_in_pieces_has_the_same_limit(server: Server) -> None:
    head = request("POST", "/v1/completions", "Content-Type: application/json", "Transfer-Encoding: chunked")
    piece = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    async with asyncio.timeout(PATIENCE), connected(str(server.openai_address)) as connection:
        assert (await connection.ask(head + piece * 4 + b"1\r\n \r\n0\r\n\r\n")).status == 413


async def test_who_asks_whether_to_go_on_is_told_to(server: Server, engine: FakeEngine) -> None:
    engine.will_say("sea")
    body = json.dumps(ASKED).encode()
    async with asyncio.timeout(PATIENCE), connected(str(server.openai_address)) as connection:
        length = f"Content-Length: {len(body)}"
        head = request("POST", "/v1/completions", "Content-Type: application/json", length, "Expect: 100-continue")
        await connection.send(head)
        assert (await connection.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
        assert (await connection.ask(body)).status == 200


async def test_nothing_compressed_is_taken(server: Server) -> None:
    bomb = gzip.compress(bytes(4 * MOST), 1)
    async with asyncio.timeout(PATIENCE), connected(str(server.openai_address)) as connection:
        assert (await connection.ask(posted("/v1/completions", bomb, "Content-Encoding: gzip"))).status == 415


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: here\r\nX: " + b"x" * 10_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: here\r\n" + b"X: x\r\n" * 100 + b"\r\n",
        b"GET /" + b"x" * 10_000 + b" HTTP/1.1\r\nHost: here\r\n\r\n",
        b"\x00" * 100,
    ],
    ids=["TLS", "HTTP/2", "two lengths", "two kinds of length", "long header", "many headers", "long path", "zeros"],
)  # fmt: skip
async def test_what_is_no_http_is_refused_and_harms_nobody(
    server: Server, engine: FakeEngine, caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    engine.will_say("sea")
    async with asyncio.timeout(PATIENCE), connected(str(server.openai_address)) as other:
        async with connected(str(server.openai_address)) as connection:
            await connection.send(data)
            answer = await connection.answer()
            assert answer.status == 400
            await connection.until_closed()
        assert (await other.ask(posted("/v1/completions", ASKED))).status == 200
    assert [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")] == []


async def test_a_body_that_does_not_come_is_not_waited_for(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "BODY_SECONDS", 0.1)
    head = request("POST", "/v1/completions", "Content-Type: application/json", "Content-Length: 1000")
    async with asyncio.timeout(PATIENCE), connected(str(server.openai_address)) as connection:
        assert (await connection.ask(head + b"{")).status == 408


@pytest.mark.parametrize("said", [b"", b"POST /v1/compl", b"POST / HTTP/1.1\r\nX: x\r\n"])
async def test_a_connection_that_says_nothing_whole_is_closed(
    config: ServerConfig, models: FakeModels, said: bytes
) -> None:
    async with serving(replace(config, max_connection_idle=0.1), models) as address, connected(address) as connection:
        await connection.send(said)
        assert await connection.until_closed() == b""


async def test_idle_connections_are_closed_without_a_setting_too(config: ServerConfig, models: FakeModels) -> None:
    assert listener.IDLE_SECONDS <= 75
    async with serving(replace(config, max_connection_idle=None), models) as address, connected(address) as connection:
        assert (await connection.ask(request("GET", "/v1/models"))).status == 200


async def test_an_old_connection_takes_no_more_calls(config: ServerConfig, models: FakeModels) -> None:
    async with serving(replace(config, max_connection_age=0.1), models) as address, connected(address) as connection:
        opened_at = time.monotonic()
        while "connection" not in (answer := await connection.ask(request("GET", "/v1/models"))).headers:
            assert time.monotonic() - opened_at < PATIENCE
        assert answer.headers["connection"] == "close"
        assert time.monotonic() - opened_at >= 0.1
        assert await connection.until_closed() == b""


async def test_there_are_so_many_connections_and_one_that_ends_makes_room(
    config: ServerConfig, models: FakeModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "max_connections", lambda: 4)
    listing = request("GET", "/v1/models")
    async with serving(config, models) as address, AsyncExitStack() as connections:
        first, second = [await connections.enter_async_context(connected(address)) for _ in range(2)]
        for each in (first, second):
            await each.ask(listing)
        async with connected(address) as third:
            assert await third.until_closed() == b""
        first.writer.close()
        while True:
            async with connected(address) as fourth:
                await fourth.send(listing)
                if await fourth.reader.read(12) == b"HTTP/1.1 200":
                    break
        assert (await second.ask(listing)).status == 200


async def test_what_was_open_is_forgotten(server: Server) -> None:
    opened_at = server._openai._opened_at
    for _ in range(200):
        async with connected(str(server.openai_address)) as connection:
            await connection.ask(request("GET", "/health"))
    assert len(server._openai._opened_at) < 150
    assert opened_at is not server._openai._opened_at


async def test_calls_that_are_open_at_the_end_are_ended(
    config: ServerConfig, models: FakeModels, engine: FakeEngine
) -> None:
    server = Server(config, models, Metrics(), HealthService(()))
    await server.start()
    async with asyncio.timeout(PATIENCE), connected(str(server.openai_address)) as connection:
        await connection.send(posted("/v1/completions", ASKED))
        call = await engine.arrival()
        await server.stop()
        assert call.closed.is_set()
        await connection.until_closed()
        with pytest.raises(OSError, match="Connect call failed"):
            await asyncio.open_connection(*str(server.openai_address).split(":"))


@needs_openssl
async def test_handshakes_that_stop_in_the_middle_count_as_connections(
    config: ServerConfig, models: FakeModels, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(listener, "max_connections", lambda: 4)
    monkeypatch.setattr(listener, "_HANDSHAKE_SECONDS", 0.3)
    pair = Authority(tmp_path).issue("server", names="IP:127.0.0.1")
    async with (
        serving(replace(config, tls_cert=pair.cert, tls_key=pair.key), models) as address,
        connected(address) as first,
        connected(address) as second,
        connected(address) as third,
    ):
        assert await third.until_closed() == b""
        for each in (first, second):
            assert await each.until_closed() == b""
