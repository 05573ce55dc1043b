"""A model folder at a URL, on any filesystem that fsspec knows: every failure names the URL of the file."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from rhapsode_contract.model_directory import FileRecord, files
from rhapsode_contract.model_directory.names import ALIASES, MANIFEST, STAGING, check_alias, parse_version

from .errors import ConfigError, TrainerError

_CHUNK_BYTES = 1 << 20


class TransferError(TrainerError):
    """A version or the aliases did not arrive; the message names the URL or the path of the file."""


@dataclass(frozen=True, slots=True)
class Remote:
    """The folder of one model. Files are named relative to it, with slashes."""

    filesystem: Any
    root: str

    @classmethod
    def open(cls, url: str, name: str) -> Self:
        """The folder of the model `name` below `url`. Raises ConfigError for a URL that no library here understands."""
        from fsspec.core import url_to_fs

        try:
            filesystem, path = url_to_fs(url)
        except (ValueError, ImportError, OSError) as error:
            raise ConfigError(f"cannot open a URL of the kind {url.partition(':')[0]!r}: {error}") from None
        filesystem.invalidate_cache()
        return cls(filesystem, f"{path.rstrip('/')}/{name}")

    def url(self, file: str = "") -> str:
        """For messages: without the credentials that the URL may have carried."""
        return str(self.filesystem.unstrip_protocol(self._path(file))).rstrip("/")

    def versions(self) -> list[int]:
        """The versions that have a manifest, ascending."""
        with self._naming(""):
            try:
                names = [path.rstrip("/").rpartition("/")[2] for path in self.filesystem.ls(self.root, detail=False)]
            except FileNotFoundError:
                return []
            numbers = sorted(version for version in map(parse_version, names) if version is not None)
            return [version for version in numbers if self.filesystem.exists(self._path(f"{version}/{MANIFEST}"))]

    def aliases(self) -> dict[str, int]:
        """The version of each alias; empty when there are none."""
        document = self.read(ALIASES)
        if document is None:
            return {}
        try:
            return {check_alias(alias): _check_version(version) for alias, version in json.loads(document).items()}
        except (ValueError, AttributeError, RecursionError) as error:
            raise TransferError(f"{self.url(ALIASES)}: not an object of aliases and versions: {error}") from None

    def write_aliases(self, aliases: Mapping[str, int]) -> None:
        """Replaces all of them at once."""
        self.replace(ALIASES, json.dumps(aliases, indent=2, sort_keys=True).encode() + b"\n")

    def files(self, folder: str) -> set[str]:
        """The names of everything below `folder`, relative to it."""
        path = self._path(folder) + "/"
        with self._naming(folder):
            names = {str(found).removeprefix(path) for found in self.filesystem.find(path)}
        for name in names:
            if name.startswith("/") or ".." in name.split("/"):
                raise TransferError(f"{self.url(folder)}: lists {name!r}, which is not below it")
        return names

    def read(self, file: str) -> bytes | None:
        """A small file; None when there is none."""
        with self._naming(file):
            try:
                content = bytes(self.filesystem.cat_file(self._path(file), start=0, end=files.SMALL_FILE + 1))
            except FileNotFoundError:
                return None
        if len(content) > files.SMALL_FILE:
            raise TransferError(f"{self.url(file)}: more than {files.SMALL_FILE} bytes")
        return content

    def replace(self, file: str, content: bytes) -> None:
        """A small file, whole or not at all: by rename where the filesystem has it, else by a copy that is atomic."""
        temporary = f"{STAGING}/{file.replace('/', '-')}"
        with self._naming(file):
            self._make_parents(temporary, file)
            self.filesystem.pipe_file(self._path(temporary), content)
            self.filesystem.mv(self._path(temporary), self._path(file))

    def remove(self, file: str) -> None:
        with self._naming(file):
            self.filesystem.rm_file(self._path(file))

    def upload(self, local: Path, file: str, record: FileRecord) -> None:
        """Sends a file and reads it back, unless it is there as recorded."""
        if self._holds(file, record):
            return
        with self._naming(file):
            self._make_parents(file)
            self.filesystem.put_file(str(local), self._path(file))
        if not self._holds(file, record):
            raise TransferError(f"{self.url(file)}: arrived damaged: read back, it is not what was sent")

    def download(self, file: str, local: Path, record: FileRecord) -> None:
        """Fetches a file, unless it is at `local` as recorded."""
        if local.is_file() and files.hash_file(local) == (record.sha256, record.size):
            return
        with self._naming(file):
            size = self.filesystem.size(self._path(file))
        if size != record.size:
            raise TransferError(f"{self.url(file)}: {size} bytes instead of {record.size}")
        files.make_directory(local.parent)
        with self._naming(file):
            self.filesystem.get_file(self._path(file), str(local))

    def _holds(self, file: str, record: FileRecord) -> bool:
        path = self._path(file)
        with self._naming(file):
            try:
                return bool(self.filesystem.size(path) == record.size and self._hash(path) == record.sha256)
            except FileNotFoundError:
                return False

    def _hash(self, path: str) -> str:
        digest = hashlib.sha256()
        with self.filesystem.open(path, "rb") as opened:
            while chunk := opened.read(_CHUNK_BYTES):
                digest.update(chunk)
        return digest.hexdigest()

    def _make_parents(self, *names: str) -> None:
        for name in names:
            self.filesystem.makedirs(self._path(name).rpartition("/")[0], exist_ok=True)

    def _path(self, file: str) -> str:
        return f"{self.root}/{file}" if file else self.root

    @contextmanager
    def _naming(self, file: str) -> Iterator[None]:
        """Backends raise errors of their own; whatever it is, it happened with this file."""
        try:
            yield
        except Exception as error:
            raise TransferError(f"{self.url(file)}: {type(error).__name__}: {error}") from error


def _check_version(version: object) -> int:
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ValueError(f"{version!r} is not a version")
    return version
