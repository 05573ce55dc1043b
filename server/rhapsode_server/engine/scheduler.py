"""Which sequences advance in the next step. Imports no torch.

Admission reserves the blocks for prompt and completion, so a running sequence is never preempted.
A step has a token budget: decodes go first, chunks of prompts fill the rest. While streams run, prompts may make a step
at most MAX_STRETCH times as long as it would be without them, so that an arriving prompt never stalls a stream. What
another sequence has computed of a prompt is taken over, and what another one is computing is waited for.

`schedule` may be called again before `update` has seen the last batch (a pipeline of depth 2): what
it needs, it derives from counts, never from token values; sequences whose next draw depends on values
sit out until these are known, and to their matcher. All matchers together have little time before and
after a step, so that slow ones delay but their own requests. A sequence that ended leaves its place when no step in
flight touches it.
"""

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import NamedTuple

from rhapsode_server.engine.batch import Batch, BatchResult, Row
from rhapsode_server.engine.block_pool import BlockPool
from rhapsode_server.engine.endings import constrain, reason_for_no_token, reason_to_end
from rhapsode_server.engine.events import News, PromptScores, Started, TokenEvent
from rhapsode_server.engine.places import Places
from rhapsode_server.engine.prefixes import Prefix, Prefixes
from rhapsode_server.engine.queue import RequestQueue, Waiting
from rhapsode_server.engine.request import EngineRequest, FinishReason, Matcher, Sequence, TokenScore
from rhapsode_server.engine.rows import decode_row, longest_row, prefill_row

# Prompt tokens that one step scores at most. Each needs its logits over the whole vocabulary: 128 of 50,257 tokens are
# 26 MB in float32, of 256,000 tokens 131 MB, and the matrix product is as efficient as it gets.
MAX_SCORED_TOKENS = 128
# Processor time of all matchers before a step, and again after it; the one that is at work when it is over ends first.
MATCHER_SECONDS = 0.01
# While streams run, a step with prompts takes at most so many times as long as one without.
MAX_STRETCH = 3
# What a step costs whatever is in it, told in tokens that take as long to compute. On a CPU that is the time in which
# the weights are read, so it depends on operations per byte and not on the model: 22 tokens of a GPT-2 of 124M in
# float32 on 2 cores, 27 in int8, and more on more cores. On CUDA it is the time in which kernels are launched.
STEP_OVERHEAD = {"cpu": 16, "cuda": 1024}


class _Drawn(NamedTuple):
    """A token that a step gave, or a negative number where there is none."""

    sequence: Sequence
    token_id: int
    score: TokenScore | None


def num_slots(max_sequences: int, *, prefix_cache: bool) -> int:
    """So many slots a runner has to have; they are numbered from 0."""
    return 2 * max_sequences if prefix_cache else max_sequences


@dataclass(slots=True)
class Scheduler:
    """Admits, chunks, advances and frees sequences.

    `step_overhead` is one of STEP_OVERHEAD. With `prefix_cache` all requests share what they have in common, and as
    many sequences as may run are retained after their end; else those of one group share. `clock` gives the time that
    the limits of requests are told in, `matcher_clock` that of MATCHER_SECONDS.
    """

    pool: BlockPool
    max_sequences: int
    max_batch_tokens: int
    step_overhead: int = STEP_OVERHEAD["cuda"]
    prefix_cache: bool = False
    clock: Callable[[], float] = time.monotonic
    matcher_clock: Callable[[], float] = time.thread_time
    waiting: RequestQueue = field(default_factory=RequestQueue)
    running: dict[int, Sequence] = field(default_factory=dict)  # by request id, in order of admission
    _by_slot: dict[int, Sequence] = field(default_factory=dict)  # those that run or are in a step in flight
    _ended: list[Sequence] = field(default_factory=list)  # those that are in a step in flight only
    _unmatched: deque[_Drawn] = field(default_factory=deque)  # first come, first served
    _next_end: float = math.inf  # no request is ended by time before
    _news: News = field(default_factory=News)
    _prefixes: Prefixes = field(init=False)
    _places: Places = field(init=False)

    def __post_init__(self) -> None:
        if self.max_batch_tokens < self.max_sequences:
            raise ValueError(
                f"max_batch_tokens ({self.max_batch_tokens}) must be at least max_sequences "
                f"({self.max_sequences}), so that every running sequence can decode in every step"
            )
        self._prefixes = Prefixes(self.pool.block_size, are_shared=self.prefix_cache)
        self._places = Places(self.pool, self._prefixes, num_slots(self.max_sequences, prefix_cache=self.prefix_cache))

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
        self._let_go()
        self._admit()
        prefilling, streams = list[Sequence](), list[Sequence]()
        for sequence in self.running.values():
            (prefilling if sequence.is_prefilling else streams).append(sequence)
        decodes = [self._decode(sequence) for sequence in streams if sequence.wants_decode]
        prefills = self._prefill(prefilling, self._prompt_budget(len(decodes), len(streams))) if prefilling else []
        return Batch(rows=(*decodes, *prefills), released_slots=self._places.take_released())

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
        self._places.check_integrity(self._by_slot.values())
        assert {*self.running.values(), *self._ended} == set(self._by_slot.values())
        assert len(self.running) <= self.max_sequences

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

    def _let_go(self) -> None:
        """Of what ended and no step in flight touches."""
        for sequence in self._ended:
            if not sequence.num_rows_in_flight:
                del self._by_slot[sequence.slot]
                self._places.leave(sequence)
        self._ended = [sequence for sequence in self._ended if sequence.num_rows_in_flight]

    def _admit(self) -> None:
        while self.waiting and len(self.running) < self.max_sequences:
            request = self.waiting.first.request
            if not self._places.has_room(request.num_reserved_tokens):
                break
            beginnings = self._prefixes.beginnings(request)
            if prefix := self._prefixes.longest(request, beginnings):
                self._places.touch(prefix.holder)  # if anybody has to make room for it, then others
            slot, blocks = self._places.take(request.num_reserved_tokens)
            sequence = Sequence(
                request=request, slot=slot, blocks=blocks, matcher=self.waiting.pop().matcher, beginnings=beginnings
            )
            self.running[request.request_id] = self._by_slot[slot] = sequence
            self._constrain(sequence)

    def _constrain(self, sequence: Sequence) -> None:
        request, end = sequence.request, constrain(sequence)
        if end and end[0] is FinishReason.CONSTRAINT and request.prompt_top_logprobs is not None:
            # Complete as it is: what is left is the prompt.
            sequence.request = replace(request, max_new_tokens=0)
            sequence.num_reserved_tokens = sequence.num_prompt_tokens
        elif end:
            self._end(request, *end)

    def _prompt_budget(self, num_decodes: int, num_streams: int) -> int:
        """Tokens of prompts that the step may compute. Streams count even if they sit this step out."""
        budget = self.max_batch_tokens - num_decodes
        return min(budget, (MAX_STRETCH - 1) * (self.step_overhead + num_streams)) if num_streams else budget

    def _prefill(self, sequences: list[Sequence], budget: int) -> list[Row]:
        planned, num_scores = list[tuple[Sequence, Row]](), MAX_SCORED_TOKENS
        for sequence in sequences:
            if not budget:
                break
            prefix = None if sequence.has_begun else self._prefixes.longest(sequence.request, sequence.beginnings)
            if prefix and not prefix.is_computed:
                continue
            start = prefix.num_tokens if prefix else sequence.num_scheduled
            num_tokens = min(budget, longest_row(sequence.request, start, num_scores))
            if num_tokens == 0:
                continue
            row = prefill_row(sequence, start, num_tokens, prefix.holder.slot if prefix else None)
            if not sequence.has_begun:
                self._begin(sequence, prefix)
            planned.append((sequence, row))
            budget -= num_tokens
            num_scores -= len(row.scored.token_ids) if row.scored else 0
        # Not before: what this step computes, it cannot take over yet.
        for sequence, row in planned:
            self._launch(sequence, row)
        return [row for _, row in planned]

    def _begin(self, sequence: Sequence, prefix: Prefix | None) -> None:
        self._prefixes.hold(sequence)
        sequence.origin = prefix.holder if prefix else None
        num_cached_tokens = prefix.num_tokens if prefix else 0
        started = Started(request_id=sequence.request.request_id, num_cached_tokens=num_cached_tokens)
        self._news.started.append(started)

    def _decode(self, sequence: Sequence) -> Row:
        row = decode_row(sequence)
        self._launch(sequence, row)
        return row

    def _launch(self, sequence: Sequence, row: Row) -> None:
        sequence.num_scheduled = row.start + row.num_tokens
        sequence.num_pending_tokens += row.draw is not None
        sequence.num_rows_in_flight += 1

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
            self._accept(sequence, token_id, score)
        elif row.end == sequence.num_reserved_tokens:
            is_complete = sequence.matcher is not None and sequence.matcher.is_complete
            self._end(sequence.request, FinishReason.CONSTRAINT if is_complete else FinishReason.LENGTH)

    def _tell_scores(self, sequence: Sequence, scores: tuple[TokenScore, ...]) -> None:
        if all(math.isfinite(score.logprob) for score in scores):
            self._news.prompt_scores.append(PromptScores(request_id=sequence.request.request_id, scores=scores))
        else:
            self._end(sequence.request, FinishReason.NOT_FINITE)

    def _match(self) -> None:
        """Take the tokens that wait for their matcher, until all matchers together have had their time."""
        if not self._unmatched:
            return
        began = self.matcher_clock()
        while self._unmatched and self.matcher_clock() - began < MATCHER_SECONDS:
            drawn = self._unmatched.popleft()
            if drawn.sequence.finish_reason is None:
                self._accept(*drawn)

    def _accept(self, sequence: Sequence, token_id: int, score: TokenScore | None) -> None:
        sequence.num_pending_tokens -= 1
        if token_id < 0:
            self._end(sequence.request, *reason_for_no_token(sequence, token_id))
            return
        sequence.token_ids.append(token_id)
        reason, detail = reason_to_end(sequence, token_id) or (None, "")
        request_id = sequence.request.request_id
        self._news.events.append(TokenEvent(request_id, token_id, reason, score, detail))
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
        self._ended.append(sequence)
        if reason is FinishReason.NOT_FINITE:
            self._prefixes.distrust(sequence)
        else:
            self._prefixes.hold_computed(sequence)
