"""Files as typed on the command line."""

import os
from pathlib import Path

import typer

STDIN = Path("-")


def readable_file(text: str) -> Path:
    """A file that can be read, or - for standard input."""
    path = Path(text)
    if path == STDIN:
        return path
    if not path.exists():
        raise typer.BadParameter(f"{text} does not exist")
    if path.is_dir() or not os.access(path, os.R_OK):
        raise typer.BadParameter(f"{text} cannot be read")
    return path


def writable_file(text: str) -> Path:
    """A file to write, whether there is one yet or not."""
    path = Path(text)
    if path.is_dir():
        raise typer.BadParameter(f"{text} is a folder")
    return path
