"""Answers that come in parts, for asyncio."""

from collections.abc import AsyncIterator
from typing import Self

from rhapsode.v1.generation_pb2 import GenerateBatchResponse, GenerateStreamResponse

from rhapsode_client import convert
from rhapsode_client.asynchronous import AsyncEvents
from rhapsode_client.results import BatchResult, Completion, Delta, Started
from rhapsode_client.streaming import Gathered


class AsyncStream:
    """A completion as it is produced, in `Delta`s. Leaving the `async with` block early cancels the call."""

    def __init__(self, events: AsyncEvents[GenerateStreamResponse]) -> None:
        self._events = events
        self._gathered = Gathered()

    @property
    def started(self) -> Started | None:
        """Who answers and with which seed; None until the first event has been read."""
        return self._gathered.started

    def __aiter__(self) -> AsyncIterator[Delta]:
        return self

    async def __anext__(self) -> Delta:
        while (event := await self._events.read()) is not None:
            if (delta := self._gathered.take(event)) is not None:
                return delta
        self._gathered.completion()
        raise StopAsyncIteration

    async def result(self) -> Completion:
        """The whole completion. Reads the stream to its end first."""
        async for _ in self:
            pass
        return self._gathered.completion()

    def cancel(self) -> None:
        """End the call. Reading on raises Cancelled; a stream that has already ended stays as it is."""
        self._events.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cancel()


class AsyncBatch:
    """The completions of a batch as they finish. Leaving the `async with` block early cancels the call."""

    def __init__(self, events: AsyncEvents[GenerateBatchResponse]) -> None:
        self._events = events

    def __aiter__(self) -> AsyncIterator[BatchResult]:
        return self

    async def __anext__(self) -> BatchResult:
        event = await self._events.read()
        if event is None:
            raise StopAsyncIteration
        return convert.batch_result(event)

    def cancel(self) -> None:
        """End the call. Reading on raises Cancelled."""
        self._events.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cancel()
