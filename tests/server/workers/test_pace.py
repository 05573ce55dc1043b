"""How often readers are woken, by clocks that the test moves."""

import asyncio

import pytest
from rhapsode_server.workers import pace as pace_module
from rhapsode_server.workers.pace import Pace


class Clocks:
    """The time, and how long of it the loop was busy."""

    def __init__(self) -> None:
        self.now, self.busy = 1000.0, 1.0
        self.calls = 0
        self.called = asyncio.Event()
        self.pace = Pace(self._act, clock=lambda: self.now, busy_clock=lambda: self.busy)

    def _act(self) -> None:
        self.calls += 1
        self.called.set()

    def pass_time(self, seconds: float, *, busy: float) -> None:
        self.now += seconds
        self.busy += busy

    async def next_call(self) -> None:
        self.called.clear()
        await asyncio.wait_for(self.called.wait(), 10)


@pytest.fixture
async def clocks() -> Clocks:
    clocks = Clocks()
    clocks.pace.ask()
    assert clocks.calls == 1, "the first is at once"
    return clocks


async def test_a_loop_with_time_to_spare_answers_at_once(clocks: Clocks) -> None:
    for count in range(2, 50):
        clocks.pass_time(0.001, busy=0.0003)
        clocks.pace.ask()
        assert clocks.calls == count


async def test_a_busy_loop_answers_many_at_once_when_its_share_is_used_up(clocks: Clocks) -> None:
    clocks.pass_time(0.002, busy=0.002)
    for _ in range(5):
        clocks.pace.ask()
    assert clocks.calls == 1
    clocks.pass_time(0.004, busy=0.0)
    await clocks.next_call()
    assert clocks.calls == 2


async def test_what_the_loop_does_meanwhile_counts(clocks: Clocks) -> None:
    clocks.pass_time(0.002, busy=0.002)
    clocks.pace.ask()
    clocks.pass_time(0.004, busy=0.004)
    await asyncio.sleep(0.02)  # the timer of the first look
    assert clocks.calls == 1
    clocks.pass_time(0.02, busy=0.0)
    await clocks.next_call()
    assert clocks.calls == 2


async def test_nothing_waits_longer_than_allowed(clocks: Clocks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace_module, "_LONGEST_WAIT", 0.01)
    clocks.pass_time(5.0, busy=5.0)
    clocks.pace.ask()
    assert clocks.calls == 1
    clocks.pass_time(0.011, busy=0.011)
    await clocks.next_call()
    assert clocks.calls == 2
