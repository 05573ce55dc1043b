"""The loop: schedule, execute, update. Imports no torch; the runner is given to it."""

from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

from rhapsode_server.engine.batch import Batch, BatchResult
from rhapsode_server.engine.events import PromptScores, Started, TokenEvent
from rhapsode_server.engine.request import EngineRequest, Matcher
from rhapsode_server.engine.scheduler import Scheduler


class PendingResult(Protocol):
    """What a launched step will have given, perhaps still on the device."""

    def read(self) -> BatchResult:
        """Wait for it."""


class Runner(Protocol):
    """Computes batches. `execute` launches a step and need not wait for it."""

    def execute(self, batch: Batch) -> PendingResult: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """The engine at the end of a step: counts of requests, rows, tokens and blocks.

    Blocks are used, retained (of requests that ended, until somebody needs them) or free. `cached_tokens` are those of
    the prompts begun in the step that were taken over from other requests.
    """

    waiting: int
    running: int
    blocks_used: int
    blocks_total: int
    batch_rows: int
    batch_tokens: int
    blocks_retained: int = 0
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What one step brought: requests that began, scores of prompts, tokens and ends of requests, and the books."""

    started: list[Started]
    prompt_scores: list[PromptScores]
    events: list[TokenEvent]
    stats: EngineStats


@dataclass(slots=True)
class Engine:
    """Runs requests to their end, at most `depth` steps in flight."""

    scheduler: Scheduler
    runner: Runner
    depth: int = 1
    _in_flight: deque[tuple[Batch, PendingResult]] = field(default_factory=deque)

    @property
    def has_work(self) -> bool:
        return bool(self.scheduler.has_work or self._in_flight)

    def submit(self, request: EngineRequest, matcher: Matcher | None = None) -> None:
        """`matcher` follows the request's constraint, if it has one."""
        self.scheduler.submit(request, matcher)

    def cancel(self, request_id: int) -> None:
        """Forget a request. Unknown ids are ignored."""
        self.scheduler.cancel(request_id)

    def step(self) -> StepResult:
        """Launch the next batch, then take what the oldest one gave once the pipeline is full."""
        batch = self.scheduler.schedule()
        if batch:
            self._in_flight.append((batch, self.runner.execute(batch)))
        if self._is_full(batch):
            self._complete_oldest()
        news = self.scheduler.take_news()
        return StepResult(
            started=news.started,
            prompt_scores=news.prompt_scores,
            events=news.events,
            stats=self._stats(batch, news.started),
        )

    def _is_full(self, batch: Batch) -> bool:
        return len(self._in_flight) >= self.depth or (not batch and bool(self._in_flight))

    def _complete_oldest(self) -> None:
        batch, pending = self._in_flight.popleft()
        self.scheduler.update(batch, pending.read())

    def _stats(self, batch: Batch, started: list[Started]) -> EngineStats:
        return EngineStats(
            waiting=len(self.scheduler.waiting),
            running=len(self.scheduler.running),
            blocks_used=self.scheduler.pool.num_used,
            blocks_total=self.scheduler.pool.num_blocks,
            batch_rows=len(batch.rows),
            batch_tokens=batch.num_tokens,
            blocks_retained=self.scheduler.pool.num_retained,
            cached_tokens=sum(each.num_cached_tokens for each in started),
        )
