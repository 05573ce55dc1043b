"""Who may call over HTTP: the same tokens, scopes, limits and certificates as for gRPC."""

import asyncio
import json
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI, RateLimitError
from rhapsode_server.config import ServerConfig
from rhapsode_server.engine.request import FinishReason
from rhapsode_server.metrics import Metrics
from rhapsode_server.rpc.exposed import exposure_warnings
from rhapsode_server.rpc.health import HealthService
from rhapsode_server.rpc.server import Server
from rhapsode_server.tokens import digest_of
from support.certificates import HAS_OPENSSL, WITHOUT_OPENSSL, Authority, Pair
from support.fake_models import PATIENCE, FakeEngine, FakeModels
from support.http1 import Answer, connected, posted, request
from support.logs import ServerLog

SEARCH, GUEST, BUSY = "rhp_search", "rhp_guest", "rhp_busy"
ASKED = {"model": "poems", "prompt": "Sing"}
needs_openssl = pytest.mark.skipif(not HAS_OPENSSL, reason=WITHOUT_OPENSSL)


def line(token: str, name: str, settings: str = "") -> str:
    return f"{name} sha256:{digest_of(token).hex()} {settings}\n"


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    file = tmp_path / "tokens"
    busy = line(BUSY, "busy", "scopes=generate rate=2/h")
    file.write_text(line(SEARCH, "search", "scopes=generate concurrency=1") + line(GUEST, "guest") + busy)
    return file


@asynccontextmanager
async def serving(config: ServerConfig, models: FakeModels) -> AsyncIterator[Server]:
    server = Server(config, models, Metrics(), HealthService(()))
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@asynccontextmanager
async def calling(server: Server, token: str) -> AsyncIterator[AsyncOpenAI]:
    url = f"http://{server.openai_address}/v1"
    async with AsyncOpenAI(base_url=url, api_key=token, max_retries=0, timeout=PATIENCE) as client:
        yield client


async def ask(server: Server, data: bytes, **options: Any) -> Answer:
    async with asyncio.timeout(PATIENCE), connected(str(server.openai_address), **options) as connection:
        return await connection.ask(data)


@pytest.mark.parametrize(
    ("token", "generates", "lists"), [(SEARCH, 200, 200), (GUEST, 403, 200), ("rhp_other", 401, 401)]
)
async def test_a_token_is_for_its_scopes(
    config: ServerConfig, models: FakeModels, engine: FakeEngine, tokens: Path, token: str, generates: int, lists: int
) -> None:
    engine.will_say("sea")
    bearer = f"Authorization: Bearer {token}"
    async with serving(replace(config, tokens_file=tokens), models) as server:
        assert (await ask(server, posted("/v1/completions", ASKED, bearer))).status == generates
        # Who may, is told that there are no messages.
        chats = 400 if generates == 200 else generates
        assert (await ask(server, posted("/v1/chat/completions", {}, bearer))).status == chats
        assert (await ask(server, request("GET", "/v1/models", bearer))).status == lists
        assert (await ask(server, request("GET", "/v1/models/poems@3", bearer))).status == lists


@pytest.mark.parametrize(
    "headers",
    [
        [],
        ["Authorization: Basic rhp_search"],
        ["Authorization: Bearer"],
        ["Authorization: Bearer rhp_search", "Authorization: Bearer rhp_search"],
        ["Authorization: Bearer \xff\xfe"],
        ["X-Api-Key: rhp_search"],
    ],
)
async def test_what_is_no_token_does_not_open(
    config: ServerConfig, models: FakeModels, tokens: Path, headers: list[str]
) -> None:
    async with serving(replace(config, tokens_file=tokens), models) as server:
        answer = await ask(server, posted("/v1/completions", ASKED, *headers))
        assert (answer.status, answer.error["code"]) == (401, "unauthenticated")
        assert answer.headers["www-authenticate"] == "Bearer"
        assert (await ask(server, request("GET", "/health"))).status == 503  # nothing is served yet; nobody is asked


async def test_of_a_caller_without_a_token_no_body_is_read(
    config: ServerConfig, models: FakeModels, tokens: Path
) -> None:
    async with serving(replace(config, tokens_file=tokens), models) as server:
        head = request("POST", "/v1/completions", "Content-Type: application/json", "Content-Length: 1000")
        assert (await ask(server, head)).status == 401


async def test_limits_are_the_tokens_and_batches_are_no_way_around_them(
    config: ServerConfig, models: FakeModels, engine: FakeEngine, tokens: Path, server_log: ServerLog
) -> None:
    async with serving(replace(config, tokens_file=tokens), models) as server:
        async with calling(server, SEARCH) as client:
            first = asyncio.create_task(client.completions.create(**ASKED, stream=False))
            request = await engine.arrival()
            with pytest.raises(RateLimitError, match="as many as it may have"):
                await client.completions.create(**ASKED)
            request.says("sea", FinishReason.LENGTH)
            await first
        engine.will_say("sea")
        async with calling(server, BUSY) as client:
            await client.completions.create(**ASKED, n=3)
            with pytest.raises(RateLimitError, match="2 calls in 3600 s") as caught:
                await client.completions.create(**ASKED)
    assert int(caught.value.response.headers["retry-after"]) > 1000
    callers = [line["caller"] for line in server_log.lines if line["message"] == "request"]
    assert callers == ["search", "search", "busy", "busy"]


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
async def test_a_drained_server_takes_no_new_calls(server: Server, path: str) -> None:
    server.rotation.drain()
    answer = await ask(server, posted(path, ASKED))
    assert (answer.status, answer.error["code"], answer.headers["connection"]) == (503, "draining", "close")
    assert "retry-after" in answer.headers
    assert (await ask(server, request("GET", "/v1/models"))).status == 200


async def test_pages_in_browsers_may_not_call_where_nobody_is_asked_for_a_token(
    config: ServerConfig, models: FakeModels, engine: FakeEngine, tokens: Path
) -> None:
    """Not even by the forms and texts that a browser sends without asking first."""
    engine.will_say("sea")
    origin = "Origin: https://example.org"
    async with serving(config, models) as server:
        assert (await ask(server, posted("/v1/completions", ASKED, origin))).status == 403
        body = json.dumps(ASKED).encode()
        head = request("POST", "/v1/completions", "Content-Type: text/plain", f"Content-Length: {len(body)}")
        assert (await ask(server, head + body)).status == 415
        preflight = await ask(server, request("OPTIONS", "/v1/completions", origin))
        assert (preflight.status, preflight.headers["allow"]) == (405, "POST")
        assert not [name for name in preflight.headers if name.startswith("access-control")]
    async with serving(replace(config, tokens_file=tokens), models) as server:
        bearer = f"Authorization: Bearer {SEARCH}"
        assert (await ask(server, posted("/v1/completions", ASKED, origin, bearer))).status == 200


def test_a_server_that_others_reach_says_what_is_open() -> None:
    config = ServerConfig(models=Path("models"), openai_address="0.0.0.0:8000")
    assert [warning.split(":")[0] for warning in exposure_warnings(config)] == ["--openai-address 0.0.0.0"] * 2


def trusting(authority: Authority, own: Pair | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authority.cert)
    if own:
        context.load_cert_chain(own.cert, own.key)
    return context


def install(pair: Pair, at: Pair) -> None:
    """As an operator does it: new files take the place of the old ones."""
    for file, place in ((pair.cert, at.cert), (pair.key, at.key)):
        temporary = place.with_suffix(".new")
        temporary.write_bytes(file.read_bytes())
        os.replace(temporary, place)


@needs_openssl
async def test_certificates_are_those_of_grpc_and_renewed_without_a_restart(
    config: ServerConfig, models: FakeModels, tmp_path: Path
) -> None:
    first, second = Authority(tmp_path / "first"), Authority(tmp_path / "second")
    used = Pair(cert=tmp_path / "tls.crt", key=tmp_path / "tls.key")
    install(first.issue("server", names="IP:127.0.0.1"), used)
    health = request("GET", "/health")
    async with serving(replace(config, tls_cert=used.cert, tls_key=used.key), models) as server:
        assert (await ask(server, health, ssl=trusting(first))).status == 503
        with pytest.raises(ssl.SSLCertVerificationError):
            await ask(server, health, ssl=trusting(second))
        install(second.issue("server", names="IP:127.0.0.1"), used)
        assert (await ask(server, health, ssl=trusting(second))).status == 503
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await ask(server, health)


@needs_openssl
async def test_callers_show_a_certificate_with_an_allowed_name(
    config: ServerConfig, models: FakeModels, engine: FakeEngine, tmp_path: Path, server_log: ServerLog
) -> None:
    engine.will_say("sea")
    ours, stranger = Authority(tmp_path / "ours"), Authority(tmp_path / "stranger")
    pair = ours.issue("server", names="IP:127.0.0.1")
    search = ours.issue("search", subject="/CN=other", names="DNS:unknown,URI:spiffe://fleet/search")
    config = replace(config, tls_cert=pair.cert, tls_key=pair.key, tls_client_ca=ours.cert)
    config = replace(config, tls_client_names=("spiffe://fleet/search", "reader"))
    call = posted("/v1/completions", ASKED)
    async with serving(config, models) as server:
        assert (await ask(server, call, ssl=trusting(ours, search))).status == 200
        by_common_name = ours.issue("reader", subject="/CN=reader")
        assert (await ask(server, call, ssl=trusting(ours, by_common_name))).status == 200
        otherwise = ours.issue("otherwise", subject="/CN=reader", names="DNS:guest")
        assert (await ask(server, call, ssl=trusting(ours, otherwise))).status == 403
        assert (await ask(server, request("GET", "/health"), ssl=trusting(ours, otherwise))).status == 403
        for nobody in (None, stranger.issue("impostor", names="URI:spiffe://fleet/search")):
            with pytest.raises((ConnectionError, ssl.SSLError, asyncio.IncompleteReadError)):
                await ask(server, call, ssl=trusting(ours, nobody))
    callers = [line["caller"] for line in server_log.lines if line["message"] == "request"]
    assert callers == ["spiffe://fleet/search", "reader", "guest"]


@needs_openssl
async def test_another_authority_of_callers_holds_from_the_next_handshake_on(
    config: ServerConfig, models: FakeModels, tmp_path: Path
) -> None:
    first, second = Authority(tmp_path / "first"), Authority(tmp_path / "second")
    pair, trusted = first.issue("server", names="IP:127.0.0.1"), tmp_path / "clients.pem"
    trusted.write_bytes(first.cert.read_bytes())
    old, new = (trusting(first, each.issue("search", names="DNS:search")) for each in (first, second))
    health = request("GET", "/health")
    async with serving(replace(config, tls_cert=pair.cert, tls_key=pair.key, tls_client_ca=trusted), models) as server:
        assert (await ask(server, health, ssl=old)).status == 503
        install(Pair(cert=second.cert, key=pair.key), Pair(cert=trusted, key=pair.key))
        assert (await ask(server, health, ssl=new)).status == 503
        with pytest.raises((ConnectionError, ssl.SSLError, asyncio.IncompleteReadError)):
            await ask(server, health, ssl=old)
