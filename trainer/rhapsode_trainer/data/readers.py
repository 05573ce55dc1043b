"""One reader for each file format: each yields the rows of a file one by one, and a Problem where a row is unusable.

`fields` names the text and, where there are prompts, the prompt; a format without names has its own places for them.
What makes the rest of a file meaningless raises DataError.
"""

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import zip_longest
from types import MappingProxyType
from typing import Any

from ..errors import DataError
from .files import InputFile
from .lines import decode, read_lines
from .outcome import Problem, Row, Rows

Reader = Callable[[InputFile, Sequence[str], int], Rows]


def read_text(file: InputFile, fields: Sequence[str], limit: int) -> Rows:
    """Each line, with its line break."""
    for where, line in read_lines(file.path, file.name, limit):
        text = decode(where, line)
        yield text if isinstance(text, Problem) else Row(where, (text.replace("\r\n", "\n"),))


def read_jsonl(file: InputFile, fields: Sequence[str], limit: int) -> Rows:
    """Each line is an object; blank lines are passed over."""
    for where, line in read_lines(file.path, file.name, limit):
        text = decode(where, line)
        if isinstance(text, Problem):
            yield text
        elif text.strip():
            yield _parse_json(where, text, fields)


def _parse_json(where: str, text: str, fields: Sequence[str]) -> Row | Problem:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return Problem(where, "not JSON:", str(error))
    if not isinstance(value, dict):
        return Problem(where, "not a JSON object")
    missing = [field for field in fields if value.get(field) is None]
    if missing:
        return Problem(where, f"no text in the field {missing[0]!r}")
    return Row(where, tuple(value[field] for field in fields))


def read_csv(file: InputFile, fields: Sequence[str], limit: int) -> Rows:
    """The first row names the columns. A quoted value may hold line breaks."""
    lines = _CsvLines(file, limit)
    csv.field_size_limit(limit)  # of the process; Python's own is 128 KiB
    columns: list[str] = []
    places: list[int] = []
    for row in _csv_rows(lines):
        if lines.problem is not None:
            yield lines.take_problem(inside=len(row) > 0)
        elif row and not columns:
            columns, places = row, _places(lines.where, row, fields)
        elif row:
            yield _pick(lines.where, row, len(columns), places)


def _csv_rows(lines: "_CsvLines") -> Iterator[list[str]]:
    rows = csv.reader(lines, strict=True)
    while True:
        lines.begin_row()
        try:
            yield next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(f"{lines.where}: not CSV: {error}; the rows from here on cannot be told apart") from None


class _CsvLines:
    """Feeds lines to csv.reader and remembers where the present row began and whether a line of it is too long.

    Bytes that are not UTF-8 become surrogates: they are found once the row, which may have many lines, is complete.
    """

    def __init__(self, file: InputFile, limit: int) -> None:
        self._lines = read_lines(file.path, file.name, limit)
        self._at_start = True
        self.where = file.name
        self.problem: Problem | None = None

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        where, line = next(self._lines)
        if self._at_start:
            self.where, self._at_start = where, False
        if isinstance(line, Problem):
            self.problem = line
            return "\n"
        return line.decode(errors="surrogateescape")

    def begin_row(self) -> None:
        self._at_start = True

    def take_problem(self, *, inside: bool) -> Problem:
        """The problem, once. A line missing from the middle of a row leaves rows that cannot be told apart."""
        problem, self.problem = self.problem, None
        assert problem is not None
        if inside:
            raise DataError(f"{problem}; it is part of the row that begins at {self.where}")
        return problem


def _places(where: str, header: Sequence[str], fields: Sequence[str]) -> list[int]:
    for field in fields:
        if header.count(field) != 1:
            raise DataError(f"{where}: {header.count(field)} columns {field!r}; there are: {', '.join(header)}")
    return [header.index(field) for field in fields]


def _pick(where: str, row: Sequence[str], columns: int, places: Sequence[int]) -> Row | Problem:
    if len(row) != columns:
        return Problem(where, "not as many values as columns:", f"{len(row)} and {columns}")
    return Row(where, tuple(row[place] for place in places))


def read_parquet(file: InputFile, fields: Sequence[str], limit: int) -> Rows:
    """Rows are counted from 1. A few are in memory at a time."""
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file.path) as table:
            _check_columns(file.name, table.schema_arrow.names, fields)
            number = 0
            for batch in table.iter_batches(batch_size=64, columns=list(fields)):
                for values in zip(*(batch.column(field).to_pylist() for field in fields), strict=True):
                    number += 1
                    yield _parquet_row(f"{file.name}, row {number}", values, fields)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{file.name}: not Parquet: {error}") from None


def _parquet_row(where: str, values: Sequence[Any], fields: Sequence[str]) -> Row | Problem:
    if None in values:
        return Problem(where, f"no text in the field {fields[values.index(None)]!r}")
    return Row(where, tuple(values))


def _check_columns(name: str, columns: Sequence[str], fields: Sequence[str]) -> None:
    missing = [field for field in fields if field not in columns]
    if missing:
        raise DataError(f"{name}: no column {missing[0]!r}; there are: {', '.join(columns)}")


def read_fairseq(file: InputFile, fields: Sequence[str], limit: int) -> Rows:
    """Line n of `x.wp_source` is the prompt of line n of `x.wp_target`; where no prompts are wanted it is left out."""
    prompts = read_lines(file.path, file.name, limit)
    stories = read_lines(file.stories.path, file.stories.name, limit)
    counts = [0, 0]
    for prompt, story in zip_longest(prompts, stories):
        counts[0] += prompt is not None
        counts[1] += story is not None
        if prompt and story:
            yield _pair(story, prompt, with_prompt=len(fields) > 1)
    if counts[0] != counts[1]:
        raise DataError(f"{file.name} has {counts[0]} lines, {file.stories.name} has {counts[1]}: they are no pairs")


def _pair(story: tuple[str, bytes | Problem], prompt: tuple[str, bytes | Problem], with_prompt: bool) -> Row | Problem:
    values = []
    for where, line in (story, prompt) if with_prompt else (story,):
        text = decode(where, line)
        if isinstance(text, Problem):
            return text
        values.append(text.rstrip("\r\n"))
    return Row(story[0], tuple(values))


READERS: Mapping[str, Reader] = MappingProxyType(
    {
        "text": read_text,
        "jsonl": read_jsonl,
        "csv": read_csv,
        "parquet": read_parquet,
        "fairseq": read_fairseq,
    }
)
