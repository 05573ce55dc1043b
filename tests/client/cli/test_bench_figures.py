"""The figures of a run: percentiles, rates, histograms, objectives."""

import asyncio
import math
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rhapsode_client import Overloaded
from rhapsode_client.cli.bench import load
from rhapsode_client.cli.bench.figures import Figures, Latency, figures, percentile
from rhapsode_client.cli.bench.load import Schedule, Timeline, closed_loop, open_loop
from rhapsode_client.cli.bench.objectives import NAMES, Objective
from rhapsode_client.cli.bench.report import report
from rhapsode_client.cli.bench.workload import Lengths

TIMES = st.lists(st.floats(0, 100), min_size=1, max_size=50)


@given(TIMES, st.floats(0.01, 1.0))
def test_a_percentile_is_the_smallest_value_that_enough_do_not_exceed(values, share):
    found = percentile(sorted(values), share)
    at_most, below = (sum(map(compare, values)) for compare in (found.__ge__, found.__gt__))
    assert found in values
    assert below / len(values) < share + 1e-9
    assert at_most / len(values) >= share - 1e-9


def test_percentiles_are_exact():
    assert [percentile(range(1, 101), share) for share in (0.5, 0.9, 0.95, 0.99, 1.0)] == [50, 90, 95, 99, 100]
    assert percentile(range(1, 21), 0.95) == 19


@given(TIMES)
def test_every_value_is_in_one_bucket(values):
    buckets = Latency.of(values).histogram
    assert sum(bucket.count for bucket in buckets) == len(values)
    assert (buckets[0].low, buckets[-1].high) == (min(values), max(values))
    assert all(earlier.high == later.low for earlier, later in pairwise(buckets))


def timeline(due: float, *arrivals: float, ended: float | None = None, failed: bool = False) -> Timeline:
    made = Timeline(due=due, sent=due + 0.25, answered_by=("poems", 3), ended=ended or arrivals[-1])
    made.arrivals = [(when, 2) for when in arrivals]
    made.error = Overloaded("full") if failed else None
    return made


RUN = [
    timeline(8.0, 9.0, 11.0),  # of the warm-up, but its second tokens and its end are measured
    timeline(10.0, 11.0, 12.0, 14.0),
    timeline(18.0, 19.5, 21.0),  # its end is not
    timeline(12.0, ended=12.5, failed=True),
]


def test_what_falls_into_the_time_measured_counts():
    found = figures(RUN, 10.0, 20.0)
    assert (found.requests, found.failed, found.error_rate) == (3, 1, pytest.approx(1 / 3))
    assert (found.tokens, found.tokens_per_second) == (2 + 6 + 2, 1.0)
    assert found.completed_per_second == 0.2
    assert found.answered_by == {"poems version 3": 2}
    assert found.errors["Overloaded"].count == 1
    assert found.latest_send == 0.25


def test_latencies_count_from_when_requests_were_due():
    found = figures(RUN, 10.0, 20.0)
    assert found.first_token.percentiles["p50"] == 1.0
    assert found.first_token.percentiles["max"] == 1.5
    assert found.total.percentiles == {"p50": 3.0, "p90": 4.0, "p95": 4.0, "p99": 4.0, "max": 4.0}
    assert found.between_tokens.count == 3
    assert found.between_tokens.percentiles["max"] == 2.0


def test_the_report_says_the_same():
    lines = list(report(figures(RUN, 10.0, 20.0), [Objective.parse("ttft_max=2s").verdict(figures(RUN, 10.0, 20.0))]))
    assert lines[:4] == [
        "answered by   poems version 3 (2)",
        "requests      3 in 10.0 s, 1 failed",
        "completed     0.2/s",
        "tokens        10, 1.0/s",
    ]
    assert "to the first token       1,000     1,500     1,500     1,500     1,500" in lines
    assert "  met     ttft_max=2s, measured 1,500 ms" in lines
    assert "a request was sent 250 ms after it was due: this machine cannot keep up" in lines
    bars = [line for line in lines if line.endswith("\u2588 1")]
    assert len(bars) == 4


@pytest.mark.parametrize("name", NAMES)
def test_each_objective_can_be_met_and_missed(name):
    found = figures(RUN, 10.0, 20.0)
    unit = "%" if name == "error_rate" else "s" if name[:3] in ("ttf", "itl", "tot") else ""
    easy, hard = ("0", "99") if name.endswith("per_second") else ("99", "0")
    assert Objective.parse(f"{name}={easy}{unit}").verdict(found).met
    assert not Objective.parse(f"{name}={hard}{unit}").verdict(found).met


def test_an_objective_holds_at_its_bound():
    found: Figures = figures(RUN, 10.0, 20.0)
    assert Objective.parse("ttft_max=1500ms").verdict(found).met
    assert Objective.parse("tokens_per_second=1").verdict(found).met


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only while something sleeps."""

    class Clock:
        now = 100.0

        async def sleep(self, seconds: float) -> None:
            self.now += max(0.0, seconds)

    made = Clock()
    monkeypatch.setattr(load, "now", lambda: made.now)
    monkeypatch.setattr(load.asyncio, "sleep", made.sleep)
    return made


async def test_an_open_loop_asks_on_time_however_slow_the_answers_are(clock):
    dues: list[float] = []
    stalled = asyncio.Event()

    async def ask(due: float) -> bool:
        dues.append(due)
        if len(dues) == 1000:
            stalled.set()
        return await stalled.wait()

    await open_loop(ask, Schedule(begin=100.0, remaining=1000), rate=50.0, seed=7)
    gaps = [later - earlier for earlier, later in pairwise(dues)]
    random = Random(7)
    assert gaps == pytest.approx([random.expovariate(50.0) for _ in gaps])
    assert sum(gaps) / len(gaps) == pytest.approx(1 / 50, rel=0.1)


async def test_a_late_open_loop_does_not_move_what_is_due(clock):
    dues: list[float] = []

    async def ask(due: float) -> bool:
        dues.append(due)
        clock.now += 60.0  # the machine stands still
        return True

    await open_loop(ask, Schedule(begin=100.0, remaining=20), rate=10.0, seed=7)
    assert dues[-1] < 110.0


async def test_a_closed_loop_has_so_many_under_way_until_its_end(clock):
    waiting: list[asyncio.Event] = []

    async def ask(due: float) -> bool:
        waiting.append(asyncio.Event())
        return await waiting[-1].wait()

    running = asyncio.create_task(closed_loop(ask, Schedule(begin=101.0, end=105.0), concurrency=3))
    for answered in range(20):
        while len(waiting) < answered + 3:
            await asyncio.wait([running], timeout=0)
        assert len(waiting) == answered + 3
        waiting[answered].set()
    clock.now = 105.0
    for event in waiting[20:]:
        event.set()
    await running
    assert len(waiting) <= 23


async def test_a_closed_loop_does_not_spin_on_a_server_that_is_gone(clock):
    asked: list[float] = []

    async def ask(due: float) -> bool:
        asked.append(due)
        return False

    await closed_loop(ask, Schedule(begin=100.0, end=104.05), concurrency=1)
    assert len(asked) == 41


def test_the_warm_up_does_not_count_as_measured():
    schedule = Schedule(begin=10.0, end=20.0, remaining=2)
    assert [schedule.admits(due) for due in (1.0, 9.9, 10.0, 20.0, 11.0, 12.0)] == [
        True,
        True,
        True,
        False,
        True,
        False,
    ]


def test_the_time_measured_ends_on_time_or_with_the_last_request():
    assert Schedule(begin=0.0, end=20.0).closed_at(RUN) == 20.0
    assert Schedule(begin=0.0, end=math.inf, remaining=0).closed_at(RUN) == 21.0


@pytest.mark.parametrize("text", ["0", "", "5:", ":5", "a", "9:3", "1.5", "-4"])
def test_bad_lengths(text):
    with pytest.raises(ValueError):  # noqa: PT011
        Lengths.parse(text)


@given(st.integers(1, 50), st.integers(0, 50), st.integers())
def test_lengths_are_drawn_from_their_range(low, more, seed):
    lengths = Lengths.parse(f"{low}:{low + more}")
    assert low <= lengths.draw(Random(seed)) <= low + more
