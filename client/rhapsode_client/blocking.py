"""What the blocking clients share: a connection, and calls that fail with typed errors."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

import grpc
from google.protobuf.message import Message

from rhapsode_client import methods
from rhapsode_client.connection import CHANNEL_OPTIONS, Connection
from rhapsode_client.methods import Method, ResponseT, ResultT
from rhapsode_client.statuses import error_from


class BlockingClient:
    """A channel to a server. Threads may share it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._channel = grpc.insecure_channel(self.address, CHANNEL_OPTIONS)

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

    def _call(self, method: Method[ResponseT, ResultT], request: Message, timeout: float | None) -> ResultT:
        call = self._channel.unary_unary(method.path, methods.serialized, method.response.FromString)
        with typed_errors():
            response = call(request, timeout=self._connection.timeout_of(timeout))
        return method.result(response)


@contextmanager
def typed_errors() -> Iterator[None]:
    """Failures of gRPC in the body become errors of ours."""
    try:
        yield
    except grpc.RpcError as failure:
        raise error_from(failure) from failure
