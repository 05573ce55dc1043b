"""The client for ordinary, blocking code."""

from collections.abc import Iterator, Sequence
from typing import Protocol, Self, Unpack

from grpc_health.v1.health_pb2 import HealthCheckRequest
from rhapsode.v1.generation_pb2 import GenerateStreamResponse
from rhapsode.v1.models_pb2 import GetModelRequest, ListModelsRequest

from rhapsode_client import methods
from rhapsode_client.blocking import BlockingClient, typed_errors
from rhapsode_client.connection import Connection
from rhapsode_client.requests import GenerateOptions, detokenize_request, generate_request, tokenize_request
from rhapsode_client.results import Completion, Delta, Model, Token
from rhapsode_client.streaming import BaseStream


class _EventCall(Iterator[GenerateStreamResponse], Protocol):
    def cancel(self) -> bool: ...


class Stream(BaseStream[_EventCall]):
    """A completion as it is produced; iterating gives `Delta`s. Leaving the `with` block early cancels the call."""

    def __iter__(self) -> Iterator[Delta]:
        return self

    def __next__(self) -> Delta:
        with typed_errors():
            for event in self._call:
                if (delta := self._take(event)) is not None:
                    return delta
        self._finished()
        raise StopIteration

    def result(self) -> Completion:
        """The whole completion. Reads the stream to its end first."""
        for _ in self:
            pass
        return self._finished()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()


class Client(BlockingClient):
    """A connection to a Rhapsode server. Threads may share it.

    `address` is `host:port`, by default the environment's RHAPSODE_ADDRESS, else 127.0.0.1:50051. `timeout` is how
    many seconds a call may take unless it names its own; None: no limit. Every call raises `RhapsodeError`.
    """

    def __init__(self, address: str | None = None, *, timeout: float | None = None) -> None:
        super().__init__(Connection.resolve(address, timeout))

    def generate(
        self, prompt: str | Sequence[int], *, timeout: float | None = None, **options: Unpack[GenerateOptions]
    ) -> Completion:
        """One whole completion of `prompt`, a text or token ids. `GenerateOptions` lists the options."""
        return self._call(methods.GENERATE, generate_request(prompt, **options), timeout)

    def stream(
        self, prompt: str | Sequence[int], *, timeout: float | None = None, **options: Unpack[GenerateOptions]
    ) -> Stream:
        """As `generate`, with the text as it is produced. Use it in a `with` block."""
        request = generate_request(prompt, **options)
        call = self._channel.unary_stream(methods.STREAM_PATH, methods.serialized, GenerateStreamResponse.FromString)
        return Stream(call(request, timeout=self._connection.timeout_of(timeout)))

    def tokenize(
        self,
        text: str,
        *,
        model: str = "",
        version: int | None = None,
        alias: str | None = None,
        timeout: float | None = None,
    ) -> list[Token]:
        """The tokens that the model sees for `text`."""
        request = tokenize_request(text, model=model, version=version, alias=alias)
        return self._call(methods.TOKENIZE, request, timeout)

    def detokenize(
        self,
        ids: Sequence[int],
        *,
        model: str = "",
        version: int | None = None,
        alias: str | None = None,
        skip_special_tokens: bool | None = None,
        timeout: float | None = None,
    ) -> str:
        """The text of token ids."""
        request = detokenize_request(
            ids, model=model, version=version, alias=alias, skip_special_tokens=skip_special_tokens
        )
        return self._call(methods.DETOKENIZE, request, timeout)

    def models(self, *, timeout: float | None = None) -> list[Model]:
        """Every model that the server knows, sorted by name."""
        return self._call(methods.LIST_MODELS, ListModelsRequest(), timeout)

    def model(self, name: str = "", *, timeout: float | None = None) -> Model:
        """One model. Empty: the only one served, else the server's default model."""
        return self._call(methods.GET_MODEL, GetModelRequest(model=name), timeout)

    def health(self, service: str = "", *, timeout: float | None = None) -> str:
        """`SERVING` or `NOT_SERVING`, of the server or of one of its services such as `model/poems`."""
        return self._call(methods.HEALTH, HealthCheckRequest(service=service), timeout)
