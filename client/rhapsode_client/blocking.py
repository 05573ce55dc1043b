"""What the blocking clients are made of: a channel, and calls that fail with typed errors. Twins of `asynchronous`."""

from collections.abc import Collection, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from typing import Any, Generic, Self

import grpc
from google.protobuf.message import Message

from rhapsode_client.connection import Connection
from rhapsode_client.methods import Method, ResponseT, ResultT, StreamMethod, serialized
from rhapsode_client.statuses import error_from


class Events(Generic[ResponseT]):
    """The messages of a call that is answered with many."""

    def __init__(self, call: Any, kind: type[ResponseT]) -> None:
        self._call = call
        self._kind = kind

    def read(self) -> ResponseT | None:
        """The next one; None at the end."""
        with _typed_errors():
            event = next(self._call, None)
        return event if isinstance(event, self._kind) else None

    def cancel(self) -> None:
        """End the call. Reading on raises Cancelled."""
        self._call.cancel()


class Outcome(Generic[ResultT]):
    """A call under way whose result is asked for later."""

    def __init__(self, call: Any, method: Method[Any, ResultT]) -> None:
        self._call = call
        self._method = method
        self._ended: Future[object] = Future()
        call.add_done_callback(self._ended.set_result)

    def done(self) -> bool:
        return self._ended.done()

    def result(self) -> ResultT:
        """Raises RhapsodeError."""
        with _typed_errors():
            return self._method.result(self._call.result())

    def cancel(self) -> None:
        """End the call; nobody will ask for its result."""
        self._call.cancel()


def first_done(outcomes: Collection[Outcome[ResultT]]) -> None:
    """Until one of them is done."""
    wait([each._ended for each in outcomes], return_when=FIRST_COMPLETED)


class BlockingClient:
    """A channel to a server. Threads may share it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        credentials, options = connection.channel_credentials(), connection.channel_options
        self._channel = (
            grpc.secure_channel(self.address, credentials, options)
            if credentials
            else grpc.insecure_channel(self.address, options)
        )

    @property
    def address(self) -> str:
        """Where the server is."""
        return self._connection.address

    def close(self) -> None:
        """Close the connection and cancel what is under way."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(
        self, method: Method[ResponseT, ResultT], request: Message, timeout: float | None, trace: str = ""
    ) -> ResultT:
        call = self._channel.unary_unary(method.path, serialized, method.response.FromString)
        with _typed_errors():
            response = call(
                request, timeout=self._connection.timeout_of(timeout), metadata=self._connection.metadata(trace)
            )
        return method.result(response)

    def _begin(
        self, method: Method[ResponseT, ResultT], request: Message, timeout: float | None, trace: str
    ) -> Outcome[ResultT]:
        call = self._channel.unary_unary(method.path, serialized, method.response.FromString)
        begun = call.future(
            request, timeout=self._connection.timeout_of(timeout), metadata=self._connection.metadata(trace)
        )
        return Outcome(begun, method)

    def _open(
        self, method: StreamMethod[ResponseT], request: Message, timeout: float | None, trace: str
    ) -> Events[ResponseT]:
        call = self._channel.unary_stream(method.path, serialized, method.response.FromString)
        begun = call(request, timeout=self._connection.timeout_of(timeout), metadata=self._connection.metadata(trace))
        return Events(begun, method.response)


@contextmanager
def _typed_errors() -> Iterator[None]:
    try:
        yield
    except grpc.RpcError as failure:
        raise error_from(failure) from failure
