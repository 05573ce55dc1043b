"""Which sequences advance in the next step. Imports no torch.

Admission reserves the blocks for prompt and completion, so a running sequence is never preempted.
A step has a token budget: decodes go first, chunks of prompts fill the rest, so that an arriving
prompt never stalls a running stream.

`schedule` may be called again before `update` has seen the last batch (a pipeline of depth 2): what
it needs, it derives from counts, never from token values; sequences whose next draw depends on values
sit out until these are known, and to their matcher. All matchers together have little time before and
after a step, so that slow ones delay but their own requests. Blocks and slots of a sequence that ended
are freed when no step in flight touches them.
"""

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import islice

from rhapsode_server.engine.batch import Batch, BatchResult, Row
from rhapsode_server.engine.block_pool import BlockPool
from rhapsode_server.engine.endings import constrain, reason_for_no_token, reason_to_end
from rhapsode_server.engine.events import News, PromptScores, Started, TokenEvent
from rhapsode_server.engine.groups import SharedPrompts
from rhapsode_server.engine.queue import RequestQueue, Waiting
from rhapsode_server.engine.request import EngineRequest, FinishReason, Matcher, Sequence, TokenScore
from rhapsode_server.engine.rows import longest_row, next_row

# Prompt tokens that one step scores at most. Each needs its logits over the whole vocabulary: 128 of 50,257 tokens are
# 26 MB in float32, of 256,000 tokens 131 MB, and the matrix product is as efficient as it gets.
MAX_SCORED_TOKENS = 128
# Processor time of all matchers before a step, and again after it; the one that is at work when it is over ends first.
MATCHER_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class _Drawn:
    """A token that a step gave, or a negative number where there is none."""

    sequence: Sequence
    token_id: int
    score: TokenScore | None


@dataclass(slots=True)
class Scheduler:
    """Admits, chunks, advances and frees sequences.

    `clock` gives the time that the limits of requests are told in, `matcher_clock` that of MATCHER_SECONDS.
    """

    pool: BlockPool
    max_sequences: int
    max_batch_tokens: int
    clock: Callable[[], float] = time.monotonic
    matcher_clock: Callable[[], float] = time.thread_time
    waiting: RequestQueue = field(default_factory=RequestQueue)
    running: dict[int, Sequence] = field(default_factory=dict)  # by request id, in order of admission
    _by_slot: dict[int, Sequence] = field(default_factory=dict)  # those that run or are in a step in flight
    _free_slots: list[int] = field(default_factory=list)
    _unmatched: deque[_Drawn] = field(default_factory=deque)  # first come, first served
    _next_end: float = math.inf  # no request is ended by time before
    _news: News = field(default_factory=News)

    def __post_init__(self) -> None:
        if self.max_batch_tokens < self.max_sequences:
            raise ValueError(
                f"max_batch_tokens ({self.max_batch_tokens}) must be at least max_sequences "
                f"({self.max_sequences}), so that every running sequence can decode in every step"
            )
        self._free_slots = list(range(self.max_sequences - 1, -1, -1))

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self._by_slot)

    def submit(self, request: EngineRequest, matcher: Matcher | None = None) -> None:
        assert self.pool.blocks_for(request.num_reserved_tokens) <= self.pool.num_blocks, "it could never run"
        self.waiting.push(Waiting(request, matcher), arrived_at=self.clock())
        if (when := request.ends_no_later_than) is not None:
            self._next_end = min(self._next_end, when)

    def cancel(self, request_id: int) -> None:
        """Forget a request wherever it is. Unknown ids are ignored: it may just have ended."""
        self.waiting.remove(request_id)
        if sequence := self.running.get(request_id):
            self._stop(sequence, FinishReason.CANCELLED)

    def schedule(self) -> Batch:
        self._end_what_is_due()
        self._match()
        released_slots = self._release_idle()
        self._admit()
        candidates = [sequence for sequence in self.running.values() if sequence.wants_step]
        decodes = [self._advance(sequence, 1) for sequence in candidates if not sequence.is_prefilling]
        prefills = self._prefill([s for s in candidates if s.is_prefilling], self.max_batch_tokens - len(decodes))
        return Batch(rows=(*decodes, *prefills), released_slots=released_slots)

    def update(self, batch: Batch, result: BatchResult) -> None:
        """Take what a batch gave."""
        token_ids, scores, prompt_scores = iter(result.token_ids), iter(result.scores), iter(result.prompt_scores)
        for row in batch.rows:
            scored = tuple(islice(prompt_scores, len(row.scored.token_ids))) if row.scored else ()
            token_id = next(token_ids) if row.draw else None
            score = next(scores) if row.num_candidates is not None else None
            self._complete(row, scored, token_id, score)
        self._match()

    def take_news(self) -> News:
        news, self._news = self._news, News()
        return news

    def check_integrity(self) -> None:
        """The books agree: blocks, slots, sequences."""
        self.pool.check_integrity([block for sequence in self._by_slot.values() for block in sequence.blocks])
        assert sorted([*self._free_slots, *self._by_slot]) == list(range(self.max_sequences))
        assert set(map(id, self.running.values())) <= set(map(id, self._by_slot.values()))

    def _end_what_is_due(self) -> None:
        now = self.clock()
        if now < self._next_end:
            return
        for request in self._requests():
            if reason := request.ended_by(now):
                self._end(request, reason)
        ends = (request.ends_no_later_than for request in self._requests())
        self._next_end = min((when for when in ends if when is not None), default=math.inf)

    def _requests(self) -> list[EngineRequest]:
        running = [sequence.request for sequence in self.running.values()]
        return [*running, *(waiting.request for waiting in self.waiting)]

    def _release_idle(self) -> tuple[int, ...]:
        """Free what ended and no step in flight touches, and whose prompt nobody is about to take over."""
        prompts = SharedPrompts.of(self._by_slot.values())
        ended = [s for s in self._by_slot.values() if s.finish_reason and not s.num_rows_in_flight]
        released = [sequence for sequence in ended if not prompts.is_awaited(sequence)]
        for sequence in released:
            self.pool.free(sequence.blocks)
            del self._by_slot[sequence.slot]
            self._free_slots.append(sequence.slot)
        return tuple(sequence.slot for sequence in released)

    def _admit(self) -> None:
        while self.waiting and self._free_slots:
            request = self.waiting.first.request
            if not self.pool.can_allocate(request.num_reserved_tokens):
                break
            blocks = self.pool.allocate(request.num_reserved_tokens)
            matcher = self.waiting.pop().matcher
            sequence = Sequence(request=request, slot=self._free_slots.pop(), blocks=blocks, matcher=matcher)
            self.running[request.request_id] = self._by_slot[sequence.slot] = sequence
            end = constrain(sequence)
            if end and end[0] is FinishReason.CONSTRAINT and request.prompt_top_logprobs is not None:
                sequence.request = replace(request, max_new_tokens=0)  # complete as it is: what is left is the prompt
            elif end:
                self._end(request, *end)

    def _prefill(self, sequences: list[Sequence], budget: int) -> list[Row]:
        prompts, num_scores, rows = SharedPrompts.of(self._by_slot.values()), MAX_SCORED_TOKENS, list[Row]()
        for sequence in sequences:
            if prompts.must_wait(sequence):
                continue
            holder = None if sequence.has_begun else prompts.holder(sequence)
            start = sequence.request.num_shareable_tokens if holder else sequence.num_scheduled
            num_tokens = min(budget, longest_row(sequence.request, start, num_scores))
            if num_tokens == 0:
                continue
            if not sequence.has_begun:
                self._begin(sequence, start)
            row = self._advance(sequence, num_tokens, holder.slot if holder else None)
            rows.append(row)
            budget -= row.num_tokens
            num_scores -= len(row.scored.token_ids) if row.scored else 0
        return rows

    def _begin(self, sequence: Sequence, num_cached_tokens: int) -> None:
        sequence.num_scheduled = num_cached_tokens
        started = Started(request_id=sequence.request.request_id, num_cached_tokens=num_cached_tokens)
        self._news.started.append(started)

    def _advance(self, sequence: Sequence, num_tokens: int, prefix_slot: int | None = None) -> Row:
        row = next_row(sequence, num_tokens, prefix_slot)
        sequence.num_scheduled = row.end
        sequence.num_pending_tokens += row.draw is not None
        sequence.num_rows_in_flight += 1
        return row

    def _complete(
        self, row: Row, scored: tuple[TokenScore, ...], token_id: int | None, score: TokenScore | None
    ) -> None:
        sequence = self._by_slot[row.slot]
        sequence.num_rows_in_flight -= 1
        if sequence.finish_reason is None and scored:
            self._tell_scores(sequence, scored)
        if sequence.finish_reason is not None:
            return
        if token_id is not None and sequence.matcher:
            self._unmatched.append(_Drawn(sequence, token_id, score))
        elif token_id is not None:
            self._accept(_Drawn(sequence, token_id, score))
        elif row.end == sequence.request.num_reserved_tokens:
            is_complete = sequence.matcher is not None and sequence.matcher.is_complete
            self._end(sequence.request, FinishReason.CONSTRAINT if is_complete else FinishReason.LENGTH)

    def _tell_scores(self, sequence: Sequence, scores: tuple[TokenScore, ...]) -> None:
        if all(math.isfinite(score.logprob) for score in scores):
            self._news.prompt_scores.append(PromptScores(request_id=sequence.request.request_id, scores=scores))
        else:
            self._end(sequence.request, FinishReason.NOT_FINITE)

    def _match(self) -> None:
        """Take the tokens that wait for their matcher, until all matchers together have had their time."""
        began = self.matcher_clock()
        while self._unmatched and self.matcher_clock() - began < MATCHER_SECONDS:
            drawn = self._unmatched.popleft()
            if drawn.sequence.finish_reason is None:
                self._accept(drawn)

    def _accept(self, drawn: _Drawn) -> None:
        sequence, token_id = drawn.sequence, drawn.token_id
        sequence.num_pending_tokens -= 1
        if token_id < 0:
            self._end(sequence.request, *reason_for_no_token(sequence, token_id))
            return
        sequence.token_ids.append(token_id)
        reason, detail = reason_to_end(sequence, token_id) or (None, "")
        request_id = sequence.request.request_id
        self._news.events.append(
            TokenEvent(request_id=request_id, token_id=token_id, finish_reason=reason, score=drawn.score, detail=detail)
        )
        if reason:
            self._stop(sequence, reason)

    def _end(self, request: EngineRequest, reason: FinishReason, detail: str = "") -> None:
        """End a request without a token, whether it waits or runs."""
        event = TokenEvent(request_id=request.request_id, token_id=None, finish_reason=reason, detail=detail)
        self._news.events.append(event)
        if not self.waiting.remove(request.request_id):
            self._stop(self.running[request.request_id], reason)

    def _stop(self, sequence: Sequence, reason: FinishReason) -> None:
        sequence.finish_reason = reason
        del self.running[sequence.request.request_id]
