"""What a set of requirements comes to in this environment: themselves and all that they ask for in turn."""

from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


class NotInstalledError(Exception):
    """Something that is asked for is not in this environment."""


def dependencies(lines: Iterable[str]) -> dict[str, Distribution]:
    """The distributions by canonical name, those that markers and extras call for. Raises NotInstalledError."""
    found: dict[str, Distribution] = {}
    waiting, seen = [Requirement(line) for line in lines], set()
    while waiting:
        asked = waiting.pop()
        name = canonicalize_name(asked.name)
        if (name, key := frozenset(asked.extras)) not in seen:
            seen.add((name, key))
            found[name] = _find(name)
            further = map(Requirement, found[name].requires or ())
            waiting += [each for each in further if _applies(each, asked.extras)]
    return found


def _applies(requirement: Requirement, extras: Iterable[str]) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras))


def _find(name: str) -> Distribution:
    try:
        return distribution(name)
    except PackageNotFoundError:
        raise NotInstalledError(f"{name} is not installed here: run `make install`") from None
