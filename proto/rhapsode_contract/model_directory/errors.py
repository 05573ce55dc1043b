"""What can go wrong with a model directory.

    ModelDirectoryError
    +-- VerificationError   a version is not what its MANIFEST.json says
    +-- CorruptFile         aliases.json, traffic.json or history.jsonl cannot be understood
    +-- LeaseHeld           somebody else is publishing this model
    +-- LeaseLost           our lease ran out or was taken over: nothing more may be written
    +-- LinkedModel         the folder of a model is a symbolic link
    +-- NoSuchModel
    +-- NoSuchVersion
    +-- NoSuchAlias

Invalid arguments (a model name, an alias, a file that may not be published) are ValueErrors.
"""
# ruff: noqa: N818 - the names say what happened

from pathlib import Path
from typing import Literal

from .names import printable

Reason = Literal["missing_file", "hash_mismatch", "missing_manifest", "bad_manifest", "foreign_file"]


class ModelDirectoryError(Exception):
    """Root of everything that the model directory raises about its own state."""


class VerificationError(ModelDirectoryError):
    """A version failed verification: `reason` names how, `file` the file (relative to the version, with slashes).

    All of it can be printed: a file may have any name.
    """

    def __init__(self, version: Path, reason: Reason, file: str, detail: str) -> None:
        super().__init__(version, reason, file, detail)
        self.version = version
        self.reason: Reason = reason
        self.file = printable(file)
        self.detail = printable(detail)

    def __str__(self) -> str:
        return f"{printable(str(self.version))}: {self.reason}: {self.file}: {self.detail}"


class CorruptFile(ModelDirectoryError):
    """A file of the model folder cannot be understood; the message names it."""


class LeaseHeld(ModelDirectoryError):
    """Another publisher holds the lease of this model.

    `heartbeat` is its token and the time of its last heartbeat; None when it is in the middle of a step.
    """

    def __init__(self, message: str, *, heartbeat: tuple[str, float] | None = None) -> None:
        super().__init__(message)
        self.heartbeat = heartbeat


class LeaseLost(ModelDirectoryError):
    """The lease ran out or belongs to somebody else now."""


class LinkedModel(ModelDirectoryError):
    """The folder of the model is a symbolic link, which could lead anywhere: it is not followed."""


class NoSuchModel(ModelDirectoryError):
    """The directory holds no model of this name."""


class NoSuchVersion(ModelDirectoryError):
    """The model has no such version."""


class NoSuchAlias(ModelDirectoryError):
    """The model has no such alias."""
