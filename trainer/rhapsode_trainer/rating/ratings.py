"""Ratings that came back: CSV with the columns sheet, item, choice and perhaps rater; others do not matter."""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

from ..errors import DataError
from .key import Key

Choice = Literal["left", "right", "tie"]
_REQUIRED = ("sheet", "item", "choice")
_DELIMITERS = ",;\t"  # a spreadsheet writes what is usual in its country


@dataclass(frozen=True, slots=True, kw_only=True)
class Rating:
    """What one rater said about one item (from 1)."""

    rater: str
    item: int
    choice: Choice


def read_ratings(paths: Sequence[Path], key: Key) -> list[Rating]:
    """The ratings in all files; items without a choice are left out. A rater without a name is called as the file.

    Raises DataError, naming file, line and column: a foreign sheet, an unknown item or choice, a rating given twice.
    """
    seen: dict[tuple[str, int], str] = {}
    ratings: list[Rating] = []
    for path in paths:
        for line, rating in _read_file(path, key):
            where = f"{path}, line {line}"
            before = seen.setdefault((rating.rater, rating.item), where)
            if before != where:
                raise DataError(f"{where}, column item: {rating.rater!r} rated item {rating.item} already ({before})")
            ratings.append(rating)
    if not ratings:
        raise DataError(f"{', '.join(map(str, paths)) or 'no files'}: no item has a choice")
    return ratings


def _read_file(path: Path, key: Key) -> Iterator[tuple[int, Rating]]:
    rows = _rows(path)
    line, header = next(rows, (1, []))
    names = [name.strip().lower() for name in header]
    for name in _REQUIRED:
        if names.count(name) != 1:
            raise DataError(f"{path}, line {line}, column {name}: {names.count(name)} columns of this name, not one")
    for line, row in rows:
        if len(row) != len(names):
            raise DataError(f"{path}, line {line}: {len(row)} cells, but the header has {len(names)}")
        cells = {name: cell.strip() for name, cell in zip(names, row, strict=True)}
        if cells["choice"]:
            yield line, _parse(cells, key, f"{path}, line {line}", path.stem)


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not empty, each with the number of its first line."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}, line {error.object[: error.start].count(10) + 1}: not UTF-8") from None
    header = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(_DELIMITERS, key=header.count), strict=True)
    line = 1
    try:
        for row in reader:
            if any(row):
                yield line, row
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}, line {line}: {error}") from None


def _parse(cells: dict[str, str], key: Key, where: str, file: str) -> Rating:
    item, choice = cells["item"], cells["choice"].lower()
    if cells["sheet"] != key.sheet:
        raise DataError(f"{where}, column sheet: {cells['sheet']!r} is not the sheet of the key, {key.sheet!r}")
    if not (item.isdecimal() and item.isascii() and 1 <= int(item[:9]) <= len(key.left)):
        raise DataError(f"{where}, column item: {item!r} is not a number from 1 to {len(key.left)}")
    if choice not in get_args(Choice):
        raise DataError(f"{where}, column choice: {choice!r} is not left, right or tie (or nothing)")
    return Rating(rater=cells.get("rater") or file, item=int(item[:9]), choice=cast(Choice, choice))
