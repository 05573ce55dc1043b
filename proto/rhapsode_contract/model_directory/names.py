"""The names of the disk contract: models, versions, aliases, and the files beside them."""

import re
import time
from pathlib import PurePosixPath

MODEL_NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
ALIAS_PATTERN = re.compile(r"[a-z][a-z0-9._-]{0,62}")
_VERSION_PATTERN = re.compile(r"[1-9][0-9]{0,17}")
_TRASH_PATTERN = re.compile(r"([1-9][0-9]{0,17})-([0-9]{1,18})")

MANIFEST = "MANIFEST.json"
ALIASES = "aliases.json"
HISTORY = "history.jsonl"
TRAFFIC = "traffic.json"
RATINGS = "ratings.jsonl"
LEASE = ".lease"
STAGING = ".staging"
TRASH = ".trash"

CHAMPION = "champion"
PREVIOUS = "previous"
CANDIDATE = "candidate"
PINNED = "pinned"

PUBLISHABLE_SUFFIXES = frozenset({".html", ".jinja", ".json", ".jsonl", ".md", ".safetensors", ".txt"})


def printable(text: str) -> str:
    """`text` with escapes for what cannot be printed, such as control characters, and bytes that are not UTF-8."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def check_model_name(name: str) -> str:
    """Returns `name`, or raises ValueError when it cannot name a model."""
    if not MODEL_NAME_PATTERN.fullmatch(name):
        raise ValueError(
            f"model name {name!r}: use 1 to 63 of a-z, 0-9, '.', '_' and '-', beginning with a letter or a digit"
        )
    return name


def check_alias(alias: str) -> str:
    """Returns `alias`, or raises ValueError when it cannot be one (it begins with a letter, unlike a version)."""
    if not ALIAS_PATTERN.fullmatch(alias):
        raise ValueError(f"alias {alias!r}: use 1 to 63 of a-z, 0-9, '.', '_' and '-', beginning with a letter")
    return alias


def check_publishable(file: str) -> str:
    """Returns `file`, or raises ValueError when a file of this name has no place in a version (pickles above all)."""
    suffix = PurePosixPath(file).suffix.lower()
    if suffix not in PUBLISHABLE_SUFFIXES:
        raise ValueError(
            f"{file!r} cannot be published: a version holds only {', '.join(sorted(PUBLISHABLE_SUFFIXES))} files "
            "(weights as safetensors, never as a pickle)"
        )
    if file == MANIFEST:
        raise ValueError(f"{file!r} cannot be published: the publisher writes it itself, last of all")
    return file


def parse_version(name: str) -> int | None:
    """The version that a folder of this name holds; None when the name is not a decimal without leading zero."""
    return int(name) if _VERSION_PATTERN.fullmatch(name) else None


def trash_name(version: int) -> str:
    """The name of `version` in the trash, thrown away now: version and Unix time in seconds."""
    return f"{version}-{int(time.time())}"


def parse_trash_name(name: str) -> tuple[int, int] | None:
    """The inverse of `trash_name`: (version, Unix time); None for a foreign entry."""
    match = _TRASH_PATTERN.fullmatch(name)
    return (int(match[1]), int(match[2])) if match else None
