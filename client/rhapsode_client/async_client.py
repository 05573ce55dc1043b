"""The client for asyncio."""
# ruff: noqa: ASYNC109  (a timeout is sent to the server as the deadline of the call)

from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import Literal, Unpack, overload

from grpc_health.v1.health_pb2 import HealthCheckRequest
from rhapsode.v1.models_pb2 import GetModelRequest, ListModelsRequest

from rhapsode_client import methods, requests
from rhapsode_client.arguments import BatchItem, GenerateOptions, Prompt
from rhapsode_client.async_many import in_order
from rhapsode_client.async_streams import AsyncBatch, AsyncStream
from rhapsode_client.asynchronous import AsynchronousClient, AsyncOutcome
from rhapsode_client.connection import Connection
from rhapsode_client.credentials import CredentialOptions
from rhapsode_client.errors import RhapsodeError
from rhapsode_client.results import Completion, Model, Score, Token
from rhapsode_client.settings import ConfigPath


class AsyncClient(AsynchronousClient):
    """A connection to a Rhapsode server, for asyncio. Create it while the event loop runs that will use it.

    `address` is `host:port`, `timeout` how many seconds a call may take unless it names its own (None: no limit),
    `retries` how often a call that the server could not take is tried again, 0 to 4. `CredentialOptions` lists what
    there is for a server that asks who calls. What is None is that of the environment (RHAPSODE_ADDRESS,
    RHAPSODE_TIMEOUT and so on), else of the TOML file `config`, else the default; settings that cannot be used are a
    ValueError. Every call raises `RhapsodeError`.

    `trace` is the W3C `traceparent` that a call is part of; empty: that of OpenTelemetry's present span, if any.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        timeout: float | None = None,
        retries: int | None = None,
        config: ConfigPath = None,
        **credentials: Unpack[CredentialOptions],
    ) -> None:
        super().__init__(Connection.resolve(address, timeout, retries, config, credentials))

    async def generate(
        self, prompt: Prompt, *, timeout: float | None = None, trace: str = "", **options: Unpack[GenerateOptions]
    ) -> Completion:
        """One whole completion of `prompt`: a text, token ids or a conversation. See `GenerateOptions`."""
        request = requests.generate_request(prompt, **options)
        return await self._call(methods.GENERATE, request, timeout, trace)

    def stream(
        self, prompt: Prompt, *, timeout: float | None = None, trace: str = "", **options: Unpack[GenerateOptions]
    ) -> AsyncStream:
        """As `generate`, with the text as it is produced. Use it in `async with`."""
        request = requests.generate_request(prompt, **options)
        return AsyncStream(self._open(methods.GENERATE_STREAM, request, timeout, trace))

    def generate_batch(
        self,
        items: Sequence[BatchItem],
        *,
        seed: int | None = None,
        request_id: str = "",
        timeout: float | None = None,
        trace: str = "",
    ) -> AsyncBatch:
        """All completions of many requests in one call, as they finish. Those that fail do so alone.

        Completions whose item sets no seed use `seed` plus their place among all completions of the call.
        """
        request = requests.batch_request(items, seed=seed, request_id=request_id)
        return AsyncBatch(self._open(methods.GENERATE_BATCH, request, timeout, trace))

    @overload
    def generate_many(
        self,
        prompts: Iterable[Prompt],
        *,
        concurrency: int = 8,
        return_errors: Literal[False] = False,
        timeout: float | None = None,
        trace: str = "",
        **options: Unpack[GenerateOptions],
    ) -> AsyncGenerator[Completion, None]: ...

    @overload
    def generate_many(
        self,
        prompts: Iterable[Prompt],
        *,
        concurrency: int = 8,
        return_errors: Literal[True],
        timeout: float | None = None,
        trace: str = "",
        **options: Unpack[GenerateOptions],
    ) -> AsyncGenerator[Completion | RhapsodeError, None]: ...

    def generate_many(
        self,
        prompts: Iterable[Prompt],
        *,
        concurrency: int = 8,
        return_errors: bool = False,
        timeout: float | None = None,
        trace: str = "",
        **options: Unpack[GenerateOptions],
    ) -> AsyncGenerator[Completion | RhapsodeError, None]:
        """A call for each of `prompts`, `concurrency` at a time; results in their order. Prompts are read as needed.

        The first failure is raised and ends the others, unless `return_errors` puts it in the place of its completion.
        `timeout` is that of each call. Closing the generator cancels the calls under way.
        """

        def begin(prompt: Prompt) -> AsyncOutcome[Completion]:
            return self._begin(methods.GENERATE, requests.generate_request(prompt, **options), timeout, trace)

        return in_order(begin, prompts, concurrency, return_errors)

    async def score(
        self,
        text: str | Sequence[int],
        *,
        model: str = "",
        version: int | None = None,
        alias: str | None = None,
        as_document: bool = False,
        overlap: int | None = None,
        top_logprobs: int = 0,
        request_id: str = "",
        timeout: float | None = None,
        trace: str = "",
    ) -> Score:
        """How likely the model finds `text`, a text or token ids, token by token.

        `as_document` puts the end-of-sequence token before and after it, as in training. `overlap` is how many tokens
        of context a token of a long text sees at least, None: half of the model's context. `top_logprobs` of the
        likeliest tokens in each place are returned too.
        """
        request = requests.score_request(
            text,
            model=model,
            version=version,
            alias=alias,
            as_document=as_document,
            overlap=overlap,
            top_logprobs=top_logprobs,
            request_id=request_id,
        )
        return await self._call(methods.SCORE, request, timeout, trace)

    async def tokenize(
        self,
        text: str,
        *,
        model: str = "",
        version: int | None = None,
        alias: str | None = None,
        timeout: float | None = None,
    ) -> list[Token]:
        """The tokens that the model sees for `text`."""
        request = requests.tokenize_request(text, model=model, version=version, alias=alias)
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
        """The text of token ids."""
        request = requests.detokenize_request(
            ids, model=model, version=version, alias=alias, skip_special_tokens=skip_special_tokens
        )
        return await self._call(methods.DETOKENIZE, request, timeout)

    async def models(self, *, timeout: float | None = None) -> list[Model]:
        """Every model that the server knows, sorted by name."""
        return await self._call(methods.LIST_MODELS, ListModelsRequest(), timeout)

    async def model(self, name: str = "", *, timeout: float | None = None) -> Model:
        """One model. Empty: the only one served, else the server's default model."""
        return await self._call(methods.GET_MODEL, GetModelRequest(model=name), timeout)

    async def health(self, service: str = "", *, timeout: float | None = None) -> str:
        """`SERVING` or `NOT_SERVING`, of the server or of one of its services such as `model/poems`."""
        return await self._call(methods.HEALTH, HealthCheckRequest(service=service), timeout)
