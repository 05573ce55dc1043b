"""Documents: reading them from JSONL and splitting them into a training and a held-out part."""

import hashlib
import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from ..config import DataConfig
from ..errors import ConfigError, DataError

_PACKAGE_SCHEME = "package:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """The texts of one run. `sha256` is that of the file they come from."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]
    sha256: str

    @property
    def held_out_bytes(self) -> int:
        """Size of the held-out texts in bytes of UTF-8."""
        return sum(len(text.encode()) for text in self.held_out)


def load_corpus(config: DataConfig) -> Corpus:
    """Reads and splits the documents. Raises ConfigError (no such file) and DataError (names file and line)."""
    raw = _read_bytes(config.path)
    texts = _parse(raw, config)
    held_out = [is_held_out(text, config.held_out, config.split_salt) for text in texts]
    corpus = Corpus(
        train=tuple(text for text, out in zip(texts, held_out, strict=True) if not out),
        held_out=tuple(text for text, out in zip(texts, held_out, strict=True) if out),
        sha256=hashlib.sha256(raw).hexdigest(),
    )
    if not corpus.train or not corpus.held_out:
        raise DataError(f"{config.path}: {len(texts)} documents are too few to hold out {config.held_out:.0%} of them")
    return corpus


def is_held_out(text: str, share: float, salt: str) -> bool:
    """Decided by the text alone: it never moves when others come or go, and its duplicates stay on its side."""
    digest = hashlib.sha256((salt + text).encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def _read_bytes(path: str) -> bytes:
    try:
        if path.startswith(_PACKAGE_SCHEME):
            return (resources.files(__package__) / path.removeprefix(_PACKAGE_SCHEME)).read_bytes()
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"data.path: cannot read {path}: {error.strerror}") from None


def _parse(raw: bytes, config: DataConfig) -> list[str]:
    return [
        _parse_line(line, f"{config.path}, line {number}", config.text_field)
        for number, line in enumerate(raw.splitlines(), start=1)
        if line.strip()
    ]


def _parse_line(line: bytes, where: str, field: str) -> str:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where}: not JSON in UTF-8: {error}") from None
    text = row.get(field) if isinstance(row, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{where}: no text in the field {field!r}")
    return text
