"""Each bound of a connection acts: a key that gRPC does not know would be passed over in silence."""

import asyncio
import gzip
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from rhapsode_server.config import ServerConfig
from rhapsode_server.metrics import Metrics
from rhapsode_server.models.limits import REQUEST_LIMITS
from rhapsode_server.rpc.health import HealthService
from rhapsode_server.rpc.server import SERVICES, Server
from rhapsode_server.rpc.transport import MAX_METADATA_BYTES, server_options
from support.fake_models import PATIENCE, FakeModels
from support.http2 import ACKNOWLEDGED, DATA, ENHANCE_YOUR_CALM, GO_AWAY, PING, RESET, connected, frame, opened_call

STAY = b"/test/Stay"
Options = Sequence[tuple[str, int]]


def config(**changes: Any) -> ServerConfig:
    return ServerConfig(models=Path("models"), **changes)


class Streams:
    """A service whose calls stay open until they are told to end; it says how long its requests are."""

    def __init__(self) -> None:
        self.lengths: list[int] = []
        self.opened = 0
        self.end = asyncio.Event()
        self.changed = asyncio.Condition()

    async def measure(self, request: bytes, context: Any) -> bytes:
        self.lengths.append(len(request))
        return b"measured"

    async def stay(self, request: bytes, context: Any) -> None:
        self.opened += 1
        async with self.changed:
            self.changed.notify_all()
        await context.write(b"first")
        await self.end.wait()
        await context.write(b"last")

    async def until_opened(self, count: int) -> None:
        async with asyncio.timeout(PATIENCE), self.changed:
            await self.changed.wait_for(lambda: self.opened == count)


@asynccontextmanager
async def serving(options: Options, **replaced: int) -> AsyncIterator[tuple[str, Streams]]:
    """A server with these options, of which some may be replaced: by their last word, for the sake of time."""
    unknown = set(replaced) - {key.rpartition(".")[2] for key, _ in options}
    assert not unknown, f"the server sets no {unknown}"
    service = Streams()
    handlers = {
        "Measure": grpc.unary_unary_rpc_method_handler(service.measure),
        "Stay": grpc.unary_stream_rpc_method_handler(service.stay),
    }
    chosen = [(key, replaced.get(key.rpartition(".")[2], value)) for key, value in options]
    server = grpc.aio.server(options=chosen)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}", service
    finally:
        service.end.set()
        await server.stop(0.1)


@asynccontextmanager
async def calling(address: str) -> AsyncIterator[grpc.aio.Channel]:
    """A connection of its own, on which nothing is tried again."""
    options = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_retries", 0),
        ("grpc.max_send_message_length", -1),
    ]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        yield channel


async def refused(call: Awaitable[Any]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


# Messages and metadata


@pytest.mark.parametrize("limit", [1000, REQUEST_LIMITS.max_message_bytes])
async def test_a_message_beyond_the_limit_is_refused_and_one_at_it_is_not(limit: int) -> None:
    options = server_options(config())
    async with (
        serving(options, max_receive_message_length=limit) as (address, service),
        calling(address) as channel,
    ):
        measure = channel.unary_unary("/test/Measure")
        await measure(bytes(limit), timeout=PATIENCE)
        error = await refused(measure(bytes(limit + 1), timeout=PATIENCE))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert service.lengths == [limit]
    assert dict(options)["grpc.max_receive_message_length"] == REQUEST_LIMITS.max_message_bytes


@pytest.mark.parametrize("algorithm", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_a_message_that_inflates_is_refused_before_it_does(algorithm: grpc.Compression) -> None:
    """gRPC holds the limit against what arrives: 4 MiB could become 4 GiB."""
    bomb = bytes(4 * REQUEST_LIMITS.max_message_bytes)
    assert len(gzip.compress(bomb, 1)) < REQUEST_LIMITS.max_message_bytes / 40
    async with serving(server_options(config())) as (address, service), calling(address) as channel:
        call = channel.unary_unary("/test/Measure")(bomb, timeout=PATIENCE, compression=algorithm)
        error = await refused(call)
        assert error.code() is grpc.StatusCode.UNIMPLEMENTED
        await channel.unary_unary("/test/Measure")(b"abc", timeout=PATIENCE)
    assert service.lengths == [3]


async def test_metadata_has_one_limit_and_no_luck() -> None:
    async with serving(server_options(config())) as (address, _), calling(address) as channel:
        measure = channel.unary_unary("/test/Measure")
        for _ in range(20):
            await measure(b"", timeout=PATIENCE, metadata=[("x-key", "v" * (MAX_METADATA_BYTES - 1024))])
        for _ in range(5):
            error = await refused(measure(b"", timeout=PATIENCE, metadata=[("x-key", "v" * MAX_METADATA_BYTES)]))
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


# Calls and connections


async def test_there_are_so_many_connections_and_one_that_ends_makes_room() -> None:
    options = server_options(config())
    async with serving(options, max_allowed_incoming_connections=2) as (address, _), AsyncExitStack() as connections:
        first, _ = [await connections.enter_async_context(connected(address)) for _ in range(2)]
        async with connected(address) as third, asyncio.timeout(PATIENCE):
            await third.until_closed()
        first.close()
        async with calling(address) as channel:
            await channel.unary_unary("/test/Measure")(b"", timeout=PATIENCE, wait_for_ready=True)


LIMITS = """
import resource
from pathlib import Path
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 1000))
from rhapsode_server.config import ServerConfig
from rhapsode_server.rpc.transport import allow_many_files, server_options
for prepare in (lambda: None, allow_many_files):
    prepare()
    options = dict(server_options(ServerConfig(models=Path("models"))))
    print(resource.getrlimit(resource.RLIMIT_NOFILE), options["grpc.max_allowed_incoming_connections"])
"""


def test_connections_leave_files_for_everything_else() -> None:
    done = subprocess.run([sys.executable, "-c", LIMITS], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["(256, 1000) 64", "(1000, 1000) 250"]


async def test_a_connection_has_so_many_streams_and_another_connection_has_its_own() -> None:
    options = server_options(config(max_streams_per_connection=2))
    async with serving(options) as (address, service), calling(address) as channel, calling(address) as other:
        first = [channel.unary_stream("/test/Stay")(b"", timeout=PATIENCE) for _ in range(2)]
        await service.until_opened(2)
        waiting = channel.unary_stream("/test/Stay")(b"", timeout=PATIENCE)
        elsewhere = other.unary_stream("/test/Stay")(b"", timeout=PATIENCE)
        await service.until_opened(3)
        assert await elsewhere.read() == b"first"
        for _ in range(10):
            await other.unary_unary("/test/Measure")(b"", timeout=PATIENCE)
        assert service.opened == 3
        first[0].cancel()
        await service.until_opened(4)
        assert await waiting.read() == b"first"


async def test_a_client_that_opens_more_streams_than_it_may_is_refused() -> None:
    """One that heeds no SETTINGS: without a limit it could open any number."""
    options = server_options(config(max_streams_per_connection=3))
    async with asyncio.timeout(PATIENCE), serving(options) as (address, service), connected(address) as connection:
        connection.send(b"".join(opened_call(2 * number + 1, STAY) for number in range(50)))
        await connection.until(lambda frame: frame.kind in (RESET, GO_AWAY))
        assert service.opened <= 3


async def test_an_old_connection_lets_its_stream_end_and_takes_no_more_calls() -> None:
    """Without a grace: with one, the stream would be cut when it is over."""
    options = server_options(config(max_connection_age=0.2))
    async with asyncio.timeout(PATIENCE), serving(options) as (address, service), connected(address) as connection:
        connection.send(opened_call(1, STAY))
        await service.until_opened(1)
        await connection.until(lambda frame: frame.kind == GO_AWAY)
        service.end.set()
        await connection.until(lambda frame: frame.kind == DATA and b"last" in frame.payload)
        await connection.until_closed()


async def test_a_long_stream_outlives_its_connections_age_many_times() -> None:
    options = server_options(config(max_connection_age=0.1))
    async with serving(options) as (address, service), calling(address) as channel:
        stream = channel.unary_stream("/test/Stay")(b"", timeout=PATIENCE)
        assert await stream.read() == b"first"
        for _ in range(20):  # each on a connection that takes new calls, or waits for one
            await channel.unary_unary("/test/Measure")(b"", timeout=PATIENCE, wait_for_ready=True)
            await asyncio.sleep(0.05)  # time has to pass: it is what is tested
        service.end.set()
        assert await stream.read() == b"last"
        assert await stream.code() is grpc.StatusCode.OK


async def test_an_idle_connection_is_closed_and_one_with_a_call_is_not() -> None:
    options = server_options(config(max_connection_idle=0.2))
    async with (
        asyncio.timeout(PATIENCE),
        serving(options) as (address, service),
        connected(address) as busy,
        connected(address) as idle,
    ):
        busy.send(opened_call(1, STAY))
        await service.until_opened(1)
        await idle.until(lambda frame: frame.kind == GO_AWAY)
        await idle.until_closed()
        service.end.set()
        await busy.until(lambda frame: frame.kind == DATA and b"last" in frame.payload)


async def test_a_client_that_says_nothing_is_not_waited_for() -> None:
    options = server_options(config())
    async with (
        asyncio.timeout(PATIENCE),
        serving(options, server_handshake_timeout_ms=300) as (address, _),
        connected(address, greeting=b"") as connection,
    ):
        await connection.until_closed()


# Pings


async def test_pings_in_quick_succession_end_the_connection() -> None:
    options = server_options(config())
    async with asyncio.timeout(PATIENCE), serving(options) as (address, _), connected(address) as connection:
        connection.send(frame(PING, 0, 0, bytes(8)) * 10)
        answer = await connection.until(lambda frame: frame.kind == GO_AWAY)
        assert int.from_bytes(answer.payload[4:8], "big") == ENHANCE_YOUR_CALM
        assert b"too_many_pings" in answer.payload


async def test_pings_at_the_permitted_pace_are_answered_without_a_call() -> None:
    """By its defaults gRPC would take one in 5 minutes, and without a call one in 2 hours."""
    options = server_options(config())
    async with (
        asyncio.timeout(PATIENCE),
        serving(options, min_ping_interval_without_data_ms=50) as (address, _),
        connected(address) as connection,
    ):
        for number in range(8):
            connection.send(frame(PING, 0, 0, number.to_bytes(8, "big")))
            answer = await connection.until(lambda frame: frame.kind in (PING, GO_AWAY))
            assert (answer.kind, answer.flags, int.from_bytes(answer.payload, "big")) == (PING, ACKNOWLEDGED, number)
            await asyncio.sleep(0.1)  # time has to pass: it is what is tested


async def test_a_client_that_answers_no_pings_is_taken_for_gone() -> None:
    options = server_options(config())
    async with (
        asyncio.timeout(PATIENCE),
        serving(options, keepalive_time_ms=200, ping_timeout_ms=200) as (address, service),
        connected(address) as connection,
    ):
        connection.send(opened_call(1, STAY))
        await service.until_opened(1)
        await connection.until(lambda frame: frame.kind == DATA)
        connection.answers = False
        gone = await connection.until(lambda frame: frame.kind == GO_AWAY)
        assert b"ping_timeout" in gone.payload
        await connection.until_closed()


async def test_the_kernel_gives_up_on_data_that_nobody_acknowledges() -> None:
    async with serving(server_options(config())) as (address, _), calling(address) as channel:
        await channel.unary_unary("/test/Measure")(b"", timeout=PATIENCE)
        assert 10_000 in set(user_timeouts(int(address.rpartition(":")[2])))


def user_timeouts(port: int) -> Iterator[int]:
    """Of the sockets of this process that are connections to `port`, in milliseconds."""
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError), socket.socket(fileno=os.dup(int(name))) as copy:
            if copy.family in (socket.AF_INET, socket.AF_INET6) and copy.getsockname()[1] == port:
                yield copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)


# The server that uses them


@pytest.mark.parametrize("port", ["address", "admin_address", "health_address"])
async def test_every_port_has_these_bounds(port: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config(address="127.0.0.1:0", admin_address="127.0.0.1:0", health_port=0, max_connection_idle=0.2)
    server = Server(settings, FakeModels(), Metrics(), HealthService(SERVICES))
    await server.start()
    try:
        async with asyncio.timeout(PATIENCE), connected(getattr(server, port)) as connection:
            await connection.until(lambda frame: frame.kind == GO_AWAY)
            await connection.until_closed()
    finally:
        await server.stop()


@pytest.mark.parametrize("seconds", [None, 2**31 / 1000, 1e9])
async def test_never_and_very_long_are_numbers_that_grpc_knows(seconds: float | None) -> None:
    options = server_options(config(max_connection_age=seconds, max_connection_idle=seconds))
    assert dict(options)["grpc.max_connection_age_ms"] == 2**31 - 1
    async with serving(options) as (address, service), calling(address) as channel:
        await channel.unary_unary("/test/Measure")(b"", timeout=PATIENCE)
    assert service.lengths == [0]
