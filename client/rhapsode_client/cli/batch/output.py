"""The files that a batch writes: a line of JSON for each completion, and for each failure in a file apart."""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from rhapsode_client import Completion, InvalidRequest, RhapsodeError
from rhapsode_client.cli.batch.lines import ItemId
from rhapsode_client.cli.terminal import as_json, json_line, note, write

_BEGINNING = b'{"id": '


def done_ids(path: Path) -> set[ItemId]:
    """The ids that `path` has completions of, none if there is no such file. Mends a last line that was cut off.

    ValueError: the file is not of a batch; it is left as it is.
    """
    ids: set[ItemId] = set()
    if not path.is_file():
        return ids
    end = 0
    with path.open("r+b") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                _check_cut_off(line, f"{path}:{number}")
                break
            ids.add(_done_id(line, f"{path}:{number}"))
            end += len(line)
        file.truncate(end)
    return ids


class Outputs:
    """Where completions and failures go. Use it in a `with` block.

    `completions`: a file to append to, None: standard output. `failures`: a file for those of this run alone, which
    is there only if there are any; None: standard error. Raises OSError and, for a file of others, ValueError.
    """

    def __init__(self, completions: Path | None, failures: Path | None) -> None:
        if failures is not None:
            _discard(failures)
        self._failures_path = failures
        self._failures: TextIO | None = None
        self._completions = _appending(completions) if completions is not None else None

    def complete(self, id: ItemId, completion: Completion) -> None:
        """Writes a completion."""
        line = json_line(as_json(completion, id=id))
        if self._completions is None:
            write(line)
        else:
            _append(self._completions, line)

    def fail(self, id: ItemId, line: int, error: RhapsodeError) -> None:
        """Writes why there is none."""
        record = json_line({"id": id, "line": line, "error": _described(error)})
        if self._failures_path is None:
            note(record.removesuffix("\n"))
        else:
            self._failures = self._failures or _appending(self._failures_path)
            _append(self._failures, record)

    def __enter__(self) -> "Outputs":
        return self

    def __exit__(self, *_: object) -> None:
        for file in (self._completions, self._failures):
            if file is not None:
                file.close()


def _appending(path: Path) -> TextIO:
    # A lone surrogate becomes its escape, which is what JSON calls it.
    return path.open("a", encoding="utf-8", errors="backslashreplace")


def _append(file: TextIO, line: str) -> None:
    file.write(line)
    file.flush()


def _discard(path: Path) -> None:
    """Removes the failures of an earlier run."""
    with suppress(FileNotFoundError):
        with path.open("rb") as file:
            _check_cut_off(file.read(len(_BEGINNING)), str(path))
        os.unlink(path)


def _described(error: RhapsodeError) -> Mapping[str, object]:
    described: dict[str, object] = {"kind": type(error).__name__, "message": str(error)}
    if isinstance(error, InvalidRequest):
        described["violations"] = [each._asdict() for each in error.violations]
    if error.request_id:
        described["request_id"] = error.request_id
    return described


def _check_cut_off(line: bytes, where: str) -> None:
    # A file system that lost power may have lengthened the file by bytes that it had not written.
    beginning = line.rstrip(b"\0")[: len(_BEGINNING)]
    if beginning != _BEGINNING[: len(beginning)]:
        raise ValueError(f"{where} is not of a batch; name another file")


def _done_id(line: bytes, where: str) -> ItemId:
    try:
        record: Any = json.loads(line)
        if isinstance(record["id"], ItemId) and "finish_reason" in record:
            return record["id"]
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    raise ValueError(f"{where} is not a completion of a batch; name another file")
