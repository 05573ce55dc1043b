"""HTTP/1.1 by hand, for what no HTTP client would do."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        return json.loads(self.body)["error"]


@dataclass
class Connection:
    """Ends of what is read are found by Content-Length, or by the end of the connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter = field(repr=False)

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def ask(self, data: bytes) -> Answer:
        await self.send(data)
        return await self.answer()

    async def answer(self) -> Answer:
        status_line, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().rstrip().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        size = headers.get("content-length")
        body = await (self.reader.read() if size is None else self.reader.readexactly(int(size)))
        return Answer(int(status_line.split()[1]), headers, body)

    async def until_closed(self) -> bytes:
        """What still comes."""
        return await self.reader.read()


def request(method: str, path: str, *headers: str) -> bytes:
    """The head of a request."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: here", *headers, "", ""]).encode()


def posted(path: str, body: bytes | dict[str, Any], *headers: str) -> bytes:
    """A whole request with JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return (
        request("POST", path, "Content-Type: application/json", f"Content-Length: {len(content)}", *headers) + content
    )


@asynccontextmanager
async def connected(address: str, **options: Any) -> AsyncIterator[Connection]:
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), **options)
    try:
        yield Connection(reader, writer)
    finally:
        writer.transport.abort()
