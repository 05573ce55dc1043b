"""A run as it goes: which request comes next, what has arrived, and when the window of measurement opens and closes."""

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, cycle, islice

from benchmarks.serving.figures import Cost, Measured, Timeline, measured
from benchmarks.serving.meter import Meter
from benchmarks.serving.workload import Request, steady_start

now = time.perf_counter


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What one run does.

    Closed loop: `callers` callers, each with one request at a time. With `seconds` they go through the requests again
    and again; the window opens when each has had a token and closes so long after. Without, the requests are done
    once, and the window is all of it.
    Open loop: requests come at `arrivals`, in seconds from the start; the window opens `warm_up` seconds after it.
    """

    requests: tuple[Request, ...]
    callers: int = 1
    seconds: float | None = None
    arrivals: tuple[float, ...] = ()
    warm_up: float = 0.0
    turn: int = 0

    def source(self) -> Iterator[Request]:
        """The requests in order; every turn begins at another of them."""
        if self.seconds is None or self.arrivals:
            return iter(self.requests)
        start = random.Random(self.turn).randrange(len(self.requests))
        rotated = [*self.requests[start:], *self.requests[:start]]
        steady = steady_start(rotated, self.callers, seed=self.turn)
        return chain(steady, islice(cycle(rotated), self.callers, None))


class Recorder:
    """Not for threads: one event loop or one thread calls it."""

    def __init__(self, plan: Plan, meter: Meter) -> None:
        self._plan, self._meter, self._source = plan, meter, plan.source()
        self._timelines: list[Timeline] = []
        self._num_begun = 0
        self._all_begun: float | None = None
        self._began: float | None = None
        self._closed: tuple[float, Cost] | None = None
        if plan.seconds is None:
            self.open()

    def next_request(self) -> Request | None:
        """None: there is nothing left to do."""
        return next(self._source, None)

    def submitted(self, request: Request) -> Timeline:
        timeline = Timeline(submitted=now(), num_prompt_tokens=len(request.prompt_ids))
        self._timelines.append(timeline)
        return timeline

    def arrived(self, timeline: Timeline, count: int) -> None:
        """`count` tokens came now."""
        self._num_begun += not timeline.arrivals
        timeline.arrivals.append((now(), count))
        if self._plan.seconds is None or self._plan.arrivals:
            return
        if self._all_begun is None and self._num_begun >= self._plan.callers:
            self._all_begun = now()
        if self._began is not None:
            if now() >= self._began + self._plan.seconds:
                self.close()
        elif self._all_begun is not None and now() >= self._all_begun + self._plan.warm_up:
            self.open()

    def open(self) -> None:
        self._meter.start()
        self._began = now()

    def close(self) -> None:
        """Once; what comes later does not count."""
        if self._closed is None:
            self._closed = now(), self._meter.stop()

    @property
    def is_open(self) -> bool:
        """Or has been."""
        return self._began is not None

    @property
    def is_closed(self) -> bool:
        return self._closed is not None

    def result(self) -> Measured:
        """What the window held; it closes now if it has not."""
        assert self._began is not None, "the window never opened"
        self.close()
        assert self._closed is not None
        ended, cost = self._closed
        return measured(self._timelines, self._began, ended, cost)
