"""What the checks of all parts share. Each yields a violation for each field at fault, by its path in the request."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from rhapsode_server.errors import FieldViolation, InvalidRequest

Violations = Iterator[FieldViolation]

# More than an answer has room for.
_MOST_VIOLATIONS = 17


def raise_if_any(violations: Iterable[FieldViolation]) -> None:
    """Raises InvalidRequest with as many of them as an answer may name."""
    if found := list(islice(violations, _MOST_VIOLATIONS)):
        raise InvalidRequest(found)


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from `least`, itself excluded if `above`, to `most`."""

    least: float
    most: float
    above: bool = False

    def check(self, field: str, value: float) -> Violations:
        # Written so that NaN, which compares as false with everything, is out of range.
        if not self.least <= value <= self.most or (self.above and value == self.least):
            bounds = f"above {self.least:g} and at most" if self.above else f"from {self.least:g} to"
            yield FieldViolation(field, f"must be {bounds} {self.most:g}, not {value:g}")


def too_many(field: str, count: int, most: int, unit: str = "") -> Violations:
    """One violation if there are more than `most`."""
    if count > most:
        yield FieldViolation(field, f"at most {most}{unit}, not {count}")


def unknown_token_id(ids: Sequence[int], field: str, vocabulary_size: int) -> Violations:
    """The first of `ids` that the vocabulary does not have, if there is one."""
    if ids and max(ids) >= vocabulary_size:
        index = next(index for index, token_id in enumerate(ids) if token_id >= vocabulary_size)
        yield FieldViolation(f"{field}[{index}]", f"{ids[index]} is not below the vocabulary size, {vocabulary_size}")


def token_ids(ids: Sequence[int], field: str, most: int, vocabulary_size: int) -> Violations:
    """Too many of them, or else the first unknown one."""
    if len(ids) > most:
        yield from too_many(field, len(ids), most)
    else:
        yield from unknown_token_id(ids, field, vocabulary_size)


def texts(given: Sequence[str], field: str, most: int, most_characters: int) -> Violations:
    """Too many of them, and those that are empty or too long."""
    yield from too_many(field, len(given), most)
    for index, text in enumerate(given[:most]):
        if not 1 <= len(text) <= most_characters:
            description = f"must have 1 to {most_characters} characters, not {len(text)}"
            yield FieldViolation(f"{field}[{index}]", description)
