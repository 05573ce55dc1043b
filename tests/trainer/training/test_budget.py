import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rhapsode_trainer.budget import Budget, Schedule, last_affordable, reserve_seconds
from rhapsode_trainer.errors import ConfigError


def test_the_full_schedule_is_the_recipe_s() -> None:
    schedule = Schedule.full(700)
    assert [schedule.position(step) for step in range(701)] == list(range(701))
    assert schedule.end == 700


@given(total=st.integers(2, 5000), cuts=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=5))
def test_however_often_it_is_shortened_it_never_jumps_and_always_gets_to_its_end(
    total: int, cuts: list[tuple[float, float]]
) -> None:
    schedule, now = Schedule.full(total), 0
    for wait, share in cuts:
        now += int((schedule.end - now) * wait)
        end = now + round((schedule.end - now) * share)
        if end == now:
            break
        before = [schedule.position(step) for step in range(now + 1)]
        schedule = schedule.ending_at(end, now=now)
        assert [schedule.position(step) for step in range(now + 1)] == pytest.approx(before)
    positions = [schedule.position(step) for step in range(schedule.end + 1)]
    assert positions == sorted(positions)
    assert positions[-1] == total
    assert schedule.position(schedule.end + 1) == total


@pytest.mark.parametrize("knots", [(), ((0, 0.0),), ((1, 0.0), (2, 2.0)), ((0, 0.0), (5, 3.0), (4, 5.0))])
def test_knots_that_are_no_schedule_are_refused(knots: tuple[tuple[int, float], ...]) -> None:
    with pytest.raises(ValueError, match="knots"):
        Schedule(knots)


@given(
    seconds=st.floats(0, 1000),
    done=st.integers(0, 50),
    more=st.integers(0, 200),
    step_seconds=st.floats(0.01, 30),
    pauses=st.lists(st.integers(0, 250), max_size=5, unique=True),
    pause_seconds=st.floats(0, 100),
)
def test_the_last_affordable_step_is_affordable_and_the_next_is_not(
    seconds: float, done: int, more: int, step_seconds: float, pauses: list[int], pause_seconds: float
) -> None:
    def cost(step: int) -> float:
        return (step - done) * step_seconds + len([at for at in pauses if done < at <= step]) * pause_seconds

    options = {"step_seconds": step_seconds, "pauses": pauses, "pause_seconds": pause_seconds}
    last = last_affordable(seconds, done=done, end=done + more, **options)
    assert done <= last <= done + more
    assert last == done or cost(last) <= seconds
    assert last == done + more or cost(last + 1) > seconds


class Machine:
    """Trains on a clock of its own; a step takes as long as `step_seconds` says, the first one ten times that."""

    def __init__(self, seconds: float, *, reserve: float, steps: int) -> None:
        self.now = 100.0
        self.budget = Budget(seconds, reserve=reserve, started=40.0, clock=lambda: self.now)
        self.deadline = 40.0 + seconds - reserve
        self.schedule = Schedule.full(steps)
        self.ends: list[int] = []

    def train(self, step_seconds, pauses: tuple[int, ...] = (), pause_seconds: float = 0.0) -> None:
        self.budget.begin()
        step = 0
        while step < self.schedule.end:
            step += 1
            self.now += step_seconds(step) * (10 if step == 1 else 1)
            self.budget.step_done()
            end = self.budget.end(step, self.schedule.end, pauses)
            if end < self.schedule.end:
                self.schedule = self.schedule.ending_at(end, now=step)
                self.ends.append(end)
            if step in pauses:
                self.now += pause_seconds
                self.budget.pause_done()

    def late(self) -> float:
        return self.now - self.deadline


def test_where_there_is_time_enough_nothing_changes() -> None:
    machine = Machine(1000, reserve=100, steps=700)
    machine.train(lambda step: 1.0)
    assert machine.schedule == Schedule.full(700)
    assert machine.late() < 0


@settings(deadline=None)  # thousands of simulated steps
@given(step_seconds=st.floats(0.01, 3), steps=st.integers(1000, 20000))
def test_at_a_steady_rate_the_time_is_used_and_kept(step_seconds: float, steps: int) -> None:
    machine = Machine(600, reserve=90, steps=steps)
    machine.train(lambda step: step_seconds)
    assert machine.late() <= 0
    if machine.ends:
        assert machine.late() > -0.12 * 510 - 20 * step_seconds
        assert machine.schedule.position(machine.schedule.end - 1) < steps


def test_one_measured_rate_makes_one_schedule() -> None:
    def ends() -> list[int]:
        machine = Machine(600, reserve=90, steps=5000)
        machine.train(lambda step: 0.5)
        return machine.ends

    assert ends() == ends()
    assert len(ends()) == 1, "a steady machine is shaped once"


@pytest.mark.parametrize("factor", [2, 5, 20])
@pytest.mark.parametrize("at", [20, 300, 700])
def test_a_machine_that_slows_down_still_ends_in_time_with_the_decay_done(factor: int, at: int) -> None:
    machine = Machine(600, reserve=90, steps=5000)
    machine.train(lambda step: 0.5 if step < at else 0.5 * factor)
    assert machine.late() <= 0.5 * factor, "late by a step at most, and the reserve is not touched by more"
    assert machine.schedule.position(machine.schedule.end) == 5000
    end = machine.schedule.end
    assert 5000 - machine.schedule.position(end - 1) < 0.05 * 5000, "the last step is near the end of the decay"


def test_a_single_slow_step_changes_nothing() -> None:
    machine = Machine(600, reserve=90, steps=650)
    machine.train(lambda step: 10.0 if step == 100 else 0.5)
    assert machine.ends == []


def test_pauses_are_paid_for() -> None:
    machine = Machine(600, reserve=90, steps=1000)
    machine.train(lambda step: 0.4, pauses=(250, 500, 750, 1000), pause_seconds=60)
    assert machine.late() <= 0
    assert machine.schedule.end < 1000


def test_long_steps_are_not_waited_for() -> None:
    machine = Machine(600, reserve=90, steps=1000)
    machine.train(lambda step: 20.0 if step > 1 else 2.0)
    assert machine.late() <= 0
    assert machine.schedule.end > 15


@pytest.mark.parametrize(("seconds", "reserve"), [(60, 60), (60, 90), (0, 1)])
def test_a_budget_without_time_to_train_is_refused(seconds: float, reserve: float) -> None:
    with pytest.raises(ConfigError, match=r"--max-minutes: evaluation and publishing alone take about"):
        Budget(seconds, reserve=reserve, started=0.0)


def test_the_reserve_grows_with_what_has_to_be_done() -> None:
    small = reserve_seconds(evaluation=10, model_bytes=0)
    assert small > 10
    assert reserve_seconds(evaluation=100, model_bytes=0) >= small + 90
    assert reserve_seconds(evaluation=10, model_bytes=500_000_000) >= small + 20
