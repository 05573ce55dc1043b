"""Who should serve: what was decided, less what cannot be had. No state, no clock."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from rhapsode_contract.model_directory import CHAMPION, PINNED

from rhapsode_server.models.served import TrafficOverride, TrafficSource


@dataclass(frozen=True, slots=True)
class Decision:
    """How requests should be split, by version, and who decided it. Without weights nobody serves."""

    weights: Mapping[int, int]
    source: TrafficSource


NOTHING = Decision({}, TrafficSource.NOTHING)


def fleet_decision(aliases: Mapping[str, int], weights: Mapping[int, int]) -> Decision:
    """What the files of the model directory say: a pin, else weights, else the champion."""
    if PINNED in aliases:
        return Decision({aliases[PINNED]: 1}, TrafficSource.PINNED)
    if any(weights.values()):
        return Decision(weights, TrafficSource.WEIGHTS)
    if CHAMPION in aliases:
        return Decision({aliases[CHAMPION]: 1}, TrafficSource.CHAMPION)
    return NOTHING


def is_in_force(override: TrafficOverride, fleet: Decision, now: float) -> bool:
    """`now` is Unix time."""
    decided_anew = override.based_on is not None and dict(override.based_on) != dict(fleet.weights)
    return now < override.expires_at and not decided_anew


def decide(
    fleet: Decision, override: TrafficOverride | None, *, usable: Collection[int], fallbacks: Iterable[int]
) -> Decision:
    """What can be had of the override, else of the fleet's decision; else the first usable fallback, which serves all.

    A version that cannot be had leaves its share to the others.
    """
    wishes = [Decision(override.weights, TrafficSource.OVERRIDE)] if override else []
    for wish in (*wishes, fleet):
        weights = {version: weight for version, weight in wish.weights.items() if version in usable}
        if any(weights.values()):
            return Decision(weights, wish.source)
    for version in fallbacks:
        if version in usable:
            return Decision({version: 1}, TrafficSource.FALLBACK)
    return NOTHING
