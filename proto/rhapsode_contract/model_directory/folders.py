"""The model directory as a reader sees it, and the one way in which an alias or the traffic moves."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .aliases import moved, read_aliases, write_aliases
from .errors import CorruptFile, LinkedModel, NoSuchAlias, NoSuchModel, NoSuchVersion
from .history import append_history, append_record, read_records
from .names import (
    ALIASES,
    HISTORY,
    MANIFEST,
    RATINGS,
    STAGING,
    TRAFFIC,
    TRASH,
    check_alias,
    check_model_name,
    parse_trash_name,
    parse_version,
)
from .traffic import check_weights, read_traffic, traffic_record, write_traffic

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .lease import Intervention, Lease


@dataclass(frozen=True, slots=True)
class ModelDirectory:
    """A folder of models; it need not exist yet, and may be a symbolic link, unlike anything in it."""

    root: Path

    def models(self) -> list[str]:
        """The names of the models, sorted. Whatever does not look like a model is passed over.

        Raises OSError when the directory itself is there but cannot be read.
        """
        return sorted(name for name in _names(self.root) if self._holds_model(name))

    def model(self, name: str) -> ModelFolder:
        """The folder of a model, which need not exist yet. Raises ValueError for an invalid name, LinkedModel."""
        folder = ModelFolder(self.root / check_model_name(name))
        if folder.path.is_symlink():
            raise LinkedModel(f"{folder.path}: a symbolic link, which is not followed: put the model itself there")
        return folder

    def _holds_model(self, name: str) -> bool:
        """A link to a model counts as one: whoever opens it learns that it is not followed."""
        marks = (ALIASES, HISTORY, STAGING)
        try:
            folder = ModelFolder(self.root / check_model_name(name))
            return any((folder.path / mark).exists() for mark in marks) or bool(folder.versions())
        except ValueError:
            return False
        except OSError:
            return True  # it cannot be looked at: whoever opens it learns why, and other models do not notice


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """One model: its versions, aliases, traffic and history. Reading needs no lease."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    def versions(self) -> list[int]:
        """The versions that have a manifest, ascending; `verify_version` proves what is behind it."""
        return [version for version in self.version_numbers() if self._complete(version)]

    def version_numbers(self) -> list[int]:
        """All numbers taken by anything at all, complete or not, ascending."""
        return sorted(version for version in map(parse_version, _names(self.path)) if version is not None)

    def trash(self) -> dict[int, int]:
        """The versions in the trash, each with the Unix time in seconds at which it was thrown away."""
        return dict(filter(None, map(parse_trash_name, _names(self.path / TRASH))))

    def version_path(self, version: int) -> Path:
        """The folder of a version. Raises NoSuchModel or NoSuchVersion."""
        if not self._complete(version):
            self._require_model()
            raise NoSuchVersion(f"{self.name} has no version {version}; it has {_listed(self.versions())}")
        return self.path / str(version)

    def aliases(self) -> dict[str, int]:
        """The version of each alias; empty when none was ever set. Raises CorruptFile."""
        return read_aliases(self.path / ALIASES)

    def resolve(self, alias: str) -> int:
        """The version that an alias stands for. Raises NoSuchModel or NoSuchAlias."""
        aliases = self.aliases()
        if alias not in aliases:
            self._require_model()
            raise NoSuchAlias(f"{self.name} has no alias {alias!r}; it has {_listed(sorted(aliases))}")
        return aliases[alias]

    def traffic(self) -> dict[int, int]:
        """The weight of each version that has one, in proportion to which requests are split; empty: nobody set any.

        A version may be gone since, and a weight may be 0, but never all of them. Raises CorruptFile.
        """
        return read_traffic(self.path / TRAFFIC)

    def history(self) -> list[dict[str, Any]]:
        """What was decided, oldest first, each with time, actor and reason. Raises CorruptFile.

        A move of an alias has alias, from (null: it is new) and to (null: it was dropped); a split has traffic, the
        weights by version (none: they were removed).
        """
        return read_records(self.path / HISTORY)

    def ratings(self) -> list[dict[str, Any]]:
        """What people said of pairs of versions, oldest first. Raises CorruptFile."""
        return read_records(self.path / RATINGS)

    def add_rating(self, record: Mapping[str, Any], *, lease: Lease) -> None:
        """Records durably what people said: versions never change, so it stands beside them. Raises LeaseLost."""
        with lease.guard(self):
            append_record(self.path / RATINGS, record)

    def set_alias(self, alias: str, version: int, *, lease: Lease | Intervention, actor: str, reason: str) -> None:
        """Moves an alias; the champion that is replaced becomes `previous`. Where it stands already, nothing happens.

        Raises ValueError (not an alias), NoSuchModel, NoSuchVersion, LeaseLost, LeaseHeld.
        """
        check_alias(alias)
        self._require_model()
        with lease.guard(self):
            self.version_path(version)
            before = self.aliases()
            if before.get(alias) == version:
                return
            # A crash between the two leaves a move without a record: the next record's `from` shows it.
            write_aliases(self.path / ALIASES, moved(before, alias, version))
            append_history(
                self.path / HISTORY,
                alias=alias,
                from_version=before.get(alias),
                to_version=version,
                actor=actor,
                reason=reason,
            )

    def drop_alias(self, alias: str, *, lease: Lease | Intervention, actor: str, reason: str) -> None:
        """Removes an alias. Where there is none, nothing happens.

        Raises ValueError (not an alias), NoSuchModel, LeaseLost, LeaseHeld.
        """
        check_alias(alias)
        self._require_model()
        with lease.guard(self):
            aliases = self.aliases()
            version = aliases.pop(alias, None)
            if version is None:
                return
            write_aliases(self.path / ALIASES, aliases)
            append_history(
                self.path / HISTORY, alias=alias, from_version=version, to_version=None, actor=actor, reason=reason
            )

    def set_traffic(self, weights: Mapping[int, int], *, lease: Lease | Intervention, actor: str, reason: str) -> None:
        """Splits requests between versions in proportion to `weights`; no weights remove the split.

        What cannot be understood is written anew. Raises ValueError (naming the weight), NoSuchModel, NoSuchVersion,
        LeaseLost, LeaseHeld.
        """
        check_weights(weights)
        self._require_model()
        with lease.guard(self):
            for version in weights:
                self.version_path(version)
            if weights == self._understood_traffic():
                return
            write_traffic(self.path / TRAFFIC, weights)
            append_record(self.path / HISTORY, traffic_record(weights, actor=actor, reason=reason))

    def _understood_traffic(self) -> dict[int, int] | None:
        try:
            return self.traffic()
        except CorruptFile:
            return None

    def _complete(self, version: int) -> bool:
        path = self.path / str(version)
        return (path / MANIFEST).is_file() and not path.is_symlink()

    def _require_model(self) -> None:
        if not self.path.is_dir():
            raise NoSuchModel(f"no model {self.name!r} in {self.path.parent}")


def _names(path: Path) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return [entry.name for entry in entries]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        if error.errno == errno.ELOOP:
            return []
        raise


def _listed(items: list[int] | list[str]) -> str:
    return ", ".join(map(str, items)) or "none"
