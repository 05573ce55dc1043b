"""A runner that computes nothing but checks everything, and the tokens that it would give a request alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from rhapsode_server.engine.batch import Batch, BatchResult, Draw, Row
from rhapsode_server.engine.block_pool import BlockPool
from rhapsode_server.engine.engine import Engine, StepResult
from rhapsode_server.engine.request import NOT_FINITE, NOTHING_LEFT, EngineRequest, FinishReason, TokenScore
from rhapsode_server.engine.scheduler import MAX_SCORED_TOKENS, Scheduler, num_slots

BLOCK_SIZE = 4
END = 7
NUM_TOKENS = 50


def next_token(token_ids: Sequence[int], draw: Draw) -> int:
    """A model of a kind: depends on every token so far, on the seed and on what may be drawn, and sometimes ends."""
    token_id = hash((tuple(token_ids), draw.parameters.seed)) % NUM_TOKENS
    while token_id in draw.suppressed_ids or not _allows(draw.allowed_mask, token_id):
        token_id = (token_id + 1) % NUM_TOKENS
    return token_id


def score_of(token_ids: Sequence[int], token_id: int, num_candidates: int) -> TokenScore:
    """The score of a token after those before it."""
    logprob = -(hash((tuple(token_ids), token_id)) % 1000) / 100
    return TokenScore(token_id, logprob, 1, tuple((n, -float(n)) for n in range(num_candidates)))


def mask(token_ids: Sequence[int]) -> bytes:
    """A constraint's mask that allows these ids."""
    return sum(1 << token_id for token_id in token_ids).to_bytes(8, "little")


@dataclass
class Result:
    result: BatchResult

    def read(self) -> BatchResult:
        return self.result


@dataclass
class CheckingRunner:
    """Holds token ids where a real one holds KV, and insists that they are those of its sequence, that positions come
    without gap or overlap, and that nobody waits for a place that there is."""

    scheduler: Scheduler
    written: dict[int, list[int]] = field(default_factory=dict)
    last: dict[int, int] = field(default_factory=dict)
    batches: list[Batch] = field(default_factory=list)
    not_finite_after: Sequence[int] | None = None

    @property
    def num_tokens(self) -> int:
        return sum(batch.num_tokens for batch in self.batches)

    def execute(self, batch: Batch) -> Result:
        self.batches.append(batch)
        self._check_admission()
        for slot in batch.released_slots:
            self.written.pop(slot, None)  # nothing is written yet when it ended before its first row
        assert len({row.slot for row in batch.rows}) == len(batch.rows)
        held = {slot: len(ids) for slot, ids in self.written.items()}
        for row in batch.rows:
            self._write(row, held)
        drawn = [(row, self._draw(row)) for row in batch.rows if row.draw]
        prompt_scores = [score for row in batch.rows for score in self._prompt_scores(row)]
        assert len(prompt_scores) <= MAX_SCORED_TOKENS
        return Result(
            BatchResult(
                token_ids=[token_id for _, token_id in drawn],
                scores=[
                    score_of(self.written[row.slot], token_id, row.num_candidates)
                    for row, token_id in drawn
                    if row.num_candidates is not None
                ],
                prompt_scores=prompt_scores,
            )
        )

    def _check_admission(self) -> None:
        scheduler, pool = self.scheduler, self.scheduler.pool
        if scheduler.waiting and len(scheduler._by_slot) < scheduler.max_sequences:
            num_tokens = scheduler.waiting.first.request.num_reserved_tokens
            assert pool.blocks_for(num_tokens) > pool.num_blocks - pool.num_used

    def _write(self, row: Row, held: dict[int, int]) -> None:
        assert row.slot < num_slots(self.scheduler.max_sequences, prefix_cache=self.scheduler.prefix_cache)
        if row.begins:
            assert row.slot not in self.written, "the slot still holds another sequence"
            self.written[row.slot] = []
        if row.prefix_slot is not None:
            assert 0 < row.start <= held[row.prefix_slot], "the prefix is not there before this step"
            self.written[row.slot] = self.written[row.prefix_slot][: row.start]
        assert len(self.written[row.slot]) == row.start
        ids = [self.last[row.slot]] if row.token_ids is None else list(row.token_ids)
        assert len(ids) == row.num_tokens > 0
        self.written[row.slot] += ids
        assert row.end <= row.num_reserved_tokens
        known = self.scheduler._by_slot[row.slot].token_ids[: row.end]
        assert self.written[row.slot][: len(known)] == known, "its keys and values are those of other tokens"

    def _draw(self, row: Row) -> int:
        assert row.draw
        ids = self.written[row.slot]
        assert row.draw.position == len(ids)
        assert row.draw.history == (tuple(ids) if row.draw.parameters.needs_history else ())
        none = NOT_FINITE if row.draw.allowed_mask is None else NOTHING_LEFT
        self.last[row.slot] = none if ids == self.not_finite_after else next_token(ids, row.draw)
        return self.last[row.slot]

    def _prompt_scores(self, row: Row) -> Iterator[TokenScore]:
        if not row.scored:
            return
        ids = self.written[row.slot]
        assert row.start < row.scored.first
        assert row.scored.first + len(row.scored.token_ids) - 1 <= row.end
        for index, token_id in enumerate(row.scored.token_ids, row.scored.first):
            assert index == len(ids) or ids[index] == token_id
            yield score_of(ids[:index], token_id, row.scored.num_candidates)


@dataclass
class Clock:
    """Time that passes when a test says so."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Outcome:
    """What became of a request."""

    tokens: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    scores: list[TokenScore] = field(default_factory=list)
    prompt_scores: list[TokenScore] = field(default_factory=list)
    num_cached_tokens: int | None = None
    detail: str = ""

    @property
    def begins_like(self) -> tuple[list[int], list[TokenScore], list[TokenScore]]:
        return self.tokens, self.scores, self.prompt_scores


def make_engine(
    *,
    depth: int = 1,
    num_blocks: int = 64,
    max_sequences: int = 4,
    max_batch_tokens: int = 16,
    prefix_cache: bool = False,
    step_overhead: int = 1000,
    clock: Any = None,
    matcher_clock: Any = None,
) -> Engine:
    pool = BlockPool(num_blocks=num_blocks, block_size=BLOCK_SIZE)
    scheduler = Scheduler(
        pool=pool,
        max_sequences=max_sequences,
        max_batch_tokens=max_batch_tokens,
        prefix_cache=prefix_cache,
        step_overhead=step_overhead,
        clock=clock or Clock(),
        matcher_clock=matcher_clock or Clock(),
    )
    return Engine(scheduler, CheckingRunner(scheduler), depth=depth)


def runner_of(engine: Engine) -> CheckingRunner:
    assert isinstance(engine.runner, CheckingRunner)
    return engine.runner


def request(request_id: int, prompt: Sequence[int], max_new_tokens: int, **fields: Any) -> EngineRequest:
    return EngineRequest(
        **{
            "request_id": request_id,
            "prompt_ids": tuple(prompt),
            "max_new_tokens": max_new_tokens,
            "stop_token_ids": frozenset({END}),
        }
        | fields
    )


def record(outcomes: dict[int, Outcome], result: StepResult) -> None:
    for started in result.started:
        outcome = outcomes.setdefault(started.request_id, Outcome())
        assert outcome.num_cached_tokens is None, "it begins once"
        outcome.num_cached_tokens = started.num_cached_tokens
    for prompt_scores in result.prompt_scores:
        outcome = outcomes[prompt_scores.request_id]
        assert outcome.finish_reason is None
        assert not outcome.tokens
        outcome.prompt_scores += prompt_scores.scores
    for event in result.events:
        outcome = outcomes.setdefault(event.request_id, Outcome())
        assert outcome.finish_reason is None, "news of a request that has ended"
        if event.token_id is not None:
            outcome.tokens.append(event.token_id)
        if event.score is not None:
            outcome.scores.append(event.score)
        outcome.finish_reason, outcome.detail = event.finish_reason, event.detail


def step(engine: Engine, outcomes: dict[int, Outcome]) -> StepResult:
    result = engine.step()
    record(outcomes, result)
    engine.scheduler.check_integrity()
    return result


def run(engine: Engine, outcomes: dict[int, Outcome] | None = None, *, limit: int = 3000) -> dict[int, Outcome]:
    outcomes = {} if outcomes is None else outcomes
    for _ in range(limit):
        if not engine.has_work:
            assert engine.scheduler.pool.num_used == 0
            return outcomes
        step(engine, outcomes)
    raise AssertionError("the engine does not come to an end")


def expected(request: EngineRequest) -> Outcome:
    """What becomes of a request without a constraint, alone and in all the time it wants."""
    ids, scores, reason = list(request.prompt_ids), list[TokenScore](), FinishReason.LENGTH
    while len(ids) < request.num_reserved_tokens:
        early = len(ids) - len(request.prompt_ids) < request.min_new_tokens
        suppressed = tuple(request.stop_token_ids) if early else ()
        draw = Draw(parameters=request.sampling, position=len(ids), suppressed_ids=suppressed)
        token_id = next_token(ids, draw)
        if request.top_logprobs is not None:
            scores.append(score_of(ids, token_id, request.top_logprobs))
        ids.append(token_id)
        if token_id in request.stop_token_ids:
            reason = FinishReason.STOP_TOKEN
            break
    return Outcome(ids[len(request.prompt_ids) :], reason, scores, expected_prompt_scores(request))


def expected_prompt_scores(request: EngineRequest) -> list[TokenScore]:
    if request.prompt_top_logprobs is None:
        return []
    ids = request.prompt_ids
    indexes = range(max(1, request.first_scored), len(ids))
    return [score_of(ids[:index], ids[index], request.prompt_top_logprobs) for index in indexes]


def _allows(allowed_mask: bytes | None, token_id: int) -> bool:
    return allowed_mask is None or bool(int.from_bytes(allowed_mask, "little") >> token_id & 1)
