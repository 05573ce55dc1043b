"""The loop: schedule, execute, update. Imports no torch; the runner is given to it."""

from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

from rhapsode_server.engine.batch import Batch
from rhapsode_server.engine.request import EngineRequest
from rhapsode_server.engine.scheduler import Scheduler, TokenEvent


class PendingTokens(Protocol):
    """The sampled ids of a launched step, perhaps still on the device."""

    def token_ids(self) -> list[int]:
        """Wait for the ids: one for each row that samples, NOT_FINITE where there is none."""


class Runner(Protocol):
    """Computes batches. `execute` launches a step and need not wait for it."""

    def execute(self, batch: Batch) -> PendingTokens: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """The engine at the end of a step: counts of requests, rows, tokens and blocks."""

    waiting: int
    running: int
    blocks_used: int
    blocks_total: int
    batch_rows: int
    batch_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What one step brought: requests that began, tokens and ends of requests, and the books."""

    started: list[int]
    events: list[TokenEvent]
    stats: EngineStats


@dataclass(slots=True)
class Engine:
    """Runs requests to their end, at most `depth` steps in flight."""

    scheduler: Scheduler
    runner: Runner
    depth: int = 1
    _in_flight: deque[tuple[Batch, PendingTokens]] = field(default_factory=deque)

    @property
    def has_work(self) -> bool:
        return bool(self.scheduler.has_work or self._in_flight)

    def submit(self, request: EngineRequest) -> None:
        self.scheduler.submit(request)

    def cancel(self, request_id: int) -> None:
        self.scheduler.cancel(request_id)

    def step(self) -> StepResult:
        """Launch the next batch, then take the tokens of the oldest one once the pipeline is full."""
        batch = self.scheduler.schedule()
        if batch:
            self._in_flight.append((batch, self.runner.execute(batch)))
        events = self._complete_oldest() if self._is_full(batch) else []
        return StepResult(started=self.scheduler.take_started(), events=events, stats=self._stats(batch))

    def _is_full(self, batch: Batch) -> bool:
        return len(self._in_flight) >= self.depth or (not batch and bool(self._in_flight))

    def _complete_oldest(self) -> list[TokenEvent]:
        batch, pending = self._in_flight.popleft()
        return self.scheduler.update(batch, pending.token_ids())

    def _stats(self, batch: Batch) -> EngineStats:
        return EngineStats(
            waiting=len(self.scheduler.waiting),
            running=len(self.scheduler.running),
            blocks_used=self.scheduler.pool.num_used,
            blocks_total=self.scheduler.pool.num_blocks,
            batch_rows=len(batch.rows),
            batch_tokens=batch.num_tokens,
        )
