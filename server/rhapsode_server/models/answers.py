"""Which version of a model answers a request."""

from collections.abc import Mapping

from rhapsode_contract.model_directory import CHAMPION

from rhapsode_server.errors import (
    AliasNotFound,
    Draining,
    Loading,
    NothingPublished,
    Quarantined,
    Unavailable,
    VersionNotFound,
)
from rhapsode_server.models.model import ServedModel
from rhapsode_server.models.served import ServedVersion, VersionState
from rhapsode_server.models.version import Version

# The states other than these lead to serving.
_UNAVAILABLE: Mapping[VersionState, type[Unavailable]] = {
    VersionState.QUARANTINED: Quarantined,
    VersionState.DRAINING: Draining,
    VersionState.UNLOADED: Draining,
}


def answer(model: ServedModel, version: int | None, alias: str | None, key: str) -> ServedVersion:
    """The version or alias asked for; without one, as the traffic is split. Raises NotFound, Unavailable."""
    if version is None and alias in (None, CHAMPION):
        return _by_traffic(model, key)
    number = version if version is not None else _aliased(model, alias or CHAMPION)
    if number not in model.versions:
        served = ", ".join(map(str, sorted(model.split.versions))) or "none yet"
        raise VersionNotFound(f"version {number} of {model.name} is not served here; served: {served}")
    return _served(model.versions[number])


def _by_traffic(model: ServedModel, key: str) -> ServedVersion:
    number = model.split.pick(key, model.roster.live())
    if number is not None:
        return _served(model.versions[number])
    for each in (*model.split.versions, *model.decision.weights, *sorted(model.versions, reverse=True)):
        if each in model.versions:
            raise _why_not(model.versions[each])
    raise NothingPublished(f"{model.name} has no champion yet")


def _aliased(model: ServedModel, alias: str) -> int:
    aliases = model.found.aliases
    if alias not in aliases:
        raise AliasNotFound(f"{model.name} has no alias {alias!r}; it has {', '.join(sorted(aliases)) or 'none'}")
    return aliases[alias]


def _served(version: Version) -> ServedVersion:
    if version.served is None:
        raise _why_not(version)
    return version.served


def _why_not(version: Version) -> Unavailable:
    kind = _UNAVAILABLE.get(version.state, Loading)
    reason = f" ({version.refusal})" if version.refusal else ""
    return kind(f"version {version.number} of {version.model} is {version.state.value}{reason}")
