"""Which requests a worker takes, and how long they will wait. Lives on the event loop."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

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
    priority: int
    rank: float
    num_cached_tokens: int = 0


@dataclass(slots=True, kw_only=True)
class Admission:
    """Bounds what waits by requests and by tokens, and refuses what would begin too late.

    A request waits until the engine begins with its prompt, unless the engine has a free place for it. It counts with
    its prompt and all that it may generate. One whose constraint is being prepared keeps nobody waiting but others with
    a constraint.
    """

    max_sequences: int
    max_queued_requests: int
    max_queued_tokens: int
    clock: Callable[[], float] = time.monotonic
    _preparing: dict[int, _Ticket] = field(default_factory=dict)  # by request id
    _waiting: dict[int, _Ticket] = field(default_factory=dict)  # by request id, in order of arrival
    _running: dict[int, _Ticket] = field(default_factory=dict)
    _rate: WorkRate = field(default_factory=WorkRate)
    num_tokens: int = 0
    """Of all requests that wait or run, prompts and completions."""

    @property
    def num_waiting(self) -> int:
        return len(self._preparing) + len(self._waiting)

    @property
    def num_running(self) -> int:
        return len(self._running)

    def admit(self, request: EngineRequest) -> None:
        """Take a request. Raises Overloaded, DeadlineUnreachable."""
        now, num_tokens = self.clock(), request.num_reserved_tokens
        wait = self.predicted_wait(num_tokens, request.priority)
        is_constrained = request.constraint is not None
        queued = [*self._waiting.values(), *(self._preparing.values() if is_constrained else ())]
        if self._is_full_for(num_tokens, queued):
            raise Overloaded("as many requests wait already as may; try again later", retry_after=wait or _RETRY_AFTER)
        if wait and request.deadline is not None and now + wait > request.deadline:
            raise DeadlineUnreachable(f"it would begin in {wait:.1f} s, after its deadline", retry_after=wait)
        ticket = _Ticket(num_tokens, len(request.prompt_ids), request.priority, now - request.priority)
        (self._preparing if is_constrained else self._waiting)[request.request_id] = ticket
        self.num_tokens += num_tokens

    def note_prepared(self, request_id: int) -> None:
        """Its constraint is ready: from now on it waits for the engine."""
        if ticket := self._preparing.pop(request_id, None):
            self._waiting[request_id] = replace(ticket, rank=self.clock() - ticket.priority)

    def begin(self, request_id: int, num_cached_tokens: int) -> None:
        """The engine began with it."""
        if ticket := self._waiting.pop(request_id, None):
            self._running[request_id] = replace(ticket, num_cached_tokens=num_cached_tokens)

    def end(self, request_id: int, num_generated: int) -> None:
        """It has ended, or nobody waits for it any more."""
        if ticket := self._running.pop(request_id, None):
            num_computed = ticket.num_prompt_tokens - ticket.num_cached_tokens + num_generated
            self._rate.note_end(num_computed, ticket.num_tokens)
        else:
            ticket = self._preparing.pop(request_id, None) or self._waiting.pop(request_id, None)
        if ticket:
            self.num_tokens -= ticket.num_tokens

    def note_step(self, stats: EngineStats) -> None:
        self._rate.note_step(stats.batch_tokens, stats.waiting, self.clock())

    def clear(self) -> None:
        """The engine is gone, and all that it had."""
        self._preparing.clear()
        self._waiting.clear()
        self._running.clear()
        self.num_tokens = 0

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

    def _is_full_for(self, num_tokens: int, tickets: Sequence[_Ticket]) -> bool:
        num_places = max(0, self.max_sequences - len(self._running))
        if len(tickets) < num_places:
            return False
        queue = tickets[num_places:]
        num_queued_tokens = sum(ticket.num_tokens for ticket in queue) + num_tokens
        return len(queue) >= self.max_queued_requests or num_queued_tokens > self.max_queued_tokens
