"""Files of JSON objects, one a line, only ever appended to; history.jsonl: who moved what, when and why."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from . import files
from .errors import CorruptFile


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of the file at `path`, oldest first; none when there is no file. Raises CorruptFile.

    A last line without its newline is one that a crash has torn, and is left out.
    """
    try:
        *complete, _torn = files.read_file(path, limit=None).split(b"\n")
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise CorruptFile(f"{path}: {error}") from error
    return [_parse(path, number, line) for number, line in enumerate(complete, start=1)]


def append_history(
    path: Path, *, alias: str, from_version: int | None, to_version: int | None, actor: str, reason: str
) -> None:
    """Records durably that `alias` has moved; `from` is null when it is new, `to` when it was dropped."""
    record = {
        "alias": alias,
        "from": from_version,
        "to": to_version,
        "actor": actor,
        "reason": reason,
    }
    append_record(path, record)


def append_record(path: Path, record: Mapping[str, Any]) -> None:
    """Adds a line durably, with the `time` before the rest: UTC in ISO 8601. One writer at a time."""
    time = datetime.now(UTC).isoformat(timespec="milliseconds")
    files.append_line(path, json.dumps({"time": time, **record}).encode())


def _parse(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CorruptFile(f"{path}, line {number}: not JSON: {error}") from error
    if not isinstance(record, dict):
        raise CorruptFile(f"{path}, line {number}: not a JSON object")
    return record
