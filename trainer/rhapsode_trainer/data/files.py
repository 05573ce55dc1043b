"""Which files a source means, in which order, and what is in them."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from glob import glob, has_magic
from importlib import resources
from pathlib import Path

from ..errors import ConfigError
from .settings import SourceConfig

_PACKAGE_SCHEME = "package:"
_FORMAT_OF_SUFFIX = {
    ".txt": "text",
    ".jsonl": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
    ".wp_source": "fairseq",
}


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file to be read. `name` is what messages and the lineage call it."""

    name: str
    path: Path
    format: str

    @property
    def stories(self) -> "InputFile":
        """The other file of a fairseq pair: prompts are in `x.wp_source`, stories in `x.wp_target`."""
        return InputFile(str(Path(self.name).with_suffix(".wp_target")), self.path.with_suffix(".wp_target"), "fairseq")


def find_files(source: SourceConfig) -> list[InputFile]:
    """The files of a source by name, so that the order is the same wherever and whenever they are listed.

    Raises ConfigError where there is none, or one of no known format.
    """
    if source.path.startswith(_PACKAGE_SCHEME):
        return [_shipped(source)]
    path = Path(source.path)
    if has_magic(source.path):
        paths = [Path(name) for name in glob(source.path, recursive=True) if Path(name).is_file()]
    elif path.is_dir():
        paths = [entry for entry in _visible(path) if _matches(entry, source.format)]
    else:
        paths = [path]
    if not paths:
        raise ConfigError(f"data: no file of format {source.format} in {source.path}")
    return [_input_file(path, source.format) for path in sorted(paths, key=lambda path: path.as_posix())]


def hash_file(file: InputFile) -> Iterator[tuple[str, str]]:
    """Name and sha256 of the file, or of both files of a fairseq pair. Raises ConfigError if it cannot be read."""
    for part in (file, file.stories) if file.format == "fairseq" else (file,):
        try:
            with part.path.open("rb") as stream:
                yield part.name, hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise ConfigError(f"data: cannot read {part.name}: {error.strerror}") from None


def _visible(folder: Path) -> Iterator[Path]:
    """Names with a dot in front are not for us: half-copied files, and the versions behind a mounted volume."""
    for path in folder.rglob("*"):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path


def _matches(path: Path, wanted: str) -> bool:
    known = _FORMAT_OF_SUFFIX.get(path.suffix)
    return known is not None and wanted in ("auto", known)


def _input_file(path: Path, wanted: str) -> InputFile:
    known = _FORMAT_OF_SUFFIX.get(path.suffix) if wanted == "auto" else wanted
    if known is None:
        raise ConfigError(f"data: cannot tell the format of {path} by its name; set format of the source")
    return InputFile(str(path), path, known)


def _shipped(source: SourceConfig) -> InputFile:
    relative = source.path.removeprefix(_PACKAGE_SCHEME)
    path = Path(str(resources.files(__package__))) / relative
    return InputFile(source.path, path, _input_file(path, source.format).format)
