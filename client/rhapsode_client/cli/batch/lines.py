"""The lines of a batch: JSON objects, each with a prompt, perhaps an id, and any of `GenerateOptions`."""

import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from rhapsode_client import GenerateOptions, InvalidRequest
from rhapsode_client.arguments import Prompt
from rhapsode_client.cli.files import STDIN

ItemId = str | int
_OPTIONS = frozenset(GenerateOptions.__annotations__)


@dataclass(frozen=True, slots=True)
class Line:
    """A line as it was read, and its number, from 1."""

    number: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """What a line asks for."""

    id: ItemId
    """Its own, else the number of its line."""
    prompt: Prompt
    options: GenerateOptions


def lines_of(path: Path) -> Iterator[Line]:
    """Lazily, without their ends. Bytes that are not UTF-8 become surrogates, which no request takes.

    Raises OSError.
    """
    # A file object of its own: a thread may wait for standard input while the program ends.
    with open(0 if path == STDIN else path, encoding="utf-8", errors="surrogateescape", closefd=path != STDIN) as file:
        for number, text in enumerate(file, 1):
            yield Line(number, text.removesuffix("\n"))


def num_lines(path: Path) -> int | None:
    """How many lines that are not empty `path` has; None where they can be read only once."""
    if path == STDIN or not stat.S_ISREG(os.stat(path).st_mode):
        return None
    with path.open("rb") as file:
        return sum(not line.isspace() for line in file)


def item_id(line: Line) -> ItemId:
    """The id of a line, were it good or bad."""
    try:
        given = json.loads(line.text)["id"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return line.number
    return given if _is_id(given) else line.number


def read_item(line: Line) -> Item:
    """Raises InvalidRequest that names the field at fault."""
    fields = _object(line.text)
    own_id, prompt = fields.pop("id", line.number), fields.pop("prompt", None)
    if not _is_id(own_id):
        raise InvalidRequest.of("id", f"must be a text or a whole number, not {own_id!r}")
    if not isinstance(prompt, str | list):
        raise InvalidRequest.of("prompt", "must be a text, a list of token ids or a list of messages")
    if unknown := sorted(fields.keys() - _OPTIONS):
        raise InvalidRequest.of(unknown[0], "no such option")
    if isinstance(biases := fields.get("logit_bias"), Mapping):
        fields["logit_bias"] = _by_token(biases)
    return Item(id=own_id, prompt=prompt, options=cast(GenerateOptions, fields))


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest.of("line", f"is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidRequest.of("line", "must be a JSON object")
    return value


def _is_id(value: object) -> bool:
    return isinstance(value, ItemId) and not isinstance(value, bool)


def _by_token(biases: Mapping[str, float]) -> Mapping[int, float]:
    """JSON has texts as keys only."""
    try:
        return {int(token): bias for token, bias in biases.items()}
    except ValueError as error:
        raise InvalidRequest.of("logit_bias", f"keys must be token ids: {error}") from None
