"""history.jsonl: which alias moved, when, by whom and why; one JSON object a line, only ever appended to."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from . import files
from .errors import CorruptFile


def read_history(path: Path) -> list[dict[str, Any]]:
    """The records of the file at `path`, oldest first; none when there is no file. Raises CorruptFile.

    A last line without its newline is one that a crash has torn, and is left out.
    """
    try:
        *complete, _torn = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    return [_parse(path, number, line) for number, line in enumerate(complete, start=1)]


def append_history(
    path: Path, *, alias: str, from_version: int | None, to_version: int, actor: str, reason: str
) -> None:
    """Records durably that `alias` has moved; `time` is UTC in ISO 8601, `from` null when the alias is new."""
    record = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "alias": alias,
        "from": from_version,
        "to": to_version,
        "actor": actor,
        "reason": reason,
    }
    files.append_line(path, json.dumps(record).encode())


def _parse(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CorruptFile(f"{path}, line {number}: not JSON: {error}") from error
    if not isinstance(record, dict):
        raise CorruptFile(f"{path}, line {number}: not a JSON object")
    return record
