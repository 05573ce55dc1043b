"""The client for asyncio: the calls of `Client`, awaited."""
# ruff: noqa: ASYNC109  (a timeout is sent to the server as the deadline of the call)

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from typing import Self, Unpack
from weakref import WeakSet

import grpc
import grpc.aio
from google.protobuf.message import Message
from grpc_health.v1.health_pb2 import HealthCheckRequest
from rhapsode.v1.generation_pb2 import GenerateStreamResponse
from rhapsode.v1.models_pb2 import GetModelRequest, ListModelsRequest

from rhapsode_client import methods
from rhapsode_client.connection import CHANNEL_OPTIONS, Connection
from rhapsode_client.errors import Cancelled
from rhapsode_client.methods import Method, ResponseT, ResultT
from rhapsode_client.requests import GenerateOptions, detokenize_request, generate_request, tokenize_request
from rhapsode_client.results import Completion, Delta, Model, Token
from rhapsode_client.statuses import error_from
from rhapsode_client.streaming import BaseStream


class AsyncStream(BaseStream[grpc.aio.UnaryStreamCall[Message, GenerateStreamResponse]]):
    """As `Stream`, with `async for`, `async with` and `await stream.result()`."""

    def __aiter__(self) -> AsyncIterator[Delta]:
        return self

    async def __anext__(self) -> Delta:
        while (event := await self._read()) is not None:
            if (delta := self._take(event)) is not None:
                return delta
        self._finished()
        raise StopAsyncIteration

    async def result(self) -> Completion:
        """The whole completion. Reads the stream to its end first."""
        async for _ in self:
            pass
        return self._finished()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cancel()

    async def _read(self) -> GenerateStreamResponse | None:
        with _typed_errors():
            event = await self._call.read()
        return event if isinstance(event, GenerateStreamResponse) else None


class AsyncClient:
    """As `Client`, for asyncio. Create it while the event loop runs that will use it."""

    def __init__(self, address: str | None = None, *, timeout: float | None = None) -> None:
        self._connection = Connection.resolve(address, timeout)
        self._channel = grpc.aio.insecure_channel(self.address, CHANNEL_OPTIONS)
        self._streams: WeakSet[AsyncStream] = WeakSet()

    @property
    def address(self) -> str:
        """Where the server is."""
        return self._connection.address

    async def generate(
        self, prompt: str | Sequence[int], *, timeout: float | None = None, **options: Unpack[GenerateOptions]
    ) -> Completion:
        """As `Client.generate`."""
        return await self._call(methods.GENERATE, generate_request(prompt, **options), timeout)

    def stream(
        self, prompt: str | Sequence[int], *, timeout: float | None = None, **options: Unpack[GenerateOptions]
    ) -> AsyncStream:
        """As `Client.stream`. Use it in an `async with` block."""
        request = generate_request(prompt, **options)
        call = self._channel.unary_stream(methods.STREAM_PATH, methods.serialized, GenerateStreamResponse.FromString)
        stream = AsyncStream(call(request, timeout=self._connection.timeout_of(timeout)))
        self._streams.add(stream)
        return stream

    async def tokenize(
        self,
        text: str,
        *,
        model: str = "",
        version: int | None = None,
        alias: str | None = None,
        timeout: float | None = None,
    ) -> list[Token]:
        """As `Client.tokenize`."""
        request = tokenize_request(text, model=model, version=version, alias=alias)
        return await self._call(methods.TOKENIZE, request, timeout)

    async def detokenize(
        self,
        ids: Sequence[int],
        *,
        model: str = "",
        version: int | None = None,
        alias: str | None = None,
        skip_special_tokens: bool | None = None,
        timeout: float | None = None,
    ) -> str:
        """As `Client.detokenize`."""
        request = detokenize_request(
            ids, model=model, version=version, alias=alias, skip_special_tokens=skip_special_tokens
        )
        return await self._call(methods.DETOKENIZE, request, timeout)

    async def models(self, *, timeout: float | None = None) -> list[Model]:
        """As `Client.models`."""
        return await self._call(methods.LIST_MODELS, ListModelsRequest(), timeout)

    async def model(self, name: str = "", *, timeout: float | None = None) -> Model:
        """As `Client.model`."""
        return await self._call(methods.GET_MODEL, GetModelRequest(model=name), timeout)

    async def health(self, service: str = "", *, timeout: float | None = None) -> str:
        """As `Client.health`."""
        return await self._call(methods.HEALTH, HealthCheckRequest(service=service), timeout)

    async def close(self) -> None:
        """Close the connection and cancel what is under way."""
        # Closing a channel of grpc.aio ends only the streams that some task is reading at the moment.
        for stream in self._streams:
            stream.cancel()
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _call(self, method: Method[ResponseT, ResultT], request: Message, timeout: float | None) -> ResultT:
        call = self._channel.unary_unary(method.path, methods.serialized, method.response.FromString)
        with _typed_errors():
            response = await call(request, timeout=self._connection.timeout_of(timeout))
        return method.result(response)


@contextmanager
def _typed_errors() -> Iterator[None]:
    try:
        yield
    except grpc.RpcError as failure:
        raise error_from(failure) from failure
    except asyncio.CancelledError:
        # grpc.aio raises this both when the task is cancelled and when only the call was.
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise Cancelled("the call was cancelled by this client") from None
