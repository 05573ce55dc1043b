"""The versions that a person can choose from."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from rhapsode_client import Model, ModelVersion, VersionState

_ANSWERING = (VersionState.READY, VersionState.SERVING)
_NEVER = (VersionState.QUARANTINED, VersionState.UNKNOWN)


class Choice(NamedTuple):
    """A version of a model; None: the one that requests without a version go to. No name: the server's default."""

    model: str = ""
    version: int | None = None


def choices(models: Iterable[Model]) -> dict[Choice, str]:
    """Every choice with its label: each model as it is served, then its versions, newest first."""
    found = {}
    for model in models:
        found[Choice(model.name)] = f"{model.name} \u00b7 as served"
        for version in sorted(model.versions, key=lambda each: each.version, reverse=True):
            if version.state not in _NEVER:
                found[Choice(model.name, version.version)] = _label(model.name, version, model.aliases)
    return found or {Choice(): "no model yet"}


def to_compare(found: Sequence[Choice]) -> tuple[Choice, Choice] | None:
    """The two newest versions of a model, the older first, else two models; None: there is only one answer to have."""
    for newer, older in pairwise(found):
        if newer.version and older.version and newer.model == older.model:
            return older, newer
    as_served = [choice for choice in found if choice.version is None]
    return (as_served[0], as_served[1]) if len(as_served) > 1 else None


def _label(model: str, version: ModelVersion, aliases: Mapping[str, int]) -> str:
    names = [alias for alias, number in aliases.items() if number == version.version]
    state = [] if version.state in _ANSWERING else [version.state.value]
    return " \u00b7 ".join([f"{model} {version.version}", *names, *state])
