"""Everything that can happen to requests, in any order: nothing leaks, nobody is disturbed, the books agree."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from rhapsode_server.engine.engine import Engine
from rhapsode_server.engine.request import EngineRequest, FinishReason, SamplingParameters
from rhapsode_server.engine.scheduler import MATCHER_SECONDS
from support.checking_runner import (
    NUM_TOKENS,
    Clock,
    Outcome,
    expected,
    make_engine,
    mask,
    request,
    run,
    step,
)

SAMPLING = [SamplingParameters(), SamplingParameters(seed=5), SamplingParameters(presence_penalty=0.5)]
PROMPTS = {0: [1, 2, 3], 1: list(range(17)), 2: [8] * 30}
PREAMBLES = [[], [1, 2, 3], list(range(17)), list(range(12)) + [8] * 12, [8] * 30]
BY_TIME = {FinishReason.TIME_LIMIT, FinishReason.EXPIRED}


class AnythingGoes:
    """A matcher that allows all, takes its time, and fails or is complete after so many tokens."""

    def __init__(self, clock: Clock, num_tokens: int, fails: bool) -> None:
        self.clock, self.num_left, self.fails = clock, num_tokens, fails

    def allowed_mask(self) -> bytes:
        if self.fails and self.num_left == 0:
            raise RuntimeError("bad")
        return mask(range(NUM_TOKENS))

    def accept(self, token_id: int) -> None:
        self.num_left -= 1
        self.clock.now += 0.6 * MATCHER_SECONDS

    @property
    def is_complete(self) -> bool:
        return self.num_left == 0 and not self.fails


class AnyOrder(RuleBasedStateMachine):
    @initialize(
        depth=st.integers(1, 3),
        num_blocks=st.integers(15, 40),
        max_batch_tokens=st.integers(4, 40),
        prefix_cache=st.booleans(),
        step_overhead=st.sampled_from([1, 4, 1000]),
    )
    def start(self, depth: int, num_blocks: int, max_batch_tokens: int, prefix_cache: bool, step_overhead: int) -> None:
        self.clock, self.matcher_clock = Clock(), Clock()
        self.engine: Engine = make_engine(
            depth=depth,
            num_blocks=num_blocks,
            max_batch_tokens=max_batch_tokens,
            prefix_cache=prefix_cache,
            step_overhead=step_overhead,
            clock=self.clock,
            matcher_clock=self.matcher_clock,
        )
        self.asked: dict[int, EngineRequest] = {}
        self.constrained: set[int] = set()
        self.cancelled: set[int] = set()
        self.outcomes: dict[int, Outcome] = {}

    @rule(
        group=st.none() | st.integers(0, 2),
        preamble=st.sampled_from(PREAMBLES),
        rest=st.lists(st.integers(0, 49), min_size=1, max_size=10),
        goes_on=st.booleans(),
        max_new_tokens=st.integers(0, 18),
        sampling=st.sampled_from(SAMPLING),
        scores=st.booleans(),
        seconds=st.none() | st.integers(0, 15),
        limit=st.sampled_from(["deadline", "ends_at"]),
        priority=st.integers(-9, 9),
        constraint=st.none() | st.tuples(st.integers(0, 5), st.booleans()),
    )
    def submit(
        self,
        group,
        preamble,
        rest,
        goes_on,
        max_new_tokens,
        sampling,
        scores,
        seconds,
        limit,
        priority,
        constraint,
    ) -> None:
        request_id, prompt = len(self.asked), preamble + rest
        if goes_on and self.asked:  # with what the last one was told
            last = self.asked[request_id - 1]
            prompt = [*last.prompt_ids, *self.outcomes.get(request_id - 1, Outcome()).tokens, *rest][:40]
        asked = self.asked[request_id] = request(
            request_id,
            prompt if group is None else PROMPTS[group],
            max_new_tokens,
            min_new_tokens=min(2, max_new_tokens),
            group=group,
            sampling=sampling,
            priority=priority,
            prompt_top_logprobs=1 if scores or max_new_tokens == 0 else None,
            top_logprobs=2 if scores else None,
            first_scored=1 + len(prompt) % 5,
            **({} if seconds is None else {limit: self.clock.now + seconds}),
        )
        self.constrained |= set() if constraint is None else {request_id}
        self.engine.submit(asked, None if constraint is None else AnythingGoes(self.matcher_clock, *constraint))

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        request_id = data.draw(st.sampled_from([*self.asked, 999]))
        if request_id not in self.outcomes or self.outcomes[request_id].finish_reason is None:
            self.cancelled.add(request_id)
        self.engine.cancel(request_id)

    @rule(seconds=st.integers(0, 4))
    def step(self, seconds: int) -> None:
        self.clock.now += seconds
        step(self.engine, self.outcomes)

    @invariant()
    def the_books_agree(self) -> None:
        if hasattr(self, "engine"):
            self.engine.scheduler.check_integrity()

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        run(self.engine, self.outcomes)
        for request_id, asked in self.asked.items():
            self._judge(request_id, self.outcomes.get(request_id, Outcome()), expected(asked))

    def _judge(self, request_id: int, outcome: Outcome, alone: Outcome) -> None:
        """What it got is what it would get alone, and all of it unless there was a reason."""
        assert (outcome.num_cached_tokens or 0) <= self.asked[request_id].num_shareable_tokens
        for got, whole in zip(outcome.begins_like, alone.begins_like, strict=True):
            assert got == whole[: len(got)]
        if request_id in self.cancelled:
            assert outcome.finish_reason is None
        elif outcome.finish_reason in BY_TIME:
            assert self.asked[request_id].ends_no_later_than is not None
        elif outcome.finish_reason in (FinishReason.CONSTRAINT, FinishReason.BAD_CONSTRAINT):
            assert request_id in self.constrained
        else:
            assert outcome.begins_like == alone.begins_like
            assert outcome.finish_reason is alone.finish_reason


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
