"""HTTP/2 by hand, for what no gRPC client would do. Frames are those of RFC 9113, header fields those of RFC 7541."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

DATA, HEADERS, RESET, SETTINGS, PING, GO_AWAY, WINDOW, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS, ACKNOWLEDGED = 1, 4, 1
ENHANCE_YOUR_CALM = 11


@dataclass(frozen=True)
class Frame:
    kind: int
    flags: int
    stream: int
    payload: bytes


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Section 4.1 of RFC 9113."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def header(name: bytes, value: bytes) -> bytes:
    """A field of a header block, literal and not indexed (section 6.2.2 of RFC 7541)."""
    return bytes([0, len(name)]) + name + bytes([len(value)]) + value


GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, b"")


def call_headers(path: bytes) -> bytes:
    """The header block of a gRPC call."""
    fields = [
        (b":method", b"POST"), (b":scheme", b"http"), (b":path", path), (b":authority", b"here"),
        (b"te", b"trailers"), (b"content-type", b"application/grpc"),
    ]  # fmt: skip
    return b"".join(header(name, value) for name, value in fields)


def opened_call(stream: int, path: bytes) -> bytes:
    """The frames of a call with one empty message."""
    message = frame(DATA, END_STREAM, stream, bytes(5))
    return frame(HEADERS, END_HEADERS, stream, call_headers(path)) + message


class Connection:
    """One to a server, greeted. It acknowledges pings, while it `answers`, and nothing else."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.answers = True
        self._reader = reader
        self._writer = writer

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    def close(self) -> None:
        self._writer.close()

    async def receive(self) -> Frame:
        head = await self._reader.readexactly(9)
        payload = await self._reader.readexactly(int.from_bytes(head[:3], "big"))
        received = Frame(kind=head[3], flags=head[4], stream=int.from_bytes(head[5:9], "big"), payload=payload)
        if self.answers and received.kind == PING and not received.flags:
            self.send(frame(PING, ACKNOWLEDGED, 0, payload))
        return received

    async def until(self, wanted: Callable[[Frame], bool]) -> Frame:
        """The next frame that is wanted; others are passed over."""
        while not wanted(received := await self.receive()):
            pass
        return received

    async def until_closed(self) -> None:
        """Until the server has closed it."""
        with suppress(ConnectionResetError, asyncio.IncompleteReadError):
            while True:
                await self.receive()


@asynccontextmanager
async def connected(address: str, greeting: bytes = GREETING) -> AsyncIterator[Connection]:
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(greeting)
    try:
        yield Connection(reader, writer)
    finally:
        writer.close()  # again, perhaps: that does no harm
