"""What an operator does to the models of one server."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from rhapsode_server.errors import NotPossible, VersionNotFound
from rhapsode_server.models.model import ServedModel
from rhapsode_server.models.served import TrafficOverride, TrafficSource


async def set_traffic(model: ServedModel, weights: Mapping[int, int], *, ttl: float, reason: str, holds: bool) -> None:
    """Raises VersionNotFound, NotPossible. Times in seconds."""
    for number in weights:
        _check_known(model, number)
        _check_allowed(model, number)
    await _override(model, weights, ttl=ttl, reason=reason, based_on=None if holds else dict(model.fleet.weights))


async def clear_traffic(model: ServedModel) -> None:
    """Raises NotPossible."""
    await model.records.set_override(model.name, None)
    model.look()


async def rollback(model: ServedModel, *, ttl: float, reason: str) -> None:
    """Raises NotPossible: also when this server has gone back already, so that asking twice does not go forward."""
    override = model.override
    if override and override.is_rollback:
        raise NotPossible(f"{model.name} is rolled back already, to {model.split}; to go elsewhere, promote a version")
    if model.source is TrafficSource.FALLBACK:
        # What was decided is quarantined or loads still: to go back from here would be one too many.
        raise NotPossible(
            f"{model.name} is on {model.split} and not on what was decided; to hold a version, promote it"
        )
    usable = {*model.found.paths, *model.roster.live()} - model.quarantine.numbers - model.split.versions
    target = next((number for number in model.fallbacks() if number in usable), None)
    if target is None:
        raise NotPossible(f"{model.name} has no version to go back to that is whole and not quarantined")
    based_on = dict(model.fleet.weights)
    await _override(model, {target: 1}, ttl=ttl, reason=reason, based_on=based_on, is_rollback=True)


async def _override(model: ServedModel, weights: Mapping[int, int], *, ttl: float, **fields: Any) -> None:
    override = TrafficOverride(weights=dict(weights), expires_at=time.time() + ttl, **fields)
    await model.records.set_override(model.name, override)
    model.look()


async def load_version(model: ServedModel, number: int, *, ttl: float) -> None:
    """Until it is ready. Raises VersionNotFound, NotPossible."""
    _check_known(model, number)
    await model.records.set_loaded(model.name, number, time.time() + ttl)
    model.try_again(number)
    model.look()
    if number in model.roster.loads:
        await asyncio.wait([model.roster.loads[number]])
    if number in model.quarantine:
        raise NotPossible(f"version {number} of {model.name} is quarantined ({model.quarantine.refusal(number)})")


async def unload_version(model: ServedModel, number: int) -> None:
    """Raises VersionNotFound, NotPossible."""
    if number not in model.versions:
        raise VersionNotFound(f"version {number} of {model.name} is not loaded")
    if number in {*model.split.versions, *model.decision.weights}:
        raise NotPossible(f"version {number} of {model.name} has traffic, or is kept for it; move that first")
    await model.records.set_loaded(model.name, number, None)
    model.roster.kept_until.pop(number, None)
    model.look()


def _check_known(model: ServedModel, number: int) -> None:
    if number not in model.found.paths and number not in model.versions:
        known = ", ".join(map(str, sorted(model.found.paths))) or "none"
        raise VersionNotFound(f"{model.name} had no whole version {number} at the last look; it had {known}")


def _check_allowed(model: ServedModel, number: int) -> None:
    if number in model.quarantine:
        refusal = model.quarantine.refusal(number)
        raise NotPossible(f"version {number} of {model.name} is quarantined ({refusal}); to try it again, load it")
