"""From rows to documents: checking values, joining lines, cleaning."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise

from .cleaning import clean
from .lines import too_long
from .outcome import Line, Problem, Rows

Lines = Iterator[Line | Problem]


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A text to learn, the prompt it answers ("" for none), and where it was found."""

    text: str
    prompt: str = ""
    where: str = ""


def check_rows(rows: Rows, limit: int) -> Lines:
    """Rows whose values are texts of Unicode characters and of at most `limit` bytes together."""
    for row in rows:
        yield row if isinstance(row, Problem) else _check(row.where, row.values, limit)


def _check(where: str, values: tuple[object, ...], limit: int) -> Line | Problem:
    texts = []
    for value in values:
        if not isinstance(value, str):
            return Problem(where, "not a text but", type(value).__name__)
        texts.append(value)
    try:
        size = sum(len(text.encode()) for text in texts)
    except UnicodeEncodeError:  # a surrogate, from a byte that is not UTF-8 or an escape without its other half
        return Problem(where, "not UTF-8:", "or half a character")
    return too_long(where, limit) if size > limit else Line(where, tuple(texts))


def join_lines(lines: Lines, heading: str, limit: int) -> Lines:
    """One document of all lines, or, where there is a heading, one from each heading to the next.

    A heading is a line that matches and stands between blank lines: without that rule, formulas pass for headings.
    """
    pattern = re.compile(heading) if heading else None
    document, after_blank = _Joined(limit), True
    for line, following in pairwise(chain(lines, (None,))):
        if line is None or isinstance(line, Problem):
            if line is not None:
                yield line
            continue
        text = line.values[0]
        if pattern and after_blank and _is_blank(following) and pattern.match(text.rstrip("\n")):
            yield from document.finish()
            document = _Joined(limit)
        if not pattern or document.parts or text.strip():
            document.add(line.where, text)
        after_blank = not text.strip()
    yield from document.finish()


def _is_blank(line: Line | Problem | None) -> bool:
    return line is None or (isinstance(line, Line) and not line.values[0].strip())


@dataclass(slots=True)
class _Joined:
    """Lines of one document. Beyond the limit they are counted, not kept."""

    limit: int
    where: str = ""
    size: int = 0
    parts: list[str] = field(default_factory=list)

    def add(self, where: str, text: str) -> None:
        text = text if text.endswith("\n") else text + "\n"
        self.where = self.where or where
        self.size += len(text.encode())
        if self.size <= self.limit:
            self.parts.append(text)
        else:
            self.parts.clear()

    def finish(self) -> Lines:
        if self.size > self.limit:
            yield too_long(self.where, self.limit)
        elif self.parts:
            yield Line(self.where, ("".join(self.parts),))


def make_documents(lines: Lines, steps: Sequence[str]) -> Iterator[Document | Problem]:
    """Cleaned documents. One without any text is a problem."""
    for line in lines:
        yield line if isinstance(line, Problem) else _make_document(line, steps)


def _make_document(line: Line, steps: Sequence[str]) -> Document | Problem:
    if not line.values[0].strip():
        return Problem(line.where, "empty text")
    text, *prompt = (clean(value, steps) for value in line.values)
    if not text.strip():
        return Problem(line.where, "empty text after cleaning")
    return Document(text=text, prompt="".join(prompt), where=line.where)
