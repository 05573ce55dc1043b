"""aliases.json: the names under which versions are served, such as {"champion": 12, "previous": 11}."""

import json
from collections.abc import Mapping
from pathlib import Path

from . import files
from .errors import CorruptFile
from .names import ALIAS_PATTERN, CHAMPION, PREVIOUS, parse_version


def read_aliases(path: Path) -> dict[str, int]:
    """The aliases in the file at `path`; none when there is no file. Raises CorruptFile."""
    try:
        aliases = json.loads(files.read_file(path))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise CorruptFile(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(aliases, dict) or not all(_valid(alias, version) for alias, version in aliases.items()):
        raise CorruptFile(f'{path}: expected an object of aliases and version numbers such as {{"champion": 12}}')
    return aliases


def write_aliases(path: Path, aliases: Mapping[str, int]) -> None:
    """Replaces the file at `path` atomically and durably."""
    files.replace_file(path, json.dumps(aliases, indent=2, sort_keys=True).encode() + b"\n")


def moved(aliases: Mapping[str, int], alias: str, version: int) -> dict[str, int]:
    """The aliases after `alias` has moved to `version`: a replaced champion becomes the previous one."""
    replaced = aliases.get(alias, version)
    previous = {PREVIOUS: replaced} if alias == CHAMPION and replaced != version else {}
    return {**aliases, **previous, alias: version}


def _valid(alias: str, version: object) -> bool:
    number = not isinstance(version, bool) and isinstance(version, int)
    return number and parse_version(str(version)) == version and ALIAS_PATTERN.fullmatch(alias) is not None
