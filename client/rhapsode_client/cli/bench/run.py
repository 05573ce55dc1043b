"""One run: the warm-up, the time measured, and what is shown meanwhile."""

import asyncio
import math
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from rhapsode_client import AsyncClient
from rhapsode_client.cli.bench.figures import Figures, figures
from rhapsode_client.cli.bench.load import Ask, Schedule, Timeline, closed_loop, now, open_loop, request
from rhapsode_client.cli.bench.workload import Workload
from rhapsode_client.cli.target import Target

# Often enough to look alive, too seldom to be in the way of what is measured.
_REFRESH = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How requests come: of `concurrency` callers, or `rate` a second if there is one. Times are in seconds."""

    concurrency: int
    rate: float | None
    warm_up: float
    duration: float
    requests: int | None
    """The most that are measured."""
    seed: int


@dataclass(slots=True)
class _Progress:
    """A line on a terminal that says how far the run is."""

    schedule: Schedule
    timelines: list[Timeline] = field(default_factory=list)

    def line(self) -> str:
        over = [each for each in self.timelines if each.ended < math.inf]
        failed = sum(each.error is not None for each in over)
        left = self.schedule.begin - now()
        what = f"warm-up, {left:.0f} s to go" if left > 0 else f"measuring for {-left:.0f} s"
        return f"[{what}: {len(over):,} done, {len(self.timelines) - len(over):,} under way, {failed:,} failed]"

    async def show(self) -> None:
        try:
            while True:
                sys.stderr.write(f"\r{self.line()}\x1b[K")
                sys.stderr.flush()
                await asyncio.sleep(_REFRESH)
        finally:
            sys.stderr.write("\r\x1b[K")


async def run(target: Target, load: Load, workload: Workload) -> Figures:
    """Raises what goes wrong besides requests that fail, which are counted: retries would hide them."""
    begin = now() + load.warm_up
    schedule = Schedule(begin=begin, end=begin + load.duration, remaining=load.requests or math.inf)
    progress = _Progress(schedule)
    async with AsyncClient(**{**target, "retries": 0}) as client:
        ask = _asks(client, workload, progress.timelines)
        async with _shown(progress):
            if load.rate is None:
                await closed_loop(ask, schedule, load.concurrency)
            else:
                await open_loop(ask, schedule, load.rate, load.seed)
    return figures(progress.timelines, begin, schedule.closed_at(progress.timelines))


@asynccontextmanager
async def _shown(progress: _Progress) -> AsyncIterator[None]:
    showing = asyncio.create_task(progress.show()) if sys.stderr.isatty() else None
    try:
        yield
    finally:
        if showing:
            showing.cancel()
            await asyncio.wait([showing])


def _asks(client: AsyncClient, workload: Workload, timelines: list[Timeline]) -> Ask:
    requests = iter(workload)

    async def ask(due: float) -> bool:
        timeline = Timeline(due=due, sent=now())
        timelines.append(timeline)
        await request(client, *next(requests), timeline)
        return timeline.error is None

    return ask
