"""traffic.json: how requests are split, such as {"schema_version": 1, "weights": {"12": 90, "13": 10}}."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import files
from .errors import CorruptFile
from .names import parse_version

SCHEMA_VERSION = 1
MAX_WEIGHT = 2**32 - 1
"""What the wire contract can say."""


def read_traffic(path: Path) -> dict[int, int]:
    """The weights by version, ascending, in the file at `path`; none when there is no file. Raises CorruptFile."""
    try:
        return dict(sorted(_parse(json.loads(files.read_file(path))).items()))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise CorruptFile(f"{path}: {error}; set the traffic anew, or remove the file") from error


def write_traffic(path: Path, weights: Mapping[int, int]) -> None:
    """Replaces the file at `path` atomically and durably; without weights removes it."""
    document = {"schema_version": SCHEMA_VERSION, "weights": _by_name(weights)}
    if weights:
        files.replace_file(path, json.dumps(document, indent=2).encode() + b"\n")
    else:
        files.remove_file(path)


def traffic_record(weights: Mapping[int, int], *, actor: str, reason: str) -> dict[str, Any]:
    """What the history says of a new split."""
    return {"traffic": _by_name(weights), "actor": actor, "reason": reason}


def check_weights(weights: Mapping[int, int]) -> None:
    """Raises ValueError, naming the version, unless requests can be split by `weights`; no weights are in order."""
    for version, weight in weights.items():
        if not isinstance(weight, int) or isinstance(weight, bool) or not 0 <= weight <= MAX_WEIGHT:
            raise ValueError(f"weight of version {version}: {weight!r} is not an integer from 0 to {MAX_WEIGHT}")
    if weights and not any(weights.values()):
        raise ValueError("weights: all of them are 0: at least one version needs a positive one")


def _parse(document: Any) -> dict[int, int]:
    if not isinstance(document, dict) or not isinstance(document.get("weights"), dict):
        raise ValueError('not an object such as {"schema_version": 1, "weights": {"12": 90, "13": 10}}')
    schema_version = document.get("schema_version")
    if schema_version != SCHEMA_VERSION or isinstance(schema_version, bool):
        raise ValueError(f"schema_version: {schema_version!r} is not {SCHEMA_VERSION}")
    weights = {_version(name): weight for name, weight in document["weights"].items()}
    check_weights(weights)
    return weights


def _version(name: str) -> int:
    version = parse_version(name)
    if version is None:
        raise ValueError(f"weights: {name!r} is not the number of a version")
    return version


def _by_name(weights: Mapping[int, int]) -> dict[str, int]:
    return {str(version): weight for version, weight in sorted(weights.items())}
