"""Which sequences advance in the next step. Imports no torch.

Admission reserves the blocks for prompt and completion, so a running sequence is never preempted.
A step has a token budget: decodes go first, chunks of prompts fill the rest, so that an arriving
prompt never stalls a running stream.

`schedule` may be called again before `update` has seen the last batch (a pipeline of depth 2): what
it needs, it derives from counts, never from token values. Blocks and slots of a sequence that ended
are freed when no step in flight touches them.
"""

from collections import deque
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

from rhapsode_server.engine.batch import Batch, Row
from rhapsode_server.engine.block_pool import BlockPool
from rhapsode_server.engine.request import NOT_FINITE, EngineRequest, FinishReason, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenEvent:
    """News of one request: a token, or its end, or both. `token_id` is None when it ended without one."""

    request_id: int
    token_id: int | None
    finish_reason: FinishReason | None = None


@dataclass(slots=True)
class Scheduler:
    """Admits, chunks, advances and frees sequences."""

    pool: BlockPool
    max_sequences: int
    max_batch_tokens: int
    waiting: deque[EngineRequest] = field(default_factory=deque)
    running: dict[int, Sequence] = field(default_factory=dict)  # by request id, in order of admission
    started: list[int] = field(default_factory=list)  # request ids admitted since the last `take_started`
    _by_slot: dict[int, Sequence] = field(default_factory=dict)
    _released_slots: list[int] = field(default_factory=list)
    _free_slots: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.max_batch_tokens < self.max_sequences:
            raise ValueError(
                f"max_batch_tokens ({self.max_batch_tokens}) must be at least max_sequences "
                f"({self.max_sequences}), so that every running sequence can decode in every step"
            )
        self._free_slots = list(range(self.max_sequences - 1, -1, -1))

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self._by_slot or self._released_slots)

    def submit(self, request: EngineRequest) -> None:
        assert self.pool.blocks_for(request.num_reserved_tokens) <= self.pool.num_blocks, "it could never run"
        self.waiting.append(request)

    def cancel(self, request_id: int) -> None:
        """Forget a request wherever it is. Unknown ids are ignored: it may just have ended."""
        self.waiting = deque(request for request in self.waiting if request.request_id != request_id)
        if sequence := self.running.get(request_id):
            self._finish(sequence, FinishReason.CANCELLED)

    def schedule(self) -> Batch:
        self._admit()
        candidates = [sequence for sequence in self.running.values() if sequence.wants_step]
        decodes = [self._advance(sequence, 1) for sequence in candidates if not sequence.is_prefilling]
        prefills = self._chunks([s for s in candidates if s.is_prefilling], self.max_batch_tokens - len(decodes))
        released, self._released_slots = tuple(self._released_slots), []
        return Batch(rows=(*decodes, *prefills), released_slots=released)

    def update(self, batch: Batch, token_ids: Seq[int]) -> list[TokenEvent]:
        """Take the sampled ids of a batch, one for each row that samples, in order of rows."""
        remaining = iter(token_ids)
        events = [self._complete(row, next(remaining) if row.samples else None) for row in batch.rows]
        return [event for event in events if event is not None]

    def take_started(self) -> list[int]:
        started, self.started = self.started, []
        return started

    def check_integrity(self) -> None:
        """The books agree: blocks, slots, sequences."""
        self.pool.check_integrity([block for sequence in self._by_slot.values() for block in sequence.blocks])
        assert sorted([*self._free_slots, *self._by_slot]) == list(range(self.max_sequences))
        assert set(map(id, self.running.values())) <= set(map(id, self._by_slot.values()))

    def _admit(self) -> None:
        while self.waiting and self._free_slots and self.pool.can_allocate(self.waiting[0].num_reserved_tokens):
            request = self.waiting.popleft()
            blocks = self.pool.allocate(request.num_reserved_tokens)
            sequence = Sequence(request=request, slot=self._free_slots.pop(), blocks=blocks)
            self.running[request.request_id] = self._by_slot[sequence.slot] = sequence
            self.started.append(request.request_id)

    def _chunks(self, sequences: list[Sequence], budget: int) -> list[Row]:
        rows = []
        for sequence in sequences:
            if budget == 0:
                break
            rows.append(self._advance(sequence, min(sequence.num_unscheduled, budget)))
            budget -= rows[-1].num_tokens
        return rows

    def _advance(self, sequence: Sequence, num_tokens: int) -> Row:
        start, end = sequence.num_scheduled, sequence.num_scheduled + num_tokens
        known = end <= len(sequence.token_ids)
        row = Row(
            slot=sequence.slot,
            start=start,
            num_tokens=num_tokens,
            token_ids=tuple(sequence.token_ids[start:end]) if known else None,
            samples=end == sequence.length,
            sampling=sequence.request.sampling,
            num_reserved_tokens=sequence.request.num_reserved_tokens,
        )
        sequence.num_scheduled = end
        sequence.num_pending_tokens += row.samples
        sequence.num_rows_in_flight += 1
        return row

    def _complete(self, row: Row, token_id: int | None) -> TokenEvent | None:
        sequence = self._by_slot[row.slot]
        sequence.num_rows_in_flight -= 1
        if token_id is None or sequence.finish_reason is not None:
            self._release_when_idle(sequence)
            return None
        sequence.num_pending_tokens -= 1
        return self._accept(sequence, token_id)

    def _accept(self, sequence: Sequence, token_id: int) -> TokenEvent:
        request_id = sequence.request.request_id
        if token_id == NOT_FINITE:
            self._finish(sequence, FinishReason.NOT_FINITE)
            return TokenEvent(request_id=request_id, token_id=None, finish_reason=FinishReason.NOT_FINITE)
        sequence.token_ids.append(token_id)
        if reason := self._reason_to_stop(sequence, token_id):
            self._finish(sequence, reason)
        return TokenEvent(request_id=request_id, token_id=token_id, finish_reason=reason)

    def _reason_to_stop(self, sequence: Sequence, token_id: int) -> FinishReason | None:
        request = sequence.request
        if token_id in request.stop_token_ids:
            return FinishReason.STOP_TOKEN
        if len(sequence.token_ids) == request.num_reserved_tokens:
            return FinishReason.LENGTH
        return None

    def _finish(self, sequence: Sequence, reason: FinishReason) -> None:
        sequence.finish_reason = reason
        del self.running[sequence.request.request_id]
        self._release_when_idle(sequence)

    def _release_when_idle(self, sequence: Sequence) -> None:
        if sequence.finish_reason is None or sequence.num_rows_in_flight:
            return
        self.pool.free(sequence.blocks)
        del self._by_slot[sequence.slot]
        self._free_slots.append(sequence.slot)
        self._released_slots.append(sequence.slot)
