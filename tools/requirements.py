"""Prints what a distribution of this repository asks of others, and its siblings with it: a line each, for pip.

python tools/requirements.py server
python tools/requirements.py trainer[text,lora]

Standard library only: images run it before anything is installed.
"""

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SIBLINGS = {"rhapsode-contract": "proto", "rhapsode-client": "client"}
TARGET = re.compile(r"([a-z-]+)(?:\[([\w,-]*)\])?")


class UnknownExtraError(Exception):
    """The distribution has no extra of this name."""


def requirements(target: str, root: Path = ROOT) -> set[str]:
    """Of a folder, with extras in brackets, and of the siblings that it names. Raises UnknownExtraError."""
    match = TARGET.match(target)
    assert match, target
    folder, extras = match[1], [extra for extra in (match[2] or "").split(",") if extra]
    found = set()
    for line in _asked_for(root / folder / "pyproject.toml", extras):
        name = re.split(r"[^\w.-]", line, maxsplit=1)[0]
        found |= requirements(SIBLINGS[name] + line[len(name) :], root) if name in SIBLINGS else {line}
    return found


def _asked_for(path: Path, extras: list[str]) -> Iterator[str]:
    project = tomllib.loads(path.read_text("utf-8"))["project"]
    yield from project["dependencies"]
    for extra in extras:
        try:
            yield from project.get("optional-dependencies", {})[extra]
        except KeyError:
            raise UnknownExtraError(f"{project['name']} has no extra {extra!r}") from None


if __name__ == "__main__":
    try:
        print("\n".join(sorted(requirements(sys.argv[1]))))
    except UnknownExtraError as error:
        sys.exit(f"requirements: {error}")
