"""One look at the model directory. Whatever is half-written, foreign or unreadable in it is passed over."""

import hashlib
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from rhapsode_contract.model_directory import ModelDirectory, ModelDirectoryError, files

_DECISIONS = ("aliases.json", "traffic.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScannedModel:
    """A model of the directory: what the fleet decided, and where its complete versions are.

    `decided_at` is when the fleet decided last, in Unix time; `fingerprints` are those of the versions asked for, less
    those whose files cannot be read now.
    """

    name: str
    aliases: Mapping[str, int] = field(default_factory=dict)
    weights: Mapping[int, int] = field(default_factory=dict)
    paths: Mapping[int, Path] = field(default_factory=dict)
    decided_at: float = 0.0
    fingerprints: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A model that cannot be read now, and why."""

    name: str
    why: str


def scan(root: Path, refused: Mapping[str, Collection[int]]) -> list[ScannedModel | Unreadable]:
    """Every model, sorted by name, with the fingerprints of its `refused` versions.

    Raises OSError when the directory itself cannot be read.
    """
    directory = ModelDirectory(root)
    return [_scan_model(directory, name, refused.get(name, ())) for name in directory.models()]


def fingerprint(path: Path) -> str:
    """Of name, size and time of change of every file below `path`: when it differs, a refused version is tried again.

    No link is followed. Raises OSError.
    """
    lines = [f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in _stats(path)]
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def _scan_model(directory: ModelDirectory, name: str, refused: Collection[int]) -> ScannedModel | Unreadable:
    try:
        folder = directory.model(name)
        paths = {number: folder.path / str(number) for number in folder.versions()}
        return ScannedModel(
            name=name,
            aliases=folder.aliases(),
            weights=folder.traffic(),
            paths=paths,
            decided_at=max(_changed_at(folder.path / file) for file in _DECISIONS),
            fingerprints=_fingerprints({number: paths[number] for number in refused if number in paths}),
        )
    except (ModelDirectoryError, OSError) as error:
        return Unreadable(name, str(error))


def _fingerprints(paths: Mapping[int, Path]) -> dict[int, str]:
    found = {}
    for number, path in paths.items():
        with suppress(OSError):
            found[number] = fingerprint(path)
    return found


def _changed_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _stats(path: Path) -> Iterator[tuple[str, os.stat_result]]:
    with suppress(FileNotFoundError):  # what is removed meanwhile makes it another one in any case
        for name, _ in files.walk_files(path):
            yield name, (path / name).lstat()
