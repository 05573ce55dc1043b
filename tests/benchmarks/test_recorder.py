"""When the window of measurement opens and closes, by a clock that the test sets."""

from dataclasses import dataclass

import psutil
import pytest

from benchmarks.serving import recorder as recorders
from benchmarks.serving.meter import Meter
from benchmarks.serving.recorder import Plan, Recorder
from benchmarks.serving.workload import Request

REQUEST = Request(prompt="a", prompt_ids=(1,), num_tokens=9)


@dataclass
class Clock:
    seconds: float = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(recorders, "now", clock)
    return clock


def test_the_window_opens_some_time_after_all_have_begun(clock: Clock):
    plan = Plan(requests=(REQUEST,) * 2, callers=2, seconds=3.0, warm_up=1.0)
    recorder = Recorder(plan, Meter(lambda: [psutil.Process()]))
    one, other = (recorder.submitted(REQUEST) for _ in range(2))
    seen = []
    for seconds, timeline in [(1.0, one), (4.0, one), (5.0, other), (5.9, one), (6.0, one), (8.9, other), (9.0, one)]:
        clock.seconds = seconds
        recorder.arrived(timeline, 1)
        seen.append((recorder.is_open, recorder.is_closed))
    assert seen == [(False, False)] * 4 + [(True, False)] * 2 + [(True, True)]
    assert recorder.result().seconds == 3.0


def test_without_seconds_the_window_is_all_of_it(clock: Clock):
    recorder = Recorder(Plan(requests=(REQUEST,)), Meter(lambda: [psutil.Process()]))
    timeline = recorder.submitted(REQUEST)
    clock.seconds = 2.0
    recorder.arrived(timeline, 1)
    assert recorder.is_open
    assert not recorder.is_closed
    assert recorder.result().seconds == 2.0
