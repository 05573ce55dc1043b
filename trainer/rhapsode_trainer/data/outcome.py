"""What readers hand on: rows, and what is wrong with those that cannot be used."""

from collections.abc import Iterator
from typing import NamedTuple


class Row(NamedTuple):
    """The values of one row in the order of the fields asked for: the text, and the prompt where there are prompts."""

    where: str
    values: tuple[object, ...]


class Line(NamedTuple):
    """A row whose values are texts of an acceptable size."""

    where: str
    values: tuple[str, ...]


class Problem(NamedTuple):
    """A row that cannot be used. `reason` is general, to be counted; `detail` is particular, to be read."""

    where: str
    reason: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}" + (f" {self.detail}" if self.detail else "")


Rows = Iterator[Row | Problem]
