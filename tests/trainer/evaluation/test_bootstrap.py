import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rhapsode_trainer.evaluation.bootstrap import bits_per_byte_interval, difference_interval
from rhapsode_trainer.evaluation.scores import Likelihood, total


def draw(count: int, level: float, spread: float, seed: int) -> list[Likelihood]:
    """Documents of 100 to 1,000 bytes at about `level` bits per byte."""
    generator = random.Random(seed)
    sizes = [generator.randint(100, 1000) for _ in range(count)]
    return [
        Likelihood(nats=size * generator.gauss(level, spread) * math.log(2), tokens=size, bytes=size) for size in sizes
    ]


def shifted(parts: list[Likelihood], bits: float) -> list[Likelihood]:
    return [
        Likelihood(nats=part.nats + bits * math.log(2) * part.bytes, tokens=part.tokens, bytes=part.bytes)
        for part in parts
    ]


def slow_interval(parts: list[Likelihood], resamples: int) -> tuple[float, float]:
    """The same by hand, with another generator: equal up to the noise of resampling."""
    generator = random.Random(0)
    values = sorted(total(generator.choices(parts, k=len(parts))).bits_per_byte for _ in range(resamples))
    return values[int(0.025 * resamples)], values[int(0.975 * resamples)]


def test_it_is_the_bootstrap_by_hand() -> None:
    parts = draw(60, 2.0, 0.3, seed=1)
    interval = bits_per_byte_interval(parts)
    assert interval.estimate == pytest.approx(total(parts).bits_per_byte)
    assert (interval.low, interval.high) == pytest.approx(slow_interval(parts, 2000), abs=0.01)


def test_it_covers_the_truth_as_often_as_it_says() -> None:
    trials = [bits_per_byte_interval(draw(40, 2.0, 0.3, seed), resamples=300) for seed in range(200)]
    assert 0.88 <= sum(trial.low <= 2.0 <= trial.high for trial in trials) / 200 <= 0.99


def test_pairs_see_what_two_intervals_cannot() -> None:
    old = draw(60, 2.0, 0.5, seed=1)
    new = shifted(old, -0.01)
    alone = [bits_per_byte_interval(parts) for parts in (old, new)]
    assert alone[0].low < alone[1].high, "the intervals overlap"
    difference = difference_interval(new, old)
    assert difference.low == pytest.approx(-0.01)
    assert difference.high == pytest.approx(-0.01)


@given(st.lists(st.tuples(st.floats(0, 1e4), st.integers(1, 1000)), min_size=2, max_size=20), st.integers(0, 2**32 - 1))
def test_it_is_seeded_and_in_order(rows: list[tuple[float, int]], seed: int) -> None:
    parts = [Likelihood(nats=nats, tokens=1, bytes=size) for nats, size in rows]
    first, second = (bits_per_byte_interval(parts, resamples=50, seed=seed) for _ in range(2))
    assert first == second
    assert first.low <= first.high
    extremes = [part.bits_per_byte for part in parts]
    slack = 1e-9 * (1 + max(extremes))
    assert min(extremes) - slack <= first.low
    assert first.high <= max(extremes) + slack


def test_a_nan_is_never_resampled_away() -> None:
    parts = [*draw(500, 2.0, 0.1, seed=1), Likelihood(nats=math.nan, tokens=1, bytes=1)]
    interval = bits_per_byte_interval(parts)
    assert all(map(math.isnan, (interval.estimate, interval.low, interval.high)))
    assert interval.as_dict() == {"estimate": None, "low": None, "high": None, "confidence": 0.95}


def test_one_document_proves_nothing() -> None:
    old = draw(1, 2.0, 0.1, seed=1)
    difference = difference_interval(shifted(old, -1.0), old)
    assert (difference.low, difference.high) == (-math.inf, math.inf)
    assert difference.estimate == pytest.approx(-1.0)


def test_other_documents_are_refused() -> None:
    with pytest.raises(ValueError, match="documents"):
        difference_interval(draw(3, 2.0, 0.1, seed=1), draw(3, 2.0, 0.1, seed=2))
    with pytest.raises(ValueError, match="no documents"):
        bits_per_byte_interval([])


def test_more_documents_than_are_drawn_at_once() -> None:
    interval = bits_per_byte_interval(draw(3000, 2.0, 0.3, seed=1), resamples=2000)
    assert interval.low < 2.0 < interval.high
    assert interval.high - interval.low < 0.05
