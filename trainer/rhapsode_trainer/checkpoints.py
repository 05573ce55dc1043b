"""Checkpoints on disk: what a run needs to go on after it was stopped. They are never served and never published.

    <path>/checkpoint-<step>/     written by the caller; MANIFEST.json, last of all, lists size and sha256 of each file
    <path>/.staging/              where a checkpoint is written before it is renamed

A checkpoint counts only if its manifest verifies and names the same `key`: that of another recipe or of other data is
passed over, and removed when this run has one of its own. A crash at any moment leaves those before it as they were.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from rhapsode_contract.model_directory import FileRecord, files
from safetensors import SafetensorError

from .errors import CheckpointError

_MANIFEST = "MANIFEST.json"
_STAGING = ".staging"
_NAME = re.compile(r"checkpoint-(0|[1-9][0-9]*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoints:
    """The checkpoints of one run in the folder `path`, which need not exist yet. One process writes.

    `warn` is told about each checkpoint that is passed over.
    """

    path: Path
    key: str
    keep: int = 2
    warn: Callable[[str], None] = lambda message: None

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise ValueError(f"keep: {self.keep!r} is less than 1")

    def newest(self) -> Path | None:
        """The checkpoint to go on from: the newest that is whole and ours; none: begin at the beginning."""
        for step in self._steps():
            path = self._at(step)
            problem = self._problem(path)
            if problem is None:
                return path
            self.warn(f"{path} is passed over: {problem}")
        return None

    def staging(self, step: int) -> Path:
        """The folder in which `save` lets the checkpoint of `step` be written."""
        return self.path / _STAGING / f"checkpoint-{step}"

    def save(self, step: int, write: Callable[[Path], None]) -> Path:
        """Lets `write` fill a folder and makes it the newest checkpoint; only the newest `keep` stay.

        Raises CheckpointError when the disk refuses, for instance because it is full.
        """
        staging, path = self.staging(step), self._at(step)
        with self._refused_by_the_disk(path):
            self._sweep()
            files.make_directory(staging)
            write(staging)
            self._seal(staging)
            if path.exists():  # of another run, or damaged: nobody goes on from it
                files.remove_tree(path)
            files.move_directory(staging, path)
        self._retain(step)
        return path

    def clear(self) -> None:
        """Removes everything; for after the model was published."""
        with suppress(FileNotFoundError):
            files.remove_tree(self.path)

    def _at(self, step: int) -> Path:
        return self.path / f"checkpoint-{step}"

    def _steps(self) -> list[int]:
        """The steps of all checkpoints, whole or not, newest first."""
        if not self.path.is_dir():
            return []
        matches = (_NAME.fullmatch(entry.name) for entry in self.path.iterdir())
        return sorted((int(match[1]) for match in matches if match), reverse=True)

    def _problem(self, path: Path) -> str | None:
        """Why nobody should go on from a checkpoint."""
        try:
            manifest = json.loads((path / _MANIFEST).read_bytes())
            if manifest["key"] != self.key:
                return "it belongs to a run with another recipe, other data or other code"
            records = {name: FileRecord(**record) for name, record in manifest["files"].items()}
            return _difference(path, records)
        except FileNotFoundError as error:
            return f"{Path(error.filename).name} is missing"
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            return f"{type(error).__name__}: {error}"

    def _seal(self, staging: Path) -> None:
        records = {name: _record(staging / name, sync=True) for name, _ in files.walk_files(staging)}
        for folder in {parent for name in records for parent in PurePosixPath(name).parents}:
            files.sync_directory(staging / folder)
        manifest = {"key": self.key, "files": {name: asdict(record) for name, record in records.items()}}
        files.write_file(staging / _MANIFEST, json.dumps(manifest, indent=2).encode())
        files.sync_directory(staging)

    def _sweep(self) -> None:
        with suppress(FileNotFoundError):
            files.remove_tree(self.path / _STAGING)

    def _retain(self, newest: int) -> None:
        """Removes all but the newest whole ones. A failure here costs space, not safety."""
        ours = [step for step in self._steps() if step <= newest and self._is_ours(step)]
        for step in set(self._steps()) - set(ours[: self.keep]):
            with suppress(OSError):
                files.remove_tree(self._at(step))

    def _is_ours(self, step: int) -> bool:
        try:
            return bool(json.loads((self._at(step) / _MANIFEST).read_bytes())["key"] == self.key)
        except (OSError, ValueError, TypeError, KeyError):
            return False

    @contextmanager
    def _refused_by_the_disk(self, path: Path) -> Iterator[None]:
        """safetensors and torch have errors of their own for a disk that is full."""
        try:
            yield
        except (OSError, SafetensorError, RuntimeError) as error:
            with suppress(OSError):
                self._sweep()
            raise CheckpointError(
                f"cannot write {path} ({_free(self.path)}): {error}. The checkpoints before it are as they were."
            ) from error


def _record(path: Path, *, sync: bool = False) -> FileRecord:
    sha256, size = files.hash_file(path, sync=sync)
    return FileRecord(sha256=sha256, size=size)


def _difference(path: Path, records: dict[str, FileRecord]) -> str | None:
    for name, record in records.items():
        if _record(path / name) != record:
            return f"{name} is not what was written"
    return None


def _free(path: Path) -> str:
    try:
        return f"{shutil.disk_usage(path).free:,} bytes are free there"
    except OSError:
        return "the folder is not there"
