"""The sheet: each item a prompt and two texts, side by side in an order that does not tell where they come from."""

import csv
import hashlib
import io
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import get_args

from ..errors import ConfigError
from ..publish.printable import printable
from .key import Key, Version

COLUMNS = ("sheet", "item", "prompt", "left", "right", "rater", "choice")
_TEMPLATE = "sheet.html.jinja"
_FORMULA_STARTS = ("=", "+", "-", "@")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """The three files of a sheet. Only `csv` and `html` are for raters; either will do."""

    csv: Path
    html: Path
    key: Path


def export_sheet(
    folder: Path, pairs: Sequence[tuple[str, str, str]], *, versions: Mapping[str, str], seed: int
) -> Sheet:
    """Writes the sheet for (prompt, text of a, text of b) into `folder`; `versions` names a and b in the key.

    Each version stands on the left in half of the items, drawn by `seed`. Raises ConfigError when there is no pair or
    the folder cannot be written.
    """
    if not pairs:
        raise ConfigError("there is nothing to rate: no prompts")
    left = _draw_sides(len(pairs), seed)
    items = [
        (prompt, a, b) if side == "a" else (prompt, b, a) for (prompt, a, b), side in zip(pairs, left, strict=True)
    ]
    name = hashlib.sha256(json.dumps(items).encode()).hexdigest()[:12]
    key = Key(sheet=name, versions=versions, seed=seed, left=left)
    sheet = Sheet(csv=folder / "sheet.csv", html=folder / "sheet.html", key=folder / "key.json")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sheet.csv.write_text(_as_csv(name, items), encoding="utf-8-sig", newline="")
        sheet.html.write_text(_as_html(name, items), encoding="utf-8")
        sheet.key.write_text(json.dumps(key.as_dict(), indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{error.filename or folder}: cannot be written: {error.strerror}") from None
    return sheet


def _draw_sides(count: int, seed: int) -> tuple[Version, ...]:
    sides = [get_args(Version)[index % 2] for index in range(count)]
    random.Random(seed).shuffle(sides)
    return tuple(sides)


def _as_csv(name: str, items: Sequence[tuple[str, str, str]]) -> str:
    output = io.StringIO()
    writer = csv.writer(output)
    writer.writerow(COLUMNS)
    for number, item in enumerate(items, start=1):
        writer.writerow([name, number, *map(_as_cell, item), "", ""])
    return output.getvalue()


def _as_cell(text: str) -> str:
    """A spreadsheet must take the text for text, and not compute it."""
    text = printable(text)
    return f" {text}" if text.startswith(_FORMULA_STARTS) else text


def _as_html(name: str, items: Sequence[tuple[str, str, str]]) -> str:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((resources.files(__package__) / _TEMPLATE).read_text(encoding="utf-8"))
    texts = [[printable(text) for text in item] for item in items]
    return template.render(sheet={"name": name, "items": texts})
