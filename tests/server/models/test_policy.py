"""What should serve: a pin before weights before the champion, less what cannot be had."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rhapsode_server.models.policy import NOTHING, Decision, decide, fleet_decision, is_in_force
from rhapsode_server.models.served import TrafficOverride, TrafficSource
from rhapsode_server.models.traffic import Split

WEIGHTS = st.dictionaries(st.integers(1, 30), st.integers(0, 100), max_size=6)


def test_the_fleet_decides_by_pin_then_weights_then_champion() -> None:
    aliases = {"champion": 2, "previous": 1}
    assert fleet_decision({}, {}) == NOTHING
    assert fleet_decision(aliases, {}) == Decision({2: 1}, TrafficSource.CHAMPION)
    assert fleet_decision(aliases, {1: 0}) == Decision({2: 1}, TrafficSource.CHAMPION)
    assert fleet_decision(aliases, {1: 9, 2: 1}) == Decision({1: 9, 2: 1}, TrafficSource.WEIGHTS)
    assert fleet_decision({**aliases, "pinned": 1}, {2: 1}) == Decision({1: 1}, TrafficSource.PINNED)


CHAMPION_3 = Decision({3: 1}, TrafficSource.CHAMPION)
SPLIT = Decision({3: 1, 2: 9}, TrafficSource.WEIGHTS)


@pytest.mark.parametrize(
    ("fleet", "override", "usable", "expected"),
    [
        (CHAMPION_3, None, {1, 2, 3}, CHAMPION_3),
        (CHAMPION_3, {2: 1}, {1, 2, 3}, Decision({2: 1}, TrafficSource.OVERRIDE)),
        (CHAMPION_3, {2: 1}, {1, 3}, CHAMPION_3),
        (SPLIT, None, {1, 3}, Decision({3: 1}, TrafficSource.WEIGHTS)),
        (CHAMPION_3, None, {1, 2}, Decision({2: 1}, TrafficSource.FALLBACK)),
        (CHAMPION_3, None, {1}, Decision({1: 1}, TrafficSource.FALLBACK)),
        (CHAMPION_3, None, set(), NOTHING),
        (NOTHING, None, {1, 2}, Decision({2: 1}, TrafficSource.FALLBACK)),
    ],
)
def test_what_cannot_be_had_leaves_its_share_to_the_others(
    fleet: Decision, override: dict[int, int] | None, usable: set[int], expected: Decision
) -> None:
    made = TrafficOverride(weights=override, expires_at=1.0) if override else None
    assert decide(fleet, made, usable=usable, fallbacks=[2, 1]) == expected


def test_an_override_ends_with_its_time_or_with_a_new_decision_of_the_fleet() -> None:
    promoted = TrafficOverride(weights={2: 1}, expires_at=100.0, based_on={3: 1})
    assert is_in_force(promoted, CHAMPION_3, 99.9)
    assert not is_in_force(promoted, CHAMPION_3, 100.0)
    assert not is_in_force(promoted, SPLIT, 99.9)
    pinned = TrafficOverride(weights={2: 1}, expires_at=100.0)
    assert is_in_force(pinned, SPLIT, 99.9)


@given(WEIGHTS, st.sets(st.integers(1, 30)), st.text(max_size=20))
def test_a_key_goes_to_one_of_those_that_have_a_share(weights: dict[int, int], live: set[int], key: str) -> None:
    split = Split(weights)
    picked = split.pick(key, live)
    assert picked == split.pick(key, live)
    assert picked in split.versions & live if split.versions & live else picked is None


@given(st.integers(0, 100), st.integers(0, 100), st.text(max_size=20))
def test_keys_stay_with_a_new_version_whose_share_grows(smaller: int, larger: int, key: str) -> None:
    smaller, larger = sorted((smaller, larger))
    if Split({1: 100 - smaller, 2: smaller}).pick(key, {1, 2}) == 2:
        assert Split({1: 100 - larger, 2: larger}).pick(key, {1, 2}) == 2


def test_shares_are_what_the_weights_say() -> None:
    split = Split({1: 9, 2: 1, 3: 0})
    picks = [split.pick(f"caller {number}", {1, 2, 3}) for number in range(20_000)]
    assert picks.count(3) == 0
    assert picks.count(2) / len(picks) == pytest.approx(0.1, abs=0.01)
    assert str(split) == "version 1 (90%), version 2 (10%)"
    assert str(Split()) == "nobody"
