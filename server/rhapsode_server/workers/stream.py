"""The tokens of one request on their way from a worker to whoever reads them. Lives on the event loop."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from rhapsode_server.engine.request import FinishReason


@dataclass(frozen=True, slots=True)
class TokenChunk:
    """Tokens that gathered since the last read. `finish_reason` is set in the last chunk only."""

    token_ids: list[int]
    finish_reason: FinishReason | None


@dataclass(slots=True, eq=False)
class TokenStream:
    """Iterates over chunks. While nobody reads, tokens gather and later leave together.

    The times are `time.monotonic()` seconds. Close it however the request ends: an unfinished one is then cancelled in
    the engine.
    """

    on_close: Callable[[], None]
    submitted_at: float = field(default_factory=time.monotonic)
    started_at: float | None = None
    first_token_at: float | None = None
    _token_ids: list[int] = field(default_factory=list)
    _finish_reason: FinishReason | None = None
    _error: Exception | None = None
    _closed: bool = False
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def __aiter__(self) -> "TokenStream":
        return self

    async def __anext__(self) -> TokenChunk:
        """The next chunk. Raises WorkerLost when the worker was lost, after the tokens that it had sent."""
        if self._closed:
            raise StopAsyncIteration
        await self._news.wait()
        self._news.clear()
        if self._error is not None and not self._token_ids:
            raise self._error
        return self._take()

    def close(self) -> None:
        """Cancel the request unless it has ended. May be called again."""
        if not self._closed:
            self._closed = True
            self.on_close()

    def mark_started(self, seconds_ago: float) -> None:
        """The engine began with the prompt."""
        self.started_at = max(self.submitted_at, time.monotonic() - seconds_ago)

    def push(self, token_id: int | None, finish_reason: FinishReason | None) -> None:
        if token_id is not None:
            self._token_ids.append(token_id)
            self.first_token_at = self.first_token_at or time.monotonic()
        self._finish_reason = finish_reason
        self._news.set()

    def fail(self, error: Exception) -> None:
        self._error = error
        self._news.set()

    def _take(self) -> TokenChunk:
        chunk = TokenChunk(self._token_ids, self._finish_reason)
        self._token_ids = []
        self._closed = self._finish_reason is not None
        if self._error is not None:
            self._news.set()
        return chunk
