"""Everything by which somebody without the right token might try to get in, and what one with a token may do."""

import asyncio
import hmac
import itertools
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse
from rhapsode.v1 import admin_pb2, generation_pb2, models_pb2
from rhapsode_client import AsyncClient, errors
from rhapsode_client.admin import AdminClient
from rhapsode_server.config import ServerConfig
from rhapsode_server.engine.request import FinishReason
from rhapsode_server.metrics import Metrics
from rhapsode_server.rpc import access
from rhapsode_server.rpc.access import needed_scope
from rhapsode_server.rpc.exposed import exposure_warnings
from rhapsode_server.rpc.server import CannotListen, Server
from rhapsode_server.tokens import Scope, digest_of
from support.fake_models import PATIENCE, FakeEngine, FakeModels

SEARCH, OPERATOR, GUEST = "rhp_search", "rhp_operator", "rhp_guest"

METHODS = [
    (f"/{service.full_name}/{method.name}", method.server_streaming)
    for file in (generation_pb2.DESCRIPTOR, models_pb2.DESCRIPTOR, admin_pb2.DESCRIPTOR)
    for service in file.services_by_name.values()
    for method in service.methods
]
MODEL_METHODS = ("ListModels", "GetModel", "Tokenize", "Detokenize")


def line(token: str, name: str, settings: str = "") -> str:
    return f"{name} sha256:{digest_of(token).hex()} {settings}".strip()


@dataclass
class TokensFile:
    """Written as an operator does it: a new file takes the place of the old one."""

    path: Path
    written: Iterator[int] = field(default_factory=itertools.count)

    def write(self, *lines: str) -> None:
        temporary = self.path.with_suffix(f".{next(self.written)}")
        temporary.write_text("".join(f"{each}\n" for each in lines))
        os.replace(temporary, self.path)


@pytest.fixture
def tokens(tmp_path: Path) -> TokensFile:
    """Three callers: search may generate and score, operator is for the AdminService alone, guest has no scope."""
    file = TokensFile(tmp_path / "tokens")
    search, operator = line(SEARCH, "search", "scopes=generate,score"), line(OPERATOR, "operator", "scopes=admin")
    file.write(search, operator, line(GUEST, "guest"))
    return file


@pytest.fixture
def config(config: ServerConfig, tokens: TokensFile) -> ServerConfig:
    return replace(config, tokens_file=tokens.path)


def code_of(error: grpc.aio.AioRpcError) -> str:
    return error.code().name


async def outcome(address: str, path: str, *metadata: tuple[str, str], streams: bool = False) -> str:
    """How a call with an empty message ends."""
    async with grpc.aio.insecure_channel(address) as channel:
        try:
            if streams:
                async for _ in channel.unary_stream(path)(b"", metadata=metadata, timeout=PATIENCE):
                    pass
            else:
                await channel.unary_unary(path)(b"", metadata=metadata, timeout=PATIENCE)
        except grpc.aio.AioRpcError as error:
            return code_of(error)
    return "OK"


def bearer(token: str) -> tuple[str, str]:
    return "authorization", f"Bearer {token}"


async def outcome_of(server: Server, path: str, streams: bool, *metadata: tuple[str, str]) -> str:
    address = server.admin_address if "AdminService" in path else server.address
    assert address
    return await outcome(address, path, *metadata, streams=streams)


@pytest.mark.parametrize(("path", "streams"), METHODS)
async def test_no_call_goes_without_a_token(server: Server, path: str, streams: bool) -> None:
    assert await outcome_of(server, path, streams) == "UNAUTHENTICATED"


@pytest.mark.parametrize("token", [SEARCH, OPERATOR, GUEST])
@pytest.mark.parametrize(("path", "streams"), METHODS)
async def test_a_token_is_for_its_scopes(
    server: Server, engine: FakeEngine, path: str, streams: bool, token: str
) -> None:
    engine.will_say("sea")
    method = path.rpartition("/")[2]
    allowed = {
        SEARCH: method.startswith("Generate") or method in ("Score", *MODEL_METHODS),
        OPERATOR: "AdminService" in path or method in MODEL_METHODS,
        GUEST: method in MODEL_METHODS,
    }
    refused = await outcome_of(server, path, streams, bearer(token)) == "PERMISSION_DENIED"
    assert refused is not allowed[token]


def test_a_method_that_nobody_thought_of_is_for_operators() -> None:
    assert needed_scope("/rhapsode.v1.GenerationService/Sing") is Scope.ADMIN
    assert needed_scope("/rhapsode.v2.GenerationService/Generate") is Scope.ADMIN


GENERATE = "/rhapsode.v1.GenerationService/Generate"
LIST = "/rhapsode.v1.ModelService/ListModels"


@pytest.mark.parametrize(
    "metadata",
    [
        pytest.param([bearer("rhp_other")], id="another token"),
        pytest.param([bearer(SEARCH[:-1])], id="the beginning of one"),
        pytest.param([bearer(f"{SEARCH}0")], id="more than one"),
        pytest.param([bearer(SEARCH.upper())], id="other letters"),
        pytest.param([bearer(digest_of(SEARCH).hex())], id="the hash that the file holds"),
        pytest.param([bearer(f"sha256:{digest_of(SEARCH).hex()}")], id="the hash as the file spells it"),
        pytest.param([bearer("search")], id="the name"),
        pytest.param([bearer("")], id="nothing"),
        pytest.param([("authorization", SEARCH)], id="no scheme"),
        pytest.param([("authorization", f"Basic {SEARCH}")], id="another scheme"),
        pytest.param([("authorization", "Bearer")], id="the scheme alone"),
        pytest.param([("x-authorization", f"Bearer {SEARCH}")], id="another key"),
        pytest.param([("authorization-bin", f"Bearer {SEARCH}".encode())], id="a binary key"),
        pytest.param([bearer(SEARCH), bearer("rhp_other")], id="two, the first is right"),
        pytest.param([bearer("rhp_other"), bearer(SEARCH)], id="two, the second is right"),
        pytest.param([bearer(f"{SEARCH},{OPERATOR}")], id="two in one"),
        pytest.param([bearer("x" * 7000)], id="a very long one"),
    ],
)
async def test_what_is_no_token_does_not_open(server: Server, metadata: list[tuple[str, Any]]) -> None:
    assert await outcome(server.address, LIST, *metadata) == "UNAUTHENTICATED"


@pytest.mark.parametrize("token", [SEARCH, OPERATOR, GUEST, "rhp_other"])
async def test_however_far_a_token_is_right_the_comparison_takes_as_long(
    server: Server, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[bytes] = []

    def compare(ours: bytes, given: bytes) -> bool:
        compared.append(ours)
        return hmac.compare_digest(ours, given)

    monkeypatch.setattr(access, "hmac", SimpleNamespace(compare_digest=compare))
    await outcome(server.address, LIST, bearer(token))
    each = [digest_of(known) for known in (SEARCH, OPERATOR, GUEST)]
    assert compared == each * (len(compared) // len(each))
    assert compared


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_the_scheme_is_spelled_as_one_likes(server: Server, scheme: str) -> None:
    assert await outcome(server.address, LIST, ("authorization", f"{scheme} {SEARCH}")) == "OK"


async def test_the_client_sends_the_token_with_every_call(server: Server, engine: FakeEngine) -> None:
    engine.will_say("sea")
    async with AsyncClient(server.address, token=SEARCH) as client:
        assert (await client.generate("Sing")).text == "sea"
        async with client.stream("Sing") as stream:
            assert (await stream.result()).text == "sea"
        assert [model.name for model in await client.models()] == ["poems"]
    async with AsyncClient(server.address, token=GUEST) as client:
        with pytest.raises(errors.PermissionDenied, match="needs the scope generate, which the token of guest") as why:
            await client.generate("Sing")
    assert why.value.request_id
    async with AsyncClient(server.address) as client:
        with pytest.raises(errors.Unauthenticated, match="send it as metadata: authorization: Bearer TOKEN"):
            await client.models()
    assert server.admin_address
    with AdminClient(server.admin_address, token=OPERATOR) as admin:
        assert (await asyncio.to_thread(admin.status)).server


async def test_of_a_caller_without_a_token_no_message_is_read(server: Server) -> None:
    """It is answered before it has sent one."""
    async with grpc.aio.insecure_channel(server.address) as channel:
        for metadata, code in (((), "UNAUTHENTICATED"), ((bearer("x"),), "UNAUTHENTICATED")):
            call = channel.stream_unary(GENERATE)(metadata=metadata, timeout=PATIENCE)
            await call.wait_for_connection()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert code_of(caught.value) == code


async def reflection_outcome(address: str, *metadata: tuple[str, str]) -> str:
    """The request goes with the headers: gRPC's client says INTERNAL when a call ends while it still writes."""
    async with grpc.aio.insecure_channel(address) as channel:
        ask = channel.unary_stream(
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            request_serializer=ServerReflectionRequest.SerializeToString,
            response_deserializer=ServerReflectionResponse.FromString,
        )
        try:
            call = ask(ServerReflectionRequest(list_services=""), metadata=metadata, timeout=PATIENCE)
            answers = [answer async for answer in call]
        except grpc.aio.AioRpcError as error:
            return code_of(error)
    assert answers[0].list_services_response.service
    return "OK"


async def test_reflection_is_for_those_with_a_token(server: Server) -> None:
    assert server.admin_address
    for address in (server.address, server.admin_address):
        assert await reflection_outcome(address) == "UNAUTHENTICATED"
        assert await reflection_outcome(address, bearer("rhp_other")) == "UNAUTHENTICATED"
        assert await reflection_outcome(address, bearer(GUEST)) == "OK"


async def test_health_is_for_everybody(server: Server) -> None:
    for address in (server.address, server.admin_address, server.health_address):
        assert address
        async with grpc.aio.insecure_channel(address) as channel:
            request = HealthCheckRequest(service="startup")
            assert (await HealthStub(channel).Check(request)).status == HealthCheckResponse.SERVING
            assert (await HealthStub(channel).Watch(request).read()).status == HealthCheckResponse.SERVING


async def test_reflection_may_be_off(config: ServerConfig, metrics: Metrics, models: FakeModels, health: Any) -> None:
    async with started(replace(config, reflection=False), models, metrics, health) as server:
        assert server.admin_address
        assert await reflection_outcome(server.address, bearer(SEARCH)) == "UNIMPLEMENTED"
        assert await reflection_outcome(server.admin_address, bearer(OPERATOR)) == "UNIMPLEMENTED"
        assert await outcome(server.address, LIST, bearer(SEARCH)) == "OK"


@asynccontextmanager
async def started(config: ServerConfig, models: FakeModels, metrics: Metrics, health: Any) -> AsyncIterator[Server]:
    server = Server(config, models, metrics, health)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@pytest.mark.parametrize("token", ["", OPERATOR, GUEST, SEARCH])
async def test_the_admin_service_is_not_on_the_callers_port(server: Server, token: str) -> None:
    assert await outcome(server.address, "/rhapsode.v1.AdminService/Drain", bearer(token)) == "UNIMPLEMENTED"


async def test_a_drained_server_tells_strangers_nothing(server: Server) -> None:
    server.rotation.refuse_new_calls()
    assert await outcome(server.address, GENERATE) == "UNAUTHENTICATED"
    assert await outcome(server.address, GENERATE, bearer(GUEST)) == "PERMISSION_DENIED"
    assert await outcome(server.address, GENERATE, bearer(SEARCH)) == "UNAVAILABLE"


async def test_a_revoked_token_ends_with_the_next_call_and_a_new_one_begins(
    server: Server, engine: FakeEngine, tokens: TokensFile
) -> None:
    async with AsyncClient(server.address, token=SEARCH) as client, client.stream("Sing") as stream:
        request = await engine.arrival()
        tokens.write(line("rhp_new", "search", "scopes=generate"))
        with pytest.raises(errors.Unauthenticated, match="not one of this server's, or not any more"):
            await client.models()
        request.says("sea", FinishReason.LENGTH)
        assert (await stream.result()).text == "sea", "what was let in goes on to its end"
    assert await outcome(server.address, LIST, bearer("rhp_new")) == "OK"


async def test_a_scope_may_be_taken_away(server: Server, tokens: TokensFile) -> None:
    tokens.write(line(SEARCH, "search", "scopes=score"))
    assert await outcome(server.address, GENERATE, bearer(SEARCH)) == "PERMISSION_DENIED"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_text("search sha256:0\n"), "line 1: after the name search"),
        (lambda path: path.write_text(""), "holds no token"),
        (Path.unlink, "cannot read"),
    ],
)
async def test_a_broken_file_leaves_what_was(
    server: Server,
    tokens: TokensFile,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], Any],
    message: str,
) -> None:
    damage(tokens.path)
    for _ in range(3):
        assert await outcome(server.address, LIST, bearer(SEARCH)) == "OK"
        assert await outcome(server.address, LIST) == "UNAUTHENTICATED"
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(told) == 1, "once for each change"
    assert told[0].startswith("--tokens-file has changed and cannot be used, what it was before still holds: ")
    assert message in told[0]
    tokens.write(line("rhp_new", "search"))
    assert await outcome(server.address, LIST, bearer(SEARCH)) == "UNAUTHENTICATED"


@pytest.mark.parametrize(
    ("content", "message"), [(None, "cannot read"), ("search\n", "line 1: after the name search"), ("", "holds no")]
)
def test_a_broken_file_at_the_start_is_no_server(config: ServerConfig, content: str | None, message: str) -> None:
    assert config.tokens_file
    config.tokens_file.unlink() if content is None else config.tokens_file.write_text(content)
    with pytest.raises(CannotListen, match=f"--tokens-file: .*{message}"):
        Server(config, FakeModels(), Metrics(), None)  # type: ignore[arg-type]


async def test_a_rate_is_its_tokens_own(server: Server, tokens: TokensFile) -> None:
    tokens.write(line(SEARCH, "search", "rate=2/h"), line(GUEST, "guest"))
    for _ in range(2):
        assert await outcome(server.address, LIST, bearer(SEARCH)) == "OK"
    async with AsyncClient(server.address, token=SEARCH) as client:
        with pytest.raises(errors.Overloaded, match="this token allows 2 calls in 3600 s") as limited:
            await client.models()
        assert limited.value.retry_after == pytest.approx(1800, abs=30)
        assert await outcome(server.address, GENERATE) == "UNAUTHENTICATED"
        assert await outcome(server.address, LIST, bearer(GUEST)) == "OK"
        tokens.write(line(SEARCH, "search", "rate=2/h"))
        with pytest.raises(errors.Overloaded):
            await client.models()
        tokens.write(line(SEARCH, "search", "rate=4/h"))
        await client.models()


async def test_a_batch_is_no_way_around_a_rate(server: Server, engine: FakeEngine, tokens: TokensFile) -> None:
    engine.will_say("sea")
    tokens.write(line(SEARCH, "search", "scopes=generate rate=4/h"))
    request = generation_pb2.GenerateRequest(prompt="Sing")
    item = generation_pb2.GenerateBatchItem(request=request, num_completions=4)
    async with grpc.aio.insecure_channel(server.address) as channel:
        batch = channel.unary_stream("/rhapsode.v1.GenerationService/GenerateBatch")
        message = generation_pb2.GenerateBatchRequest(items=[item]).SerializeToString()
        answers = [each async for each in batch(message, metadata=(bearer(SEARCH),), timeout=PATIENCE)]
    assert len(answers) == 4
    assert await outcome(server.address, LIST, bearer(SEARCH)) == "RESOURCE_EXHAUSTED"


async def test_a_batch_runs_as_many_at_a_time_as_its_token_may(
    server: Server, engine: FakeEngine, tokens: TokensFile
) -> None:
    tokens.write(line(SEARCH, "search", "scopes=generate concurrency=2"))
    request = generation_pb2.GenerateRequest(prompt="Sing")
    items = [generation_pb2.GenerateBatchItem(request=request) for _ in range(6)]
    async with grpc.aio.insecure_channel(server.address) as channel:
        batch = channel.unary_stream("/rhapsode.v1.GenerationService/GenerateBatch")
        message = generation_pb2.GenerateBatchRequest(items=items).SerializeToString()
        call = batch(message, metadata=(bearer(SEARCH),), timeout=PATIENCE)
        running = [await engine.arrival(), await engine.arrival()]
        for answered in range(4):
            assert len(engine.requests) == answered + 2
            running.pop(0).says("sea", FinishReason.LENGTH)
            await call.read()
            running.append(await engine.arrival())
        call.cancel()


async def test_places_of_a_token_come_back_however_its_calls_end(
    server: Server, engine: FakeEngine, tokens: TokensFile
) -> None:
    tokens.write(line(SEARCH, "search", "scopes=generate concurrency=1"))
    async with AsyncClient(server.address, token=SEARCH) as client:
        for end in ("finished", "cancelled", "failed"):
            stream = client.stream("Sing")
            request = await engine.arrival()
            with pytest.raises(errors.Overloaded, match="1 calls of this token are open, as many as it may have"):
                await client.models()
            if end == "finished":
                request.says("sea", FinishReason.LENGTH)
                await stream.result()
            elif end == "cancelled":
                stream.cancel()
                await asyncio.wait_for(request.closed.wait(), PATIENCE)
            else:
                request.stream.fail(RuntimeError("it broke"))
                with pytest.raises(errors.ServerError):
                    await stream.result()
            await client.models()


async def test_the_log_names_the_caller_and_no_token(
    server: Server, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    engine.will_say("sea")
    async with AsyncClient(server.address, token=SEARCH) as client:
        await client.generate("Sing")
    await outcome(server.address, GENERATE, bearer(GUEST))
    await outcome(server.address, GENERATE, bearer("rhp_wrong"))
    fields = [record.fields for record in caplog.records if record.getMessage() == "request"]  # type: ignore[attr-defined]
    assert [(each.get("caller"), each["outcome"]) for each in fields] == [
        ("search", "ok"),
        ("guest", "denied"),
        (None, "unauthenticated"),
    ]
    assert "rhp_" not in caplog.text
    assert "rhp_" not in str(fields)


@pytest.mark.parametrize(
    ("address", "admin_address", "flags"),
    [
        ("127.0.0.1:0", "127.0.0.1:0", []),
        ("[::1]:0", "localhost:0", []),
        ("127.9.9.9:0", None, []),
        ("unix:socket", "unix:admin", []),
        ("0.0.0.0:0", "127.0.0.1:0", ["--address", "--address"]),
        ("[::]:0", "0.0.0.0:0", ["--address", "--address", "--admin-address", "--admin-address"]),
        ("poems.example:0", None, ["--address", "--address"]),
        ("127.0.0.1:0", "10.1.2.3:0", ["--admin-address", "--admin-address"]),
    ],
)
def test_a_server_that_others_reach_says_what_is_open(
    tmp_path: Path, address: str, admin_address: str | None, flags: list[str]
) -> None:
    config = ServerConfig(models=tmp_path, address=address, admin_address=admin_address)
    assert [warning.split()[0] for warning in exposure_warnings(config)] == flags
    with_tokens = replace(config, tokens_file=tmp_path / "tokens")
    assert all("--tls-cert" in warning for warning in exposure_warnings(with_tokens))
    encrypted = replace(config, tls_cert=tmp_path / "a", tls_key=tmp_path / "b")
    assert all("--tokens-file" in warning for warning in exposure_warnings(encrypted))
    assert not [*exposure_warnings(replace(encrypted, tls_client_ca=tmp_path / "c"))]
    assert not [*exposure_warnings(replace(encrypted, tokens_file=tmp_path / "tokens"))]


async def test_the_warnings_are_in_the_log(
    config: ServerConfig, models: FakeModels, metrics: Metrics, health: Any, caplog: pytest.LogCaptureFixture
) -> None:
    open_to_all = replace(config, address="0.0.0.0:0", tokens_file=None)
    async with started(open_to_all, models, metrics, health):
        pass
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [warning.partition(";")[2] for warning in warnings] == [
        " give --tls-cert and --tls-key",
        " give --tokens-file or --tls-client-ca",
    ]
