"""One HTTP request and its answer: a body that is bounded in size and time, JSON, or a stream of server-sent events."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any, Final, NoReturn

from aiohttp import web

from rhapsode_server.errors import InvalidRequest
from rhapsode_server.models.limits import REQUEST_LIMITS
from rhapsode_server.rpc.call import Call
from rhapsode_server.rpc.openai import errors

BODY_SECONDS: Final = 30.0
_STREAM_HEADERS = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
_MOST = REQUEST_LIMITS.max_message_bytes


class Exchange:
    """`response` is there once there is an answer, or its beginning."""

    def __init__(self, request: web.BaseRequest, call: Call) -> None:
        self.request = request
        self.call = call
        self.response: web.StreamResponse | None = None

    async def body(self) -> bytes:
        """Raises InvalidRequest."""
        self._check_headers()
        if self.request.headers.get("Expect", "").lower() == "100-continue":
            await self.request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.request.writer.output_size = 0
        try:
            async with asyncio.timeout(BODY_SECONDS):
                return await self._read()
        except TimeoutError:
            raise InvalidRequest.of(errors.TIME, f"at most {BODY_SECONDS:g} s") from None
        except web.RequestPayloadError:
            raise InvalidRequest.of(errors.BODY, "is not what its headers say") from None
        except ConnectionError:
            await _until_cancelled()

    def answer(self, body: Mapping[str, Any]) -> None:
        self.response = _json(200, body, self._headers)

    def refuse(self, error: Exception) -> None:
        """Before anything has been sent."""
        body = errors.body_of(error, self.call.request_id)
        self.response = _json(errors.status_of(error), body, {**self._headers, **errors.headers_of(error)})

    async def send(self, chunk: Mapping[str, Any]) -> None:
        """An event of a stream, which begins with the first."""
        await self._write(json.dumps(chunk, ensure_ascii=False))

    async def end_stream(self) -> None:
        await self._write("[DONE]")

    async def break_off(self, error: Exception) -> None:
        """A stream that has begun fails."""
        await self.send(errors.body_of(error, self.call.request_id))

    async def _read(self) -> bytes:
        body = bytearray()
        while chunk := await self.request.content.readany():
            body += chunk
            _check_size(len(body))
        return bytes(body)

    @property
    def _headers(self) -> Mapping[str, str]:
        return dict(self.call.metadata)

    async def _write(self, data: str) -> None:
        try:
            if self.response is None:
                self.response = web.StreamResponse(headers={**self._headers, **_STREAM_HEADERS})
                await self.response.prepare(self.request)
            await self.response.write(f"data: {data}\n\n".encode())
        except ConnectionError:
            await _until_cancelled()

    def _check_headers(self) -> None:
        """Nobody knows how large it is what is compressed, and no page of another site can say that it sends JSON."""
        if self.request.headers.get(errors.ENCODING, "identity").lower() != "identity":
            raise InvalidRequest.of(errors.ENCODING, "a body must not be compressed")
        if self.request.content_type != "application/json":
            raise InvalidRequest.of(errors.TYPE, "must be application/json")
        _check_size(self.request.content_length or 0)


def refusal(error: Exception, headers: Mapping[str, str]) -> web.Response:
    """Of a request that is none of our calls."""
    return _json(errors.status_of(error), errors.body_of(error, ""), headers)


def _check_size(num_bytes: int) -> None:
    if num_bytes > _MOST:
        raise InvalidRequest.of(errors.SIZE, f"at most {_MOST} bytes")


def _json(status: int, body: Mapping[str, Any], headers: Mapping[str, str]) -> web.Response:
    text = json.dumps(body, ensure_ascii=False)
    return web.Response(status=status, text=text, content_type="application/json", headers=headers)


async def _until_cancelled() -> NoReturn:
    """The caller has gone, and aiohttp is about to say so by a cancellation."""
    await asyncio.Event().wait()
    raise AssertionError("nobody sets it")
