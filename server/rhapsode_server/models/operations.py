"""What an operator does to the models of one server."""

import asyncio
import time
from collections.abc import Mapping

from rhapsode_server.errors import NotPossible, VersionNotFound
from rhapsode_server.models.model import ServedModel
from rhapsode_server.models.served import TrafficOverride


async def set_traffic(model: ServedModel, weights: Mapping[int, int], *, ttl: float, reason: str, holds: bool) -> None:
    """Raises VersionNotFound, NotPossible. Times in seconds."""
    for number in weights:
        _check_known(model, number)
        _check_allowed(model, number)
    based_on = None if holds else dict(model.fleet.weights)
    override = TrafficOverride(weights=dict(weights), expires_at=time.time() + ttl, reason=reason, based_on=based_on)
    await model.records.set_override(model.name, override)
    model.look()


async def clear_traffic(model: ServedModel) -> None:
    """Raises NotPossible."""
    await model.records.set_override(model.name, None)
    model.look()


async def rollback(model: ServedModel, *, ttl: float, reason: str) -> None:
    """Raises NotPossible."""
    usable = {*model.found.paths, *model.versions} - model.quarantine.numbers - model.split.versions
    target = next((number for number in model.fallbacks() if number in usable), None)
    if target is None:
        raise NotPossible(f"{model.name} has no version to go back to that is whole and not quarantined")
    await set_traffic(model, {target: 1}, ttl=ttl, reason=reason, holds=False)


async def load_version(model: ServedModel, number: int, *, ttl: float) -> None:
    """Until it is ready. Raises VersionNotFound, NotPossible."""
    _check_known(model, number)
    await model.records.set_loaded(model.name, number, time.time() + ttl)
    model.try_again(number)
    model.look()
    if number in model.loads:
        await asyncio.wait([model.loads[number]])
    if number in model.quarantine:
        raise NotPossible(f"version {number} of {model.name} is quarantined ({model.quarantine.refusal(number)})")


async def unload_version(model: ServedModel, number: int) -> None:
    """Raises VersionNotFound, NotPossible."""
    if number not in model.versions:
        raise VersionNotFound(f"version {number} of {model.name} is not loaded")
    if number in {*model.split.versions, *model.decision.weights}:
        raise NotPossible(f"version {number} of {model.name} has traffic, or is kept for it; move that first")
    await model.records.set_loaded(model.name, number, None)
    model.kept_until.pop(number, None)
    model.look()


def _check_known(model: ServedModel, number: int) -> None:
    if number not in model.found.paths and number not in model.versions:
        known = ", ".join(map(str, sorted(model.found.paths))) or "none"
        raise VersionNotFound(f"{model.name} has no version {number}; it has {known}")


def _check_allowed(model: ServedModel, number: int) -> None:
    if number in model.quarantine:
        refusal = model.quarantine.refusal(number)
        raise NotPossible(f"version {number} of {model.name} is quarantined ({refusal}); to try it again, load it")
