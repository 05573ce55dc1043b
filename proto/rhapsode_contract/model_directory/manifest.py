"""MANIFEST.json: what a version consists of. A folder is a version only if its manifest verifies."""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from . import files
from .errors import VerificationError
from .names import MANIFEST, check_publishable
from .outward import leads_out

SCHEMA_VERSION = 1
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FIELDS = frozenset({"schema_version", "dtype", "parameter_count", "files"})
_DTYPE = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """One file of a version: its sha256 in hexadecimal and its size in bytes."""

    sha256: str
    size: int

    def __post_init__(self) -> None:
        if not (isinstance(self.sha256, str) and _SHA256.fullmatch(self.sha256)):
            raise ValueError(f"sha256: {self.sha256!r} is not 64 lower-case hexadecimal digits")
        _check_count("size", self.size, minimum=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Every file of a version except the manifest itself, by its relative path with slashes."""

    schema_version: int
    dtype: str
    parameter_count: int
    files: Mapping[str, FileRecord]

    def __post_init__(self) -> None:
        if self.schema_version != SCHEMA_VERSION or isinstance(self.schema_version, bool):
            raise ValueError(f"schema_version: {self.schema_version!r} is not {SCHEMA_VERSION}")
        if not (isinstance(self.dtype, str) and _DTYPE.fullmatch(self.dtype)):
            raise ValueError(f"dtype: {self.dtype!r} is not the name of a tensor type such as 'float32'")
        _check_count("parameter_count", self.parameter_count, minimum=1)
        if not self.files:
            raise ValueError("files: a version holds at least one file")
        for name in self.files:
            _check_name(name)


def read_manifest(path: Path) -> Manifest:
    """Parses the manifest of the version at `path` without looking at the files. Raises VerificationError."""
    try:
        document = json.loads(files.read_file(path / MANIFEST))
        manifest = Manifest(
            schema_version=document["schema_version"],
            dtype=document["dtype"],
            parameter_count=document["parameter_count"],
            files={
                name: FileRecord(sha256=record["sha256"], size=record["size"])
                for name, record in document["files"].items()
            },
        )
        _check_whole(document)
        return manifest
    except (FileNotFoundError, NotADirectoryError):
        raise VerificationError(path, "missing_manifest", MANIFEST, "there is none: not (yet) a version") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise VerificationError(path, "bad_manifest", MANIFEST, f"{type(error).__name__}: {error}") from error


def verify_version(path: Path) -> Manifest:
    """Proves every file of the version at `path` by size and sha256. Raises VerificationError.

    A file that the manifest does not list, a symbolic link and any other special file are a `foreign_file`, and so is
    one that leads to files elsewhere.
    """
    manifest = read_manifest(path)
    try:
        _verify_names(path, manifest)
        if outward := leads_out(path):
            raise VerificationError(path, "foreign_file", *outward)
        for name, record in manifest.files.items():
            _verify_file(path, name, record)
    except FileNotFoundError as error:
        name = os.path.relpath(error.filename, path)
        raise VerificationError(path, "missing_file", name, "vanished while it was being read") from None
    return manifest


def seal(path: Path, *, dtype: str, parameter_count: int) -> Manifest:
    """Makes everything below `path` durable and writes its manifest, last of all.

    Raises ValueError, naming the file, when something there cannot be part of a version.
    """
    present = dict(files.walk_files(path))
    for name, regular in present.items():
        if not regular:
            raise ValueError(f"{name!r} cannot be published: it is not a regular file")
        check_publishable(name)
    if outward := leads_out(path):
        raise ValueError(f"{outward[0]!r} cannot be published: {outward[1]}")
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        dtype=dtype,
        parameter_count=parameter_count,
        files={name: _record(path / name) for name in present},
    )
    for folder in sorted({parent for name in present for parent in PurePosixPath(name).parents}, reverse=True):
        files.sync_directory(path / folder)
    document = asdict(manifest)
    document["checksum"] = _checksum(document)
    files.write_file(path / MANIFEST, json.dumps(document, indent=2).encode() + b"\n")
    files.sync_directory(path)
    return manifest


def _record(path: Path) -> FileRecord:
    sha256, size = files.hash_file(path, sync=True)
    return FileRecord(sha256=sha256, size=size)


def _verify_names(path: Path, manifest: Manifest) -> None:
    present = dict(files.walk_files(path))
    for name, regular in present.items():
        if not regular:
            raise VerificationError(path, "foreign_file", name, "not a regular file")
        if name not in manifest.files and name != MANIFEST:
            raise VerificationError(path, "foreign_file", name, "not listed in the manifest")
    for name in manifest.files.keys() - present.keys():
        raise VerificationError(path, "missing_file", name, "listed in the manifest but not there")


def _verify_file(path: Path, name: str, record: FileRecord) -> None:
    size = (path / name).lstat().st_size
    if size != record.size:
        raise VerificationError(path, "hash_mismatch", name, f"{size} bytes instead of {record.size}")
    sha256, _ = files.hash_file(path / name)
    if sha256 != record.sha256:
        raise VerificationError(path, "hash_mismatch", name, f"sha256 {sha256} instead of {record.sha256}")


def _check_whole(document: Any) -> None:
    """The manifest proves itself too; those of earlier releases have no checksum. Any other field is a damaged name."""
    if unknown := document.keys() - _FIELDS - {"checksum"}:
        raise ValueError(f"{sorted(unknown)[0]!r} is not a field of a manifest")
    if "checksum" in document and document["checksum"] != _checksum(document):
        raise ValueError("checksum: it is not that of the other fields")


def _checksum(document: Mapping[str, Any]) -> str:
    """sha256 in hexadecimal of all other fields, as JSON with sorted keys and without white space."""
    others = {name: value for name, value in document.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(others, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _check_count(field: str, value: int, *, minimum: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise ValueError(f"{field}: {value!r} is not an integer of at least {minimum}")


def _check_name(name: str) -> None:
    """A manifest is read before it is trusted: no name in it may point out of the version, or be that of a pickle."""
    is_inside = not any(part in ("", ".", "..") for part in name.split("/"))
    if name == MANIFEST or not is_inside or not name.isprintable():
        raise ValueError(f"files: {name!r} is not a path inside the version")
    check_publishable(name)
