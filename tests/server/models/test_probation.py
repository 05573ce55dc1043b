"""When a version that serves is rolled back, and when it is not."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rhapsode_server.engine.engine import EngineStats
from rhapsode_server.engine.refusal import ModelRefused
from rhapsode_server.models.probation import NUM_ENDS, NUM_STEPS, Vitals, judge


def vitals(ends: str = "", *, steps: int = 0, seconds: float = 0.01, rows: int = 4) -> Vitals:
    """`ends` has a letter for each request: . answered, x failed, n not finite."""
    made = Vitals()
    for letter in ends:
        made.note_end({".": "ok", "x": "error", "n": "not_finite"}[letter])
    note_steps(made, steps, seconds, rows)
    return made


def note_steps(made: Vitals, steps: int, seconds: float, rows: int, tokens: int | None = None) -> None:
    stats = EngineStats(
        waiting=0, running=rows, blocks_used=1, blocks_total=9, batch_rows=rows, batch_tokens=tokens or rows
    )
    for _ in range(steps):
        made.note_step(stats, seconds)


def verdict(now: Vitals, before: Vitals | None = None) -> ModelRefused | None:
    return judge(now, before, max_error_rate=0.05, max_slowdown=3)


def reason(now: Vitals, before: Vitals | None = None) -> str:
    refused = verdict(now, before)
    return refused.reason if refused else ""


def test_one_that_does_well_stays() -> None:
    assert verdict(Vitals()) is None
    assert verdict(vitals("." * 500, steps=500), vitals("." * 500, steps=500)) is None


@pytest.mark.parametrize("exit_reason", ["crashed", "killed", "hung", "out_of_memory"])
def test_one_crash_is_too_many(exit_reason: str) -> None:
    now = vitals("." * 500)
    now.note_crash(exit_reason)
    refused = verdict(now)
    assert refused is not None
    assert (refused.reason, exit_reason in refused.detail) == ("worker_crashed", True)


@pytest.mark.parametrize(("ends", "expected"), [("nn" + "." * 200, ""), ("nnn" + "." * 200, "non_finite_logits")])
def test_logits_that_are_not_finite(ends: str, expected: str) -> None:
    assert reason(vitals(ends)) == expected


@pytest.mark.parametrize(
    ("now", "before", "expected"),
    [
        ("nnn", "", "non_finite_logits"),
        ("." * 100_000 + "nnn", "", ""),
        (("." * 999 + "n") * 100, "", ""),  # 0.1%
        (("." * 997 + "n") * 100, "", "non_finite_logits"),
        ("nnn" + "." * 297, "n" + "." * 199, ""),  # 1%, and 0.5% with the version before
        ("nnn" + "." * 296, "n" + "." * 199, "non_finite_logits"),
        ("nnn" + "." * 500, "n" * 500 + "." * 500, ""),
        ("nnn", "n" * 500 + "." * NUM_ENDS, "non_finite_logits"),  # it does well again
    ],
    ids=range(8),
)
def test_they_are_compared_with_the_version_before(now: str, before: str, expected: str) -> None:
    assert reason(vitals(now), vitals(before)) == expected


def test_a_version_that_computes_nothing_finite_any_more_is_found() -> None:
    assert reason(vitals("." * 50_000 + "n" * 60)) in ("non_finite_logits", "error_rate")


@pytest.mark.parametrize(
    ("now", "before", "expected"),
    [
        ("xxxx", "", ""),  # too few to tell
        ("xxxxx", "", "error_rate"),
        ("xxxxx" + "." * 95, "", ""),  # 5%: what may fail
        ("xxxxx" + "." * 94, "", "error_rate"),
        ("xxxxxx" + "." * 54, "x" * 10 + "." * 90, ""),  # 10%, as the one before it
        ("x" * 12 + "." * 48, "x" * 10 + "." * 90, ""),  # twice as many
        ("x" * 13 + "." * 47, "x" * 10 + "." * 90, "error_rate"),
        ("nnxxx", "", "error_rate"),
    ],
)
def test_the_error_rate(now: str, before: str, expected: str) -> None:
    assert reason(vitals(now), vitals(before)) == expected


def test_a_version_that_turns_bad_is_found_however_long_it_was_good() -> None:
    assert reason(vitals("." * 50_000 + "x" * 60)) == "error_rate"


@pytest.mark.parametrize("outcome", ["invalid", "cancelled", "deadline", "overloaded"])
def test_what_callers_do_is_no_failure(outcome: str) -> None:
    now = vitals("x" * 5 + "." * 95)
    for _ in range(1000):
        now.note_end(outcome)
    assert verdict(now) is None
    assert (now.num_failures, now.num_ends) == (5, 100)


@pytest.mark.parametrize(
    ("seconds", "steps", "steps_before", "expected"),
    [
        (0.031, 200, 200, "latency"),
        (0.030, 200, 200, ""),
        (0.031, 199, 200, ""),
        (0.031, 200, 199, ""),
        (0.005, 500, 500, ""),
    ],
)
def test_the_time_of_a_step(seconds: float, steps: int, steps_before: int, expected: str) -> None:
    assert reason(vitals(steps=steps, seconds=seconds), vitals(steps=steps_before, seconds=0.010)) == expected


def test_without_a_version_before_no_speed_is_too_low() -> None:
    assert verdict(vitals(steps=500, seconds=9.0)) is None


def test_like_is_compared_with_like() -> None:
    alone, busy = vitals(steps=300, seconds=0.01, rows=1), vitals(steps=300, seconds=0.08, rows=16)
    assert verdict(busy, alone) is None
    note_steps(alone, 300, 0.02, rows=13)  # 9 to 16 requests are of one size
    refused = verdict(busy, alone)
    assert refused is not None
    assert "up to 16 requests takes 80 ms, 4.0 times the 20 ms" in refused.detail


def test_prompts_do_not_count() -> None:
    now, before = vitals(steps=200), vitals(steps=200)
    note_steps(now, 500, 5.0, rows=4, tokens=512)
    note_steps(now, 500, 5.0, rows=0)
    assert verdict(now, before) is None


def test_a_few_slow_steps_are_no_slow_version() -> None:
    now = vitals(steps=400)
    note_steps(now, 190, 5.0, rows=4)
    assert verdict(now, vitals(steps=400)) is None


def test_what_is_kept_is_bounded() -> None:
    now = vitals("." * 5000, steps=NUM_STEPS)
    for rows in (1, 2, 3, 64):
        note_steps(now, NUM_STEPS + 100, 0.01, rows)
    for _ in range(100):
        now.note_crash("killed")
    assert now.num_ends == NUM_ENDS
    assert len(now.crashes) < 10
    kept = [len(steps) for steps in now._steps.values()]
    assert kept == [NUM_STEPS] * 4
    assert sys.getsizeof(now._ends) < 20_000


@given(
    st.lists(st.sampled_from(["ok", "error", "not_finite", "unavailable", "invalid", "deadline", "odd"]), max_size=80)
)
def test_a_version_is_not_worse_than_itself(outcomes: list[str]) -> None:
    """Whatever both get wrong."""
    now, before = Vitals(), Vitals()
    for outcome in outcomes:
        now.note_end(outcome)
        before.note_end(outcome)
    assert verdict(now, before) is None
