"""Limits by the time in which this process runs: a clock that jumps ends nothing."""

import pytest
from rhapsode_server.workers import watchdog
from rhapsode_server.workers.watchdog import Heartbeat, sleep_while_running


class Sleeper:
    """Stands in for `asyncio.sleep`: notes how long, and what happened in between."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[object] = []
        self.answers: list[bool] = []
        self.heartbeat = Heartbeat(timeout=6.0, ping=lambda: self.log.append("ping"))
        monkeypatch.setattr(watchdog.asyncio, "sleep", self._sleep)

    async def _sleep(self, seconds: float) -> None:
        self.log.append(seconds)
        if self.answers and self.answers.pop(0):
            self.heartbeat.hear()


@pytest.fixture
def sleeper(monkeypatch: pytest.MonkeyPatch) -> Sleeper:
    return Sleeper(monkeypatch)


async def test_a_limit_is_slept_in_parts_so_that_a_pause_is_one_of_them_at_most(sleeper: Sleeper) -> None:
    await sleep_while_running(6.0)
    assert sleeper.log == [2.0, 2.0, 2.0]


async def test_silence_is_one_ping_without_an_answer_for_the_whole_limit(sleeper: Sleeper) -> None:
    await sleeper.heartbeat.silence()
    assert sleeper.log == ["ping", 2.0, 2.0, 2.0]


async def test_every_answer_begins_the_limit_anew(sleeper: Sleeper) -> None:
    sleeper.answers = [True, False, True, False, False, True]
    await sleeper.heartbeat.silence()
    assert sleeper.log == ["ping", 2.0, "ping", 2.0, 2.0, *["ping", 2.0, 2.0, 2.0] * 2]
