"""Which requests a worker takes, and how long they will wait. Lives on the event loop."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice

from rhapsode_server.engine.engine import EngineStats
from rhapsode_server.engine.request import EngineRequest
from rhapsode_server.errors import DeadlineUnreachable, Overloaded
from rhapsode_server.workers.rate import WorkRate

# What is answered when nothing was measured yet, in seconds.
_RETRY_AFTER = 1.0


@dataclass(frozen=True, slots=True)
class _Ticket:
    """`rank` orders waiting requests as the engine does; `num_cached_tokens` it need not compute."""

    num_tokens: int
    num_prompt_tokens: int
    rank: float
    num_cached_tokens: int = 0


@dataclass(slots=True, kw_only=True)
class Admission:
    """Bounds what waits by requests and by tokens, and refuses what would begin too late.

    A request waits until the engine begins with its prompt, unless the engine has a free place for it. It counts with
    its prompt and all that it may generate.
    """

    max_sequences: int
    max_queued_requests: int
    max_queued_tokens: int
    clock: Callable[[], float] = time.monotonic
    _waiting: dict[int, _Ticket] = field(default_factory=dict)  # by request id, in order of arrival
    _running: dict[int, _Ticket] = field(default_factory=dict)
    _rate: WorkRate = field(default_factory=WorkRate)

    def admit(self, request: EngineRequest) -> None:
        """Take a request. Raises Overloaded, DeadlineUnreachable."""
        now, num_tokens = self.clock(), request.num_reserved_tokens
        wait = self.predicted_wait(num_tokens, request.priority)
        if self._is_full_for(num_tokens):
            raise Overloaded("as many requests wait already as may; try again later", retry_after=wait or _RETRY_AFTER)
        if wait and request.deadline is not None and now + wait > request.deadline:
            raise DeadlineUnreachable(f"it would begin in {wait:.1f} s, after its deadline", retry_after=wait)
        self._waiting[request.request_id] = _Ticket(num_tokens, len(request.prompt_ids), now - request.priority)

    def begin(self, request_id: int, num_cached_tokens: int) -> None:
        """The engine began with it."""
        if ticket := self._waiting.pop(request_id, None):
            self._running[request_id] = _Ticket(
                ticket.num_tokens, ticket.num_prompt_tokens, ticket.rank, num_cached_tokens
            )

    def end(self, request_id: int, num_generated: int) -> None:
        """It has ended, or nobody waits for it any more."""
        self._waiting.pop(request_id, None)
        if ticket := self._running.pop(request_id, None):
            num_computed = ticket.num_prompt_tokens - ticket.num_cached_tokens + num_generated
            self._rate.note_end(num_computed, ticket.num_tokens)

    def note_step(self, stats: EngineStats) -> None:
        self._rate.note_step(stats.batch_tokens, stats.waiting, self.clock())

    def clear(self) -> None:
        """The engine is gone, and all that it had."""
        self._waiting.clear()
        self._running.clear()

    def predicted_wait(self, num_tokens: int, priority: int = 0) -> float:
        """Seconds until a request of so many tokens would begin: what goes before it, and the place it needs, by the
        measured rate. 0 if the engine has a free place, or nothing was measured yet."""
        if self._num_free and not self._rate.is_full:
            return 0.0
        rank = self.clock() - priority
        ahead = sum(ticket.num_tokens for ticket in self._waiting.values() if ticket.rank <= rank)
        return self._rate.seconds_for(ahead + num_tokens)

    @property
    def _num_free(self) -> int:
        return max(0, self.max_sequences - len(self._waiting) - len(self._running))

    def _is_full_for(self, num_tokens: int) -> bool:
        if self._num_free:
            return False
        queue = list(islice(self._waiting.values(), max(0, self.max_sequences - len(self._running)), None))
        num_queued_tokens = sum(ticket.num_tokens for ticket in queue) + num_tokens
        return len(queue) >= self.max_queued_requests or num_queued_tokens > self.max_queued_tokens
