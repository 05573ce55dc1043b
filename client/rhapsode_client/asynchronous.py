"""What the asyncio client is made of: a channel, and calls that fail with typed errors. `blocking` has its twins."""
# ruff: noqa: ASYNC109  (a timeout is sent to the server as the deadline of the call)

import asyncio
from collections.abc import Collection, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Generic, Self
from weakref import WeakSet

import grpc
import grpc.aio
from google.protobuf.message import Message

from rhapsode_client.connection import Connection
from rhapsode_client.errors import Cancelled
from rhapsode_client.methods import Method, ResponseT, ResultT, StreamMethod, serialized
from rhapsode_client.statuses import error_from


class AsyncEvents(Generic[ResponseT]):
    """The messages of a call that is answered with many."""

    def __init__(self, call: Any, kind: type[ResponseT]) -> None:
        self._call = call
        self._kind = kind

    async def read(self) -> ResponseT | None:
        """The next one; None at the end."""
        with _typed_errors():
            event = await self._call.read()
        return event if isinstance(event, self._kind) else None

    def cancel(self) -> None:
        """End the call. Reading on raises Cancelled."""
        self._call.cancel()


class AsyncOutcome(Generic[ResultT]):
    """A call under way whose result is asked for later."""

    def __init__(self, call: Coroutine[Any, Any, ResultT]) -> None:
        self._task = asyncio.ensure_future(call)

    def done(self) -> bool:
        return self._task.done()

    async def result(self) -> ResultT:
        """Raises RhapsodeError."""
        return await self._task

    def cancel(self) -> None:
        """End the call; nobody will ask for its result."""
        self._task.add_done_callback(lambda task: task.cancelled() or task.exception())
        self._task.cancel()


async def first_done(outcomes: Collection[AsyncOutcome[ResultT]]) -> None:
    """Until one of them is done."""
    await asyncio.wait([each._task for each in outcomes], return_when=asyncio.FIRST_COMPLETED)


class AsynchronousClient:
    """A channel to a server."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        credentials, options = connection.channel_credentials(), connection.channel_options
        self._channel = (
            grpc.aio.secure_channel(self.address, credentials, options)
            if credentials
            else grpc.aio.insecure_channel(self.address, options)
        )
        self._events: WeakSet[AsyncEvents[Any]] = WeakSet()

    @property
    def address(self) -> str:
        """Where the server is."""
        return self._connection.address

    async def close(self) -> None:
        """Close the connection and cancel what is under way."""
        # Closing a channel of grpc.aio ends only the streams that some task is reading at the moment.
        for events in self._events:
            events.cancel()
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _call(
        self, method: Method[ResponseT, ResultT], request: Message, timeout: float | None, trace: str = ""
    ) -> ResultT:
        call = self._channel.unary_unary(method.path, serialized, method.response.FromString)
        with _typed_errors():
            response = await call(
                request, timeout=self._connection.timeout_of(timeout), metadata=self._connection.metadata(trace)
            )
        return method.result(response)

    def _begin(
        self, method: Method[ResponseT, ResultT], request: Message, timeout: float | None, trace: str
    ) -> AsyncOutcome[ResultT]:
        return AsyncOutcome(self._call(method, request, timeout, trace))

    def _open(
        self, method: StreamMethod[ResponseT], request: Message, timeout: float | None, trace: str
    ) -> AsyncEvents[ResponseT]:
        call = self._channel.unary_stream(method.path, serialized, method.response.FromString)
        events = AsyncEvents(
            call(request, timeout=self._connection.timeout_of(timeout), metadata=self._connection.metadata(trace)),
            method.response,
        )
        self._events.add(events)
        return events


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
