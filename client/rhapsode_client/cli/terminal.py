"""Standard input, output and error: UTF-8 in, plain text out, and nothing a server says drives the terminal."""

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any, TextIO

import typer

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

# C0 but for tab and newline, DEL, and C1: what could move the cursor or rewrite the title.
_CONTROLS = dict.fromkeys(code for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\t\n")


def printable(text: str, stream: TextIO) -> str:
    """`text` as it may be written to `stream`: raw, but without control characters on a terminal."""
    return text.translate(_CONTROLS) if stream.isatty() else text


def write(text: str) -> None:
    """To standard output, at once."""
    sys.stdout.write(printable(text, sys.stdout))
    sys.stdout.flush()


def write_json(value: Any) -> None:
    """One line of JSON to standard output."""
    write(json_line(value))


def json_line(value: Any) -> str:
    """One line of JSON, with its end."""
    return json.dumps(value, ensure_ascii=False, default=_json_of) + "\n"


def note(text: str, *, faint: bool = False) -> None:
    """A line to standard error; `faint` on a terminal that has colours."""
    line = printable(text, sys.stderr)
    if faint and sys.stderr.isatty() and _has_colours():
        line = f"\x1b[2m{line}\x1b[0m"
    print(line, file=sys.stderr, flush=True)


def _has_colours() -> bool:
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"


def as_json(value: "DataclassInstance", **extra: object) -> dict[str, object]:
    """The fields of a result, after those of `extra`."""
    return {**extra, **asdict(value)}


def read_all() -> str:
    """Standard input to its end, without its final newline."""
    return _decoded(sys.stdin.buffer.read()).removesuffix("\n")


def read_lines() -> Iterator[str]:
    """Standard input, line by line, without the newlines."""
    for line in sys.stdin.buffer:
        yield _decoded(line).removesuffix("\n")


def ready_streams() -> None:
    """Characters that the terminal's encoding lacks become `?`, and a stream that was closed is one of nothing."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream: Any = getattr(sys, name) or open(os.devnull, mode, encoding="utf-8")  # noqa: SIM115  (lives as long as we)
        setattr(sys, name, stream)
        stream.reconfigure(errors="replace")


def abandon_output() -> None:
    """Nobody reads standard output any more: the interpreter's last flush must not fail on it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _json_of(value: datetime | bytes) -> str:
    """Times in ISO 8601; bytes as the text that they are, but for what is no UTF-8."""
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value.isoformat()


def _decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise typer.BadParameter(f"standard input is not UTF-8: {error.reason} at byte {error.start}") from None
