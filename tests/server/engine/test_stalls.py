"""Streams hardly notice that prompts arrive: a load in simulated time, with steps that cost what they do on a CPU."""

from dataclasses import dataclass, field
from random import Random
from statistics import quantiles

import pytest
from rhapsode_server.engine.batch import Batch, BatchResult
from rhapsode_server.engine.block_pool import BlockPool
from rhapsode_server.engine.request import EngineRequest
from rhapsode_server.engine.scheduler import STEP_OVERHEAD, Scheduler
from support.checking_runner import Clock

MILLISECONDS_PER_STEP, MILLISECONDS_PER_TOKEN = 22, 1.03  # GPT-2 of 124M in float32 on 2 cores


@dataclass
class Load:
    """So many callers, each with a new request as soon as the last has ended."""

    step_overhead: int
    clock: Clock = field(default_factory=Clock)
    random: Random = field(default_factory=lambda: Random(0))
    gaps: list[float] = field(default_factory=list)
    last: dict[int, float] = field(default_factory=dict)
    num_submitted: int = 0

    def __post_init__(self) -> None:
        pool = BlockPool(num_blocks=2000, block_size=16)
        self.scheduler = Scheduler(pool, 64, 512, step_overhead=self.step_overhead, clock=self.clock)

    def run(self, callers: int) -> float:
        """The slowest of a hundred gaps between two tokens over the middle one."""
        for _ in range(callers):
            self._submit()
        while self.num_submitted < 120 + callers:
            self._step()
        percentiles = quantiles(self.gaps, n=100)
        return percentiles[98] / percentiles[49]

    def _submit(self) -> None:
        length = min(256, max(16, int(self.random.lognormvariate(4.1, 0.7))))
        prompt = tuple(self.random.randrange(999) for _ in range(length))
        asked = EngineRequest(
            request_id=self.num_submitted, prompt_ids=prompt, max_new_tokens=self.random.randint(16, 128)
        )
        self.scheduler.submit(asked)
        self.num_submitted += 1

    def _step(self) -> None:
        batch = self.scheduler.schedule()
        self.clock.now += _seconds(batch)
        self.scheduler.update(batch, BatchResult(token_ids=[5] * sum(row.draw is not None for row in batch.rows)))
        for event in self.scheduler.take_news().events:
            if since := self.last.get(event.request_id):
                self.gaps.append(self.clock.now - since)
            self.last[event.request_id] = self.clock.now
            if event.finish_reason:
                self._submit()


def _seconds(batch: Batch) -> float:
    return (MILLISECONDS_PER_STEP + MILLISECONDS_PER_TOKEN * batch.num_tokens) / 1000


@pytest.mark.parametrize("callers", [4, 16, 32])
def test_the_slowest_gaps_are_at_most_three_times_the_usual_ones(callers: int) -> None:
    assert Load(STEP_OVERHEAD["cpu"]).run(callers) < 3


def test_without_a_limit_they_are_not() -> None:
    assert Load(1000).run(16) > 4
