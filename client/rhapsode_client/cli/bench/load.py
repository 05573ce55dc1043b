"""Load: callers that wait for their answers (closed loop), or arrivals that do not care about them (open loop)."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from rhapsode_client import AsyncClient, GenerateOptions, RhapsodeError
from rhapsode_client.arguments import Prompt

now = time.monotonic
"""The clock of a run, in seconds; asyncio sleeps by the same."""


@dataclass(slots=True, kw_only=True)
class Timeline:
    """One request: when it was due, sent and over, and when how many of its tokens came."""

    due: float
    sent: float
    ended: float = math.inf
    arrivals: list[tuple[float, int]] = field(default_factory=list)
    answered_by: tuple[str, int] | None = None
    """Model and version."""
    error: RhapsodeError | None = None


@dataclass(slots=True, kw_only=True)
class Schedule:
    """Which requests are made: those due before `end`, of which `remaining` are measured at most.

    Those due before `begin` are the warm-up.
    """

    begin: float
    end: float = math.inf
    remaining: float = math.inf

    def admits(self, due: float) -> bool:
        """Whether a request is made that is due now; counts it."""
        if due < self.begin:
            return True
        if due >= self.end or not self.remaining:
            return False
        self.remaining -= 1
        return True

    def closed_at(self, timelines: Sequence[Timeline]) -> float:
        """When measuring is over: at `end`, or with the last of so many requests."""
        return self.end if self.remaining else max(each.ended for each in timelines)


Ask = Callable[[float], Awaitable[bool]]
"""Makes the next request, which is due at a given time. Returns whether it was answered."""

# Callers of a server that is gone would else ask as fast as they can fail.
_PAUSE_AFTER_FAILURE = 0.1


async def closed_loop(ask: Ask, schedule: Schedule, concurrency: int) -> None:
    """So many callers, each of which asks again as soon as it is answered, or a moment after a failure."""

    async def call() -> None:
        while schedule.admits(due := now()):
            if not await ask(due):
                await asyncio.sleep(_PAUSE_AFTER_FAILURE)

    async with asyncio.TaskGroup() as callers:
        for _ in range(concurrency):
            callers.create_task(call())


async def open_loop(ask: Ask, schedule: Schedule, rate: float, seed: int) -> None:
    """Poisson arrivals, `rate` a second on average. Each is due at its time, however slow the answers are.

    Its latency counts from then, so that a server that stalls is charged for all who would have come meanwhile.
    """
    random, due = Random(seed), now()
    async with asyncio.TaskGroup() as requests:
        while schedule.admits(due):
            await asyncio.sleep(due - now())
            requests.create_task(_awaited(ask(due)))
            due += random.expovariate(rate)


async def request(client: AsyncClient, prompt: Prompt, options: GenerateOptions, timeline: Timeline) -> None:
    """Streams one completion and notes what comes when."""
    try:
        async with client.stream(prompt, **options) as stream:
            async for delta in stream:
                if delta.token_ids:
                    timeline.arrivals.append((now(), len(delta.token_ids)))
            completion = await stream.result()
            timeline.answered_by = completion.model, completion.version
    except RhapsodeError as error:
        timeline.error = error
    timeline.ended = now()


async def _awaited(work: Awaitable[bool]) -> None:
    await work
