"""Lines of a file with bounded memory: one that is too long is passed over, not read."""

from codecs import BOM_UTF8
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from .outcome import Problem

_CHUNK = 2**20


def read_lines(path: Path, name: str, limit: int) -> Iterator[tuple[str, bytes | Problem]]:
    """Where each line is, and its bytes with the line break. No more than about `limit` bytes are held."""
    with path.open("rb") as stream:
        number = 0
        while line := stream.readline(limit + 2):
            number += 1
            where = f"{name}, line {number}"
            if number == 1:
                line = line.removeprefix(BOM_UTF8)
            if len(line.rstrip(b"\r\n")) > limit:
                _skip_rest(stream, line)
                yield where, too_long(where, limit)
            else:
                yield where, line


def decode(where: str, line: bytes | Problem) -> str | Problem:
    """The text of a line, if it is UTF-8."""
    if isinstance(line, Problem):
        return line
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        return Problem(where, "not UTF-8:", f"byte 0x{line[error.start]:02x} at place {error.start + 1}")


def too_long(where: str, limit: int) -> Problem:
    """The document that begins at `where` has more than `limit` bytes."""
    return Problem(where, "more bytes than max_document_bytes,", f"{limit:,}")


def _skip_rest(stream: BinaryIO, line: bytes) -> None:
    while line and not line.endswith(b"\n"):
        line = stream.readline(_CHUNK)
