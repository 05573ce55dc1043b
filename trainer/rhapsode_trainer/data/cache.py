"""A cache of token ids: one safetensors file for each key, never trusted before its hash is checked."""

import hashlib
import os
from array import array
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ..errors import ConfigError

_KEEP = 12  # files; a run has one for each part of its corpus
_HASH = "sha256"

Entry = tuple[Sequence[int], int]
Tensors = Mapping[str, NDArray[Any]]


class TokenCache:
    """The entry of `folder` for `key`, a hexadecimal digest. The file holds the hash of its own content and the key."""

    def __init__(self, folder: Path, key: str) -> None:
        self._folder = folder
        self._key = key
        self._path = folder / f"tokens-{key}.safetensors"

    def load(self) -> list[Entry] | None:
        """The ids and first target of each document; None if there is no such file or it is damaged."""
        try:
            tensors: Tensors = load(self._path.read_bytes())
            if tensors[_HASH].tobytes() != self._hash(tensors):
                return None
            os.utime(self._path)  # the oldest are deleted first
            return _unpack(tensors)
        except (OSError, SafetensorError, KeyError, ValueError):
            return None

    def save(self, entries: Sequence[Entry]) -> None:
        """Writes the file, whole or not at all, and deletes the oldest. Raises ConfigError if that fails."""
        tensors = _pack(entries)
        hashed = np.frombuffer(self._hash(tensors), dtype=np.uint8)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._replace(save({**tensors, _HASH: hashed}))
            self._prune()
        except OSError as error:
            raise ConfigError(f"{self._folder}: cannot write the token cache: {error.strerror}") from None

    def _hash(self, tensors: Tensors) -> bytes:
        digest = hashlib.sha256(self._key.encode())
        for name in ("lengths", "first_targets", "ids"):
            digest.update(tensors[name].tobytes())
        return digest.digest()

    def _replace(self, raw: bytes) -> None:
        with NamedTemporaryFile(dir=self._folder, prefix="tokens-", suffix=".tmp", delete=False) as file:
            try:
                file.write(raw)
                file.flush()
                os.replace(file.name, self._path)
            except OSError:
                with suppress(OSError):
                    os.unlink(file.name)
                raise

    def _prune(self) -> None:
        """Keeps the newest; among the others are temporary files of runs that were killed."""
        files = sorted(self._folder.glob("tokens-*"), key=_changed, reverse=True)
        for path in files[_KEEP:]:
            path.unlink(missing_ok=True)


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # another process was faster
        return 0.0


def _pack(entries: Sequence[Entry]) -> dict[str, NDArray[Any]]:
    ids = [np.asarray(ids, dtype=np.int32) for ids, _ in entries]
    return {
        "ids": np.concatenate(ids) if ids else np.empty(0, dtype=np.int32),
        "lengths": np.array([len(part) for part in ids], dtype=np.int64),
        "first_targets": np.array([first for _, first in entries], dtype=np.int64),
    }


def _unpack(tensors: Tensors) -> list[Entry]:
    parts = np.split(tensors["ids"], np.cumsum(tensors["lengths"])[:-1])
    firsts = tensors["first_targets"].tolist()
    # An empty cache splits into one empty part.
    return [(array("i", part.tobytes()), first) for part, first in zip(parts, firsts, strict=False)]
