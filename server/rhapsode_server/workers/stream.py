"""The tokens of one request on their way from a worker to whoever reads them. Lives on the event loop."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rhapsode_server.engine.request import FinishReason, TokenScore


@dataclass(frozen=True, slots=True)
class TokenChunk:
    """Tokens that gathered since the last read, and scores if they were asked for.

    `finish_reason` is set in the last chunk only, and `detail` there only: why a constraint is bad.
    """

    token_ids: list[int]
    finish_reason: FinishReason | None
    scores: list[TokenScore] = field(default_factory=list)
    prompt_scores: list[TokenScore] = field(default_factory=list)
    detail: str = ""


@dataclass(slots=True, eq=False)
class TokenStream:
    """Iterates over chunks. Tokens gather until somebody reads and `wake` was called; the first needs no call.

    `request_id` is what the caller knows it by. The times are `time.monotonic()` seconds; `num_cached_tokens` of the
    prompt were computed before. Close it however the request ends: an unfinished one is then cancelled in the engine.
    """

    on_close: Callable[[], None]
    request_id: str = ""
    submitted_at: float = field(default_factory=time.monotonic)
    started_at: float | None = None
    first_token_at: float | None = None
    num_cached_tokens: int = 0
    _num_taken: int = 0
    _token_ids: list[int] = field(default_factory=list)
    _scores: list[TokenScore] = field(default_factory=list)
    _prompt_scores: list[TokenScore] = field(default_factory=list)
    _finish_reason: FinishReason | None = None
    _detail: str = ""
    _error: Exception | None = None
    _closed: bool = False
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def __aiter__(self) -> "TokenStream":
        return self

    @property
    def num_generated(self) -> int:
        return self._num_taken + len(self._token_ids)

    async def __anext__(self) -> TokenChunk:
        """The next chunk. Raises WorkerLost when the worker was lost, after all that it had sent."""
        if self._closed:
            raise StopAsyncIteration
        await self._news.wait()
        self._news.clear()
        if self._error is not None and not (self._token_ids or self._prompt_scores):
            raise self._error
        return self._take()

    def close(self) -> None:
        """Cancel the request unless it has ended. May be called again."""
        if not self._closed:
            self._closed = True
            self.on_close()

    def mark_started(self, seconds_ago: float, num_cached_tokens: int = 0) -> None:
        """The engine began with the prompt."""
        self.started_at = max(self.submitted_at, time.monotonic() - seconds_ago)
        self.num_cached_tokens = num_cached_tokens

    def push(self, token_ids: Sequence[int]) -> None:
        """At least one."""
        self._token_ids += token_ids
        if self.first_token_at is None:
            self.first_token_at = time.monotonic()
            self._news.set()

    def push_score(self, score: TokenScore) -> None:
        """That of the next token without one."""
        self._scores.append(score)

    def wake(self) -> None:
        """The reader gets the tokens that have gathered."""
        if self._token_ids:
            self._news.set()

    def end(self, reason: FinishReason, detail: str = "") -> None:
        """No token comes any more."""
        self._finish_reason, self._detail = reason, detail
        self._news.set()

    def push_prompt_scores(self, scores: Sequence[TokenScore]) -> None:
        self._prompt_scores += scores
        self._news.set()

    def fail(self, error: Exception) -> None:
        self._error = error
        self._news.set()

    def _take(self) -> TokenChunk:
        chunk = TokenChunk(self._token_ids, self._finish_reason, self._scores, self._prompt_scores, self._detail)
        self._num_taken += len(self._token_ids)
        self._token_ids, self._scores, self._prompt_scores = [], [], []
        self._closed = self._finish_reason is not None
        if self._error is not None:
            self._news.set()
        return chunk
