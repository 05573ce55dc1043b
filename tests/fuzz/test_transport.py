"""What is no call of ours, or hardly one: huge messages and headers, other protocols, broken HTTP/2."""

import asyncio
import contextlib
import os
import socket

import grpc
import pytest
from support.fuzzing import IS_LONG
from support.http2 import (
    CONTINUATION,
    DATA,
    GO_AWAY,
    GREETING,
    HEADERS,
    PING,
    RESET,
    SETTINGS,
    WINDOW,
    call_headers,
    frame,
    header,
)

from .answers import fault
from .calls import perform
from .cases import METHODS, Case
from .conftest import Target

MEGABYTE = 10**6
# The allocator keeps for long what floods of headers have needed; it levels off below this, however many there are.
MAX_GROWTH = 700 * MEGABYTE
GENERATE = next(method for method in METHODS if method.name == "Generate")
REFUSED = {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.INVALID_ARGUMENT}
OPTIONS = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]


@pytest.mark.parametrize("method", METHODS if IS_LONG else METHODS[:1], ids=lambda method: method.name)
async def test_a_message_of_100_megabytes_is_refused(target: Target, method) -> None:
    async with grpc.aio.insecure_channel(target.address, options=OPTIONS) as channel:
        answer = await perform(channel, Case(number=0, method=method, raw=bytes(100 * MEGABYTE)))
    assert answer.code is grpc.StatusCode.RESOURCE_EXHAUSTED


HOSTILE = {
    "groups in groups": b"\x7b" * 100_000,
    "an endless number": b"\x50" + b"\xff" * 1000,
    "a length beyond the end": b"\x22\xff\xff\xff\xff\x07a",
    "text that is no UTF-8": b"\x22\x04\xf0\x9f\xff\xfe",
    "a field of number 0": b"\x02\x01a",
    "nested conversations": b"\x32\x80\x80\x01" * 10_000,
    "an unknown wire type": b"\x0f",
}


@pytest.mark.parametrize("raw", HOSTILE.values(), ids=HOSTILE.keys())
async def test_bytes_that_are_no_message_are_the_callers_fault(target: Target, raw: bytes) -> None:
    async with grpc.aio.insecure_channel(target.address) as channel:
        for method in METHODS:
            case = Case(number=0, method=method, raw=raw)
            answer = await perform(channel, case)
            assert case.request is not None or answer.code is grpc.StatusCode.INVALID_ARGUMENT
            assert fault(case, answer) is None


METADATA = {
    "many keys": [(f"x-key-{number}", "value") for number in range(20_000)],
    "one key many times": [("x-key", "value")] * 20_000,
    "a large value": [("x-key", "v" * MEGABYTE)],
    "large bytes": [("x-key-bin", bytes(MEGABYTE))],
    "a long key": [("x-" + "k" * MEGABYTE, "v")],
    "a large request id": [("x-request-id", "r" * MEGABYTE)],
}


@pytest.mark.parametrize("metadata", METADATA.values(), ids=METADATA.keys())
async def test_header_bombs_are_refused(target: Target, metadata: list[tuple[str, str | bytes]]) -> None:
    for _ in range(20 if IS_LONG else 2):
        async with grpc.aio.insecure_channel(target.address, options=OPTIONS) as channel:
            call = channel.unary_unary("/rhapsode.v1.ModelService/ListModels")
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await call(b"", timeout=30, metadata=metadata)
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("value", ["", " ", "a" * 129, "a" * 4000, "a,b;c=", "%00%0a"], ids=range(6))
async def test_odd_request_ids_harm_nobody(target: Target, value: str) -> None:
    async with grpc.aio.insecure_channel(target.address) as channel:
        call = channel.unary_unary("/rhapsode.v1.ModelService/ListModels")
        await call(b"", timeout=30, metadata=[("x-request-id", value)])


@pytest.mark.parametrize(
    "path",
    ["/", "//", "/rhapsode.v1.GenerationService/", "/rhapsode.v1.Nothing/Generate", "/a" * 2000],
    ids=range(5),
)
async def test_methods_that_do_not_exist_are_unimplemented(target: Target, path: str) -> None:
    async with grpc.aio.insecure_channel(target.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await channel.unary_unary(path)(b"", timeout=30)
    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


CALL = call_headers(b"/rhapsode.v1.GenerationService/Generate")
FILLER = b"".join(header(b"x-filler", b"f" * 100) for _ in range(130))
BROKEN = {
    "another protocol": b"GET / HTTP/1.1\r\nHost: here\r\n\r\n" * 100,
    "noise": os.urandom(MEGABYTE),
    "noise after the greeting": GREETING + os.urandom(MEGABYTE),
    "a header without end": GREETING + frame(HEADERS, 0, 1, CALL) + frame(CONTINUATION, 0, 1, FILLER) * 500,
    "empty continuations": GREETING + frame(HEADERS, 0, 1, CALL) + frame(CONTINUATION, 0, 1, b"") * 100_000,
    "streams reset at once": GREETING
    + b"".join(frame(HEADERS, 4, n, CALL) + frame(RESET, 0, n, bytes(4)) for n in range(1, 20_000, 2)),
    "a broken message": GREETING + frame(HEADERS, 4, 1, CALL) + frame(DATA, 1, 1, b"\x07\xff\xff\xff\xffabc"),
    "a compressed message": GREETING + frame(HEADERS, 4, 1, CALL) + frame(DATA, 1, 1, b"\x01\0\0\0\x03abc"),
    "an odd time limit": GREETING + frame(HEADERS, 4, 1, CALL + header(b"grpc-timeout", b"99999999999H")),
    "pings": GREETING + frame(PING, 0, 0, bytes(8)) * 50_000,
    "windows": GREETING + frame(WINDOW, 0, 0, b"\x7f\xff\xff\xff") * 1000,
    "a huge frame": GREETING + frame(DATA, 0, 1, bytes(2**24 - 1)),
    "half a frame": GREETING + frame(HEADERS, 4, 1, CALL)[:20],
    "settings": GREETING + frame(SETTINGS, 0, 0, b"\0\4\x7f\xff\xff\xff" * 1000) * 100,
    "a farewell": GREETING + frame(GO_AWAY, 0, 0, bytes(8)) + frame(HEADERS, 5, 1, CALL),
}


def throw(address: str, data: bytes) -> None:
    """Send as much as is taken, and leave without reading."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection, contextlib.suppress(OSError):
        connection.sendall(data)


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN.keys())
async def test_broken_connections_harm_nobody(target: Target, data: bytes) -> None:
    for _ in range(10 if IS_LONG else 1):
        await asyncio.to_thread(throw, target.address, data)


async def test_connections_that_say_nothing_keep_nobody_out(target: Target) -> None:
    host, _, port = target.address.rpartition(":")
    with contextlib.ExitStack() as connections:
        for _ in range(200):
            connections.enter_context(socket.create_connection((host, int(port)), timeout=5))
        assert target.usual_answers()
