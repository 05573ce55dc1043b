"""What a version says about itself, read without torch."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rhapsode_contract.model_directory import files

from ..config import Recipe, recipe_from
from ..errors import SourceError
from ..evaluation.record import parse_likelihoods
from ..evaluation.scores import Likelihood


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionRecords:
    """The records of one version; a record that it does not have is empty."""

    evaluation: Mapping[str, Any]
    lineage: Mapping[str, Any]
    samples: Sequence[Mapping[str, Any]]
    documents_sha256: str
    likelihoods: Sequence[Likelihood]


def read_records(version: Path) -> VersionRecords:
    """Raises SourceError, naming the file, when a record is there and cannot be understood."""
    likelihoods = read_json(version / "likelihoods.json")
    try:
        documents, parts = parse_likelihoods(likelihoods) if likelihoods else ("", [])
    except (KeyError, TypeError, ValueError) as error:
        raise SourceError(f"{version / 'likelihoods.json'}: not likelihoods of documents: {error!r}") from None
    return VersionRecords(
        evaluation=read_json(version / "evaluation.json"),
        lineage=read_json(version / "lineage.json"),
        samples=read_json_lines(version / "samples.jsonl"),
        documents_sha256=documents,
        likelihoods=parts,
    )


def recorded_recipe(version: Path) -> Recipe:
    """The resolved recipe of the run that made a version. Raises SourceError."""
    lineage = read_json(version / "lineage.json")
    if not lineage.get("recipe"):
        raise SourceError(f"{version}: no recipe in lineage.json: it was not trained here")
    return recipe_from(lineage["config"])


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty when there is no such file. Raises SourceError."""
    return _parse(path, _read(path) or b"{}")


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """JSON objects, one a line; none when there is no such file. Raises SourceError."""
    return [_parse(path, line) for line in _read(path).splitlines()]


def _read(path: Path) -> bytes:
    try:
        return files.read_file(path, limit=None)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise SourceError(f"{path}: {error}") from None


def _parse(path: Path, text: bytes) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path}: not JSON: {error}") from None
    if not isinstance(document, dict):
        raise SourceError(f"{path}: not a JSON object")
    return document


def number(tree: Mapping[str, Any], *names: str) -> float | None:
    """A number somewhere in a record, None when any part of the way to it is missing."""
    value: Any = tree
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return float(value) if isinstance(value, int | float) else None
